"""Which positions of which blocks count."""

import pytest
import torch

from confreg.languages.blocks import Blocks, default_scored, sample_scored


@pytest.fixture
def measured() -> torch.Tensor:
    return torch.randint(0, 9, (5, 8), generator=torch.Generator().manual_seed(0))


def test_by_default_positions_three_to_the_last_but_one_are_scored(measured: torch.Tensor) -> None:
    assert default_scored(measured).tolist() == [[False] * 3 + [True] * 4 + [False]] * 5
    assert torch.equal(Blocks(measured, measured).scored_positions(), default_scored(measured))


def test_a_position_counts_where_neither_its_token_nor_the_next_is_excluded(measured: torch.Tensor) -> None:
    found = Blocks(measured, measured, excluded_ids=(2, 7)).scored_positions()
    for block, row in enumerate(measured.tolist()):
        for position in range(8):
            inside = 3 <= position <= 6
            expected = inside and row[position] not in (2, 7) and row[position + 1] not in (2, 7)
            assert found[block, position].item() == expected


def test_given_positions_are_taken_as_they_are_but_for_the_last(measured: torch.Tensor) -> None:
    scored = torch.zeros(5, 8, dtype=torch.bool)
    scored[0, 0] = scored[3, 5] = scored[:, 7] = True
    found = Blocks(measured, measured, scored=scored, excluded_ids=tuple(range(9))).scored_positions()
    assert found.nonzero().tolist() == [[0, 0], [3, 5]]
    assert scored[:, 7].all()  # the caller's own tensor is left alone


def test_scored_positions_of_another_shape_are_refused_with_both_shapes(measured: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"shape \(5, 7\); expected torch.bool of shape \(5, 8\), that of measured"):
        Blocks(measured, measured, scored=torch.ones(5, 7, dtype=torch.bool)).scored_positions()


def test_scored_positions_that_are_no_booleans_are_refused(measured: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"Blocks\.scored is torch\.int64 of .*expected torch\.bool"):
        Blocks(measured, measured, scored=torch.ones(5, 8, dtype=torch.int64)).scored_positions()


@pytest.mark.parametrize("length", [8, 4])
def test_blocks_without_a_scored_position_are_refused_with_what_to_do(measured: torch.Tensor, length: int) -> None:
    blocks = Blocks(measured, measured[:, :length], excluded_ids=tuple(range(9)) if length == 8 else ())
    with pytest.raises(ValueError, match=r"No scored position .*longer blocks"):
        blocks.scored_positions()


def test_each_block_is_its_own_document_where_none_are_given(measured: torch.Tensor) -> None:
    assert Blocks(measured, measured).clusters().tolist() == [0, 1, 2, 3, 4]


def test_document_ids_become_numbers_without_gaps(measured: torch.Tensor) -> None:
    assert Blocks(measured, measured, documents=torch.tensor([70, 3, 70, 12, 3])).clusters().tolist() == [2, 0, 2, 1, 0]


def test_documents_for_another_number_of_blocks_are_refused(measured: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"has 4 ids; expected one for each of 5 measured blocks"):
        Blocks(measured, measured, documents=torch.arange(4)).clusters()


def test_a_sample_holds_so_many_of_the_scored_positions_of_each_block_or_all_there_are() -> None:
    scored = torch.zeros(3, 40, dtype=torch.bool)
    scored[0, 3:39] = True
    scored[1, 10:13] = True
    found = sample_scored(scored, 5, seed=0)
    assert found.sum(1).tolist() == [5, 3, 0]
    assert not (found & ~scored).any()
    assert torch.equal(found, sample_scored(scored, 5, seed=0))
    assert not torch.equal(found, sample_scored(scored, 5, seed=1))


def test_sampling_leaves_the_global_generator_and_the_given_positions_alone() -> None:
    scored, before = torch.ones(2, 10, dtype=torch.bool), torch.get_rng_state()
    sample_scored(scored, 3, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert scored.all()


def test_every_scored_position_is_drawn_equally_often() -> None:
    scored = torch.zeros(4000, 12, dtype=torch.bool)
    scored[:, 3:11] = True
    shares = sample_scored(scored, 2, seed=0)[:, 3:11].double().mean(0)
    assert (shares - 0.25).abs().max() < 4.5 * (0.25 * 0.75 / 4000) ** 0.5


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ([[1, 2]], "a list"),
        (torch.zeros(2, 5), "torch.float32"),
        (torch.zeros(5, dtype=torch.long), r"shape \(5,\)"),
        (torch.ones(2, 5) > 0, "torch.bool"),
    ],
    ids=["list", "float", "one dimension", "bool"],
)
@pytest.mark.parametrize("name", ["reference", "measured"])
def test_what_are_no_token_ids_is_refused_by_name(measured: torch.Tensor, wrong: object, what: str, name: str) -> None:
    with pytest.raises(ValueError, match=rf"Blocks.{name} is .*{what}.*; expected token ids"):
        Blocks(**{"reference": measured, "measured": measured, name: wrong})


def test_token_ids_of_another_model_are_refused_with_their_range(measured: torch.Tensor) -> None:
    largest = int(measured.max())
    blocks = Blocks(reference=measured, measured=measured)
    blocks.check_vocabulary(largest + 1)
    with pytest.raises(ValueError, match=rf"to {largest}; expected 0 to {largest - 1}, those of the model"):
        blocks.check_vocabulary(largest)
    with pytest.raises(ValueError, match="token ids from -1"):
        Blocks(reference=measured - int(measured.min()) - 1, measured=measured).check_vocabulary(10**6)


def test_documents_that_are_no_tensor_are_refused(measured: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"Blocks\.documents is a list; expected a tensor"):
        Blocks(reference=measured, measured=measured, documents=[0] * len(measured)).clusters()
