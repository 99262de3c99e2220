"""The order of blocks as a function of a seed and a number."""

from __future__ import annotations

import torch

from confreg.languages.order import BlockOrder, seed_of


def test_an_endless_part_is_read_from_its_front() -> None:
    assert BlockOrder(None, seed=5).numbers([3, 0, 10**12]).tolist() == [3, 0, 10**12]


def test_a_finite_part_is_read_pass_after_pass_each_shuffled_by_seed_and_pass() -> None:
    found = BlockOrder(7, seed=5).numbers(range(21)).tolist()
    expected = [torch.randperm(7, generator=torch.Generator().manual_seed(seed_of(5, number))).tolist() for number in range(3)]
    assert found == [number for each in expected for number in each]
    assert len({tuple(each) for each in expected}) == 3


def test_any_samples_in_any_order_get_what_the_whole_sequence_has_there() -> None:
    whole = BlockOrder(7, seed=5).numbers(range(40)).tolist()
    order = BlockOrder(7, seed=5)
    for samples in ([39, 0, 13, 14, 6, 7], [2], [], [20, 20, 21]):
        assert order.numbers(samples).tolist() == [whole[sample] for sample in samples]


def test_other_seeds_give_other_orders() -> None:
    assert BlockOrder(50, 1).numbers(range(50)).tolist() != BlockOrder(50, 2).numbers(range(50)).tolist()
