"""What an activation is replaced by."""

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from confreg.neurons.replacements import (
    PREPARED,
    Replacement,
    activations_at,
    drawn_reference_positions,
    mean_over_reference_tokens,
    median_over_reference_tokens,
)
from confreg.settings import MeasurementRequest
from confreg.settings.measure import REPLACEMENTS

N_NEURONS, N_SCORED = 3, 20


def reference_batches(*n_blocks: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Batches of blocks of 4 tokens, of different size."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 4, N_NEURONS, generator=generator, dtype=dtype) for n in n_blocks or (2, 1, 5)]


def scored_activations() -> Tensor:
    return torch.randn(N_SCORED, N_NEURONS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def columns_of(batches: Iterable[Tensor]) -> list[list[float]]:
    """Every reference activation of each neuron, as plain numbers."""
    columns: list[list[float]] = [[] for _ in range(N_NEURONS)]
    for batch in batches:
        for block in batch.tolist():
            for position in block:
                for column, value in zip(columns, position, strict=True):
                    column.append(value)
    return columns


def prepared(name: str, batches: list[Tensor], n_scored: int = N_SCORED, **request: float) -> Replacement:
    n_reference = sum(batch.shape[0] * batch.shape[1] for batch in batches)
    return Replacement.of(MeasurementRequest(replacement=name, **request), lambda: batches, n_reference, n_scored)


def test_the_mean_equals_the_loop_over_every_position_of_batches_of_different_size() -> None:
    batches = reference_batches()
    expected = torch.tensor([sum(column) / len(column) for column in columns_of(batches)], dtype=torch.float64)
    torch.testing.assert_close(mean_over_reference_tokens(batches), expected)


def test_the_first_position_of_a_block_counts_like_any_other() -> None:
    activations = torch.zeros(1, 4, 1)
    activations[0, 0] = 8.0
    assert mean_over_reference_tokens([activations]).item() == 2


def test_small_values_are_not_lost_beside_a_long_fp32_sum() -> None:
    batches = (torch.full((1, 1000, 1), value) for value in [1e7] + 99 * [0.5])
    found = mean_over_reference_tokens(batches)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx((1e7 + 99 * 0.5) / 100, rel=1e-12)


def test_no_position_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one reference block"):
        mean_over_reference_tokens([])
    with pytest.raises(ValueError, match="at least one reference block"):
        mean_over_reference_tokens([torch.zeros(0, 4, 3)])
    with pytest.raises(ValueError, match="median_over_reference_tokens got no position; expected at least one reference block"):
        median_over_reference_tokens(list, 0)
    with pytest.raises(ValueError, match="resampled_from_reference_tokens got no position; expected at least one reference block"):
        drawn_reference_positions(0, n_scored=1, n_reference=0)


@pytest.mark.parametrize("n_blocks", [(2, 1, 5), (3,), (1,)])
def test_the_median_is_the_middle_of_the_sorted_values(n_blocks: tuple[int, ...]) -> None:
    batches = [batch[:, 1:] for batch in reference_batches(*n_blocks)] + reference_batches(1)  # 3 per block and 4: odd and even numbers
    expected = []
    for column in columns_of(batches):
        ordered, n = sorted(column), len(column)
        expected.append(ordered[n // 2] if n % 2 else (ordered[n // 2 - 1] + ordered[n // 2]) / 2)
    found = median_over_reference_tokens(lambda: batches, len(columns_of(batches)[0]))
    assert found.tolist() == expected


def test_one_large_value_moves_the_mean_and_leaves_the_median() -> None:
    activations = torch.tensor([[0.0], [1.0], [2.0], [1e6]])
    assert median_over_reference_tokens(lambda: [activations], 4).item() == 1.5
    assert mean_over_reference_tokens([activations]).item() > 1e5


def test_a_median_that_does_not_fit_the_memory_reads_the_reference_once_for_each_part_and_is_the_same() -> None:
    batches = reference_batches(dtype=torch.float32)
    readings: list[int] = []

    def read() -> list[Tensor]:
        readings.append(1)
        return batches

    n_positions = 4 * 8
    whole = median_over_reference_tokens(read, n_positions)
    assert len(readings) == 1
    in_parts = median_over_reference_tokens(read, n_positions, memory_bytes=2 * n_positions * 4)  # two neurons in fp32
    assert len(readings) == 3
    assert torch.equal(median_over_reference_tokens(read, n_positions, memory_bytes=1), whole)  # one neuron at a time
    assert len(readings) == 6
    assert torch.equal(in_parts, whole)


def test_the_median_sorts_some_neurons_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = reference_batches()
    whole = median_over_reference_tokens(lambda: batches, 32)
    monkeypatch.setattr("confreg.neurons.replacements.ELEMENTS_OF_A_MEDIAN", 64)
    assert torch.equal(median_over_reference_tokens(lambda: batches, 32), whole)


SLOW: dict[str, Callable[[float, list[float]], float]] = {
    "mean_over_reference_tokens": lambda n, reference: sum(reference) / len(reference),
    "median_over_reference_tokens": lambda n, reference: sum(sorted(reference)[15:17]) / 2,  # of 32
    "zero": lambda n, reference: 0.0,
    "fixed_value": lambda n, reference: 0.25,
    "scaled_by_factor": lambda n, reference: -1.5 * n,
    "clipped_above_mean_over_reference_tokens": lambda n, reference: min(n, sum(reference) / len(reference)),
    "clipped_below_mean_over_reference_tokens": lambda n, reference: max(n, sum(reference) / len(reference)),
}
NUMBERS = {"fixed_value": {"replacement_value": 0.25}, "scaled_by_factor": {"replacement_factor": -1.5}}
WITHOUT_REFERENCE = ("zero", "fixed_value", "scaled_by_factor")


@pytest.mark.parametrize("name", SLOW)
def test_a_replacement_equals_the_loop_over_positions_and_neurons(name: str) -> None:
    batches, activations = reference_batches(), scored_activations()
    expected = [[SLOW[name](n, reference) for n, reference in zip(row, columns_of(batches), strict=True)] for row in activations.tolist()]
    found = prepared(name, batches, **NUMBERS.get(name, {})).applied(activations, 0)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=1e-15)


def test_resampled_values_are_those_of_the_drawn_reference_positions_all_neurons_together() -> None:
    batches = reference_batches()
    rows = torch.cat([batch.reshape(-1, N_NEURONS) for batch in batches]).tolist()
    found = prepared("resampled_from_reference_tokens", batches, replacement_seed=5).applied(scored_activations(), 0).tolist()
    places = [rows.index(row) for row in found]  # fails where the neurons of a position come from different places
    assert places == drawn_reference_positions(5, N_SCORED, len(rows)).tolist()
    assert len(set(places)) > N_SCORED // 2


@pytest.mark.parametrize("size", [1, 7, N_SCORED])
def test_resampling_does_not_depend_on_how_positions_and_reference_are_cut_into_batches(size: int) -> None:
    whole, activations = torch.cat(reference_batches()), scored_activations()
    expected = prepared("resampled_from_reference_tokens", [whole]).applied(activations, 0)
    replacement = prepared("resampled_from_reference_tokens", list(whole.split(3)))
    parts = [replacement.applied(activations[first : first + size], first) for first in range(0, N_SCORED, size)]
    assert torch.equal(torch.cat(parts), expected)


def test_a_draw_depends_on_the_seed_and_its_own_index_alone() -> None:
    few, many = (drawn_reference_positions(3, n, 1000) for n in (10, 500))
    assert torch.equal(few, many[:10])
    assert not torch.equal(many, drawn_reference_positions(4, 500, 1000))


def test_every_reference_position_is_drawn_equally_often() -> None:
    n_draws, n_reference = 100_000, 10
    counts = drawn_reference_positions(0, n_draws, n_reference).bincount(minlength=n_reference).double()
    expected = n_draws / n_reference
    assert ((counts - expected).square() / expected).sum() < 27.9  # chi-square, 9 degrees of freedom, at 0.999


def test_drawing_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    prepared("resampled_from_reference_tokens", reference_batches())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_clip_touches_only_its_own_side_of_the_mean() -> None:
    activations = torch.tensor([[-1.0], [0.1], [3.0]])  # 0.1 is no power of two: its change must be zero to the bit
    reference = [torch.tensor([[0.0], [1.0]])]
    above, below = (prepared(f"clipped_{side}_mean_over_reference_tokens", reference) for side in ("above", "below"))
    assert (above.applied(activations, 0) - activations).flatten().tolist() == [0.0, 0.0, -2.5]
    assert (below.applied(activations, 0) - activations).flatten().tolist() == pytest.approx([1.5, 0.4, 0.0])
    assert (below.applied(activations, 0) - activations)[2].item() == 0.0


def test_a_factor_near_one_keeps_the_digits_of_a_small_change_in_fp32() -> None:
    activations = scored_activations().float()
    change = prepared("scaled_by_factor", [], replacement_factor=1 - 1e-6).applied(activations, 0) - activations
    torch.testing.assert_close(change, -1e-6 * activations.double(), rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("name", PREPARED)
def test_a_replacement_has_the_shape_of_the_activations_in_float64(name: str) -> None:
    replacement = prepared(name, reference_batches(dtype=torch.float32), **NUMBERS.get(name, {}))
    found = replacement.applied(scored_activations().float(), 0)
    assert (found.shape, found.dtype) == ((N_SCORED, N_NEURONS), torch.float64)


@pytest.mark.parametrize("name", WITHOUT_REFERENCE)
def test_what_needs_no_reference_never_reads_it(name: str) -> None:
    def read() -> list[Tensor]:
        raise AssertionError("the reference was read")

    request = MeasurementRequest(replacement=name, **NUMBERS.get(name, {}))
    assert Replacement.of(request, read, 0, 0).applied(torch.ones(2, 1), 0).shape == (2, 1)


@pytest.mark.parametrize("name", [name for name in PREPARED if name not in WITHOUT_REFERENCE])
def test_what_needs_the_reference_refuses_an_empty_one(name: str) -> None:
    with pytest.raises(ValueError, match="got no position; expected at least one reference block"):
        prepared(name, [])


def test_a_reference_that_is_shorter_than_announced_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="The reference gave 2 positions; position 5 was expected"):
        activations_at(torch.tensor([0, 5]), [torch.zeros(2, 3)])


def test_more_scored_positions_than_announced_are_refused_with_both_numbers() -> None:
    replacement = prepared("resampled_from_reference_tokens", reference_batches(), n_scored=4)
    with pytest.raises(ValueError, match="scored positions up to 5; expected at most n_scored, 4"):
        replacement.applied(torch.zeros(2, N_NEURONS), 3)


def test_every_replacement_of_the_settings_is_there_and_no_other() -> None:
    assert set(PREPARED) == set(REPLACEMENTS)


def test_the_label_carries_the_number() -> None:
    assert prepared("fixed_value", [], replacement_value=1).label == "fixed_value(1.0)"
    assert prepared("zero", []).label == "zero"
