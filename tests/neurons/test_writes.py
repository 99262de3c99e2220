"""What neurons and groups of them write to the logits, against the whole matrix."""

import pytest
import torch
from torch import Tensor

from confreg.neurons import writes as module
from confreg.neurons.writes import GroupWrites, NeuronWrites, slices


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=[2**22, 20, 1])
def writes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> NeuronWrites:
    """Of 7 neurons to 30 tokens, whole or in parts."""
    monkeypatch.setattr(module, "ELEMENTS_AT_ONCE", request.param)
    return NeuronWrites(normal(7, 5), normal(30, 5, seed=1))


def test_every_way_to_ask_gives_entries_of_one_matrix(writes: NeuronWrites) -> None:
    whole = writes.w_out @ writes.unembedding.T
    positions, neurons = torch.tensor([0, 3, 3]), torch.tensor([6, 0, 2])
    tokens = torch.tensor([[0, 29], [4, 4], [7, 1]])
    torch.testing.assert_close(writes.to_tokens(slice(4, 9)), whole[:, 4:9])
    torch.testing.assert_close(writes.rows(positions, neurons), whole[neurons])
    torch.testing.assert_close(writes.at(neurons, tokens), whole[neurons.unsqueeze(1), tokens])
    direction = normal(2, 30, seed=2)
    torch.testing.assert_close(writes.along(direction), direction @ whole.T)
    torch.testing.assert_close(writes.along(direction[0]), whole @ direction[0])


def test_extremes_are_those_of_whole_rows_however_they_are_cut(writes: NeuronWrites) -> None:
    whole = writes.w_out @ writes.unembedding.T
    torch.testing.assert_close(writes.extremes[0], whole.min(1).values)
    torch.testing.assert_close(writes.extremes[1], whole.max(1).values)


def test_the_mean_square_is_taken_under_the_prediction_however_it_is_cut(writes: NeuronWrites) -> None:
    probability, whole = normal(4, 30, seed=3).softmax(-1), writes.w_out @ writes.unembedding.T
    expected = [[sum(p * b * b for p, b in zip(of_position, row, strict=True)) for row in whole] for of_position in probability]
    torch.testing.assert_close(writes.mean_square(probability), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("neurons", [slice(2, 5), torch.tensor([4, 2, 2])])
def test_a_part_knows_what_the_whole_knew(writes: NeuronWrites, neurons: slice | Tensor) -> None:
    for known in (False, True):
        if known:
            assert len(writes.extremes) == 2
        part = writes.part(neurons)
        assert ("extremes" in vars(part)) == known
        torch.testing.assert_close(part.to_tokens(slice(None)), (writes.w_out @ writes.unembedding.T)[neurons])
        for found, expected in zip(part.extremes, writes.extremes, strict=True):
            torch.testing.assert_close(found, expected[neurons])


def test_a_matrix_that_is_large_is_never_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ELEMENTS_AT_ONCE", 209)
    assert NeuronWrites(normal(7, 5), normal(30, 5)).matrix is None
    assert NeuronWrites(normal(7, 5), normal(29, 5)).matrix.shape == (7, 29)


def test_a_group_writes_what_its_neurons_write_together_at_each_position() -> None:
    change, unembedding = normal(4, 3, 5), normal(30, 5, seed=1)
    positions, groups = torch.tensor([0, 3, 1]), torch.tensor([2, 0, 0])
    expected = torch.stack([unembedding @ change[position, group] for position, group in ((0, 2), (3, 0), (1, 0))])
    writes = GroupWrites(change, unembedding)
    torch.testing.assert_close(writes.rows(positions, groups), expected)
    part = writes.within(slice(1, 4), slice(0, 2))
    torch.testing.assert_close(part.rows(torch.tensor([2]), torch.tensor([0])), expected[1:2])


@pytest.mark.parametrize(
    ("length", "size", "expected"), [(7, 3, [(0, 3), (3, 6), (6, 7)]), (2, 5, [(0, 2)]), (2, 0, [(0, 1), (1, 2)]), (0, 3, [])]
)
def test_slices_cover_a_length_once_in_parts_of_at_least_one(length: int, size: int, expected: list[tuple[int, int]]) -> None:
    assert [(each.start, each.stop) for each in slices(length, size)] == expected
