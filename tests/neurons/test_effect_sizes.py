"""How a bound on memory is shared out."""

import itertools

import pytest

from confreg.neurons.effect_sizes import MOST_POSITIONS, TENSORS_OF_A_PAIR, TENSORS_OF_A_POSITION, EffectSizes

MEBIBYTE = 2**20


@pytest.mark.parametrize("memory_bytes", [1, MEBIBYTE, 64 * MEBIBYTE, 512 * MEBIBYTE])
@pytest.mark.parametrize("n_vocabulary", [10, 50_000])
@pytest.mark.parametrize("n_positions", [1, 500, 100_000])
def test_what_is_taken_at_once_fits_the_bound_or_is_a_single_one(memory_bytes: int, n_vocabulary: int, n_positions: int) -> None:
    sizes = EffectSizes.of(memory_bytes, n_positions, n_vocabulary, 4)
    of_vocabulary = sizes.positions * TENSORS_OF_A_POSITION * 4 * n_vocabulary
    of_pairs = sizes.positions * 4 * (TENSORS_OF_A_PAIR * sizes.neurons + sizes.series)
    assert 1 <= sizes.positions <= min(n_positions, MOST_POSITIONS)
    assert of_vocabulary <= memory_bytes // 2 or sizes.positions == 1
    assert of_vocabulary + of_pairs <= memory_bytes or sizes.neurons == 1


def test_a_small_vocabulary_leaves_its_share_to_the_neurons() -> None:
    small, large = (EffectSizes.of(64 * MEBIBYTE, 1000, n_vocabulary, 4) for n_vocabulary in (100, 650))
    assert small.positions == large.positions == 1000
    assert small.neurons > 1.5 * large.neurons


def neurons_of(batches: list[dict[int, slice]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for order, neurons in itertools.chain.from_iterable(batch.items() for batch in batches):
        found.setdefault(order, []).extend(range(neurons.start, neurons.stop))
    return found


@pytest.mark.parametrize("series", [0, 5, 17, 60, 1000])
def test_batches_hold_every_neuron_once_and_no_more_than_fits(series: int) -> None:
    groups, tensors = {2: slice(3, 7), 3: slice(7, 8), 5: slice(8, 20)}, {2: 4, 3: 6, 5: 11}
    batches = list(EffectSizes(10, 10, series).batches(groups, tensors))
    assert neurons_of(batches) == {order: list(range(each.start, each.stop)) for order, each in groups.items()}
    for batch in batches:
        n_neurons = sum(each.stop - each.start for each in batch.values())
        needed = sum((each.stop - each.start) * tensors[order] for order, each in batch.items())
        assert needed <= series or n_neurons == 1
    assert len(batches) == 1 if series == 1000 else len(batches) > 1


def test_batches_are_as_full_as_can_be() -> None:
    batches = list(EffectSizes(10, 10, 100).batches({3: slice(0, 30)}, {3: 10}))
    assert [each[3] for each in batches] == [slice(0, 10), slice(10, 20), slice(20, 30)]


def test_without_neurons_there_is_no_batch() -> None:
    assert list(EffectSizes(10, 10, 100).batches({}, {})) == []
