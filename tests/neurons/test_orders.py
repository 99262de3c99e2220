"""Which order describes which pair, and the cheapest choice."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from confreg.neurons import orders as module
from confreg.neurons.orders import ORDERS, TRUNCATION, cheapest_orders, cost_of_pair, cost_of_position, longest_reach, reaches
from confreg.neurons.reach import Extent


def reach_of(largest: Tensor, spread: Tensor | None = None) -> Extent:
    return Extent(largest, largest if spread is None else spread)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_longest_reach_is_where_the_worst_prediction_is_still_described(dtype: torch.dtype) -> None:
    for order in ORDERS:
        longest = longest_reach(order, dtype)
        just, beyond = (torch.full((1, 1), longest * factor, dtype=dtype) for factor in (0.999, 1.001))
        assert reaches(order, reach_of(just)).all()
        assert not reaches(order, reach_of(beyond)).any()
        assert reaches(order, reach_of(beyond, 0.5 * just)).all()  # under a prediction that hardly sees the largest change


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_the_longest_reach_what_a_series_leaves_out_is_as_small_as_promised(dtype: torch.dtype) -> None:
    """Of the partition and of the mean of any logit within three nats, for predictions over changes as large as the order reaches."""
    generator = torch.Generator().manual_seed(0)
    for order, seed in itertools.product(ORDERS, range(20)):
        longest = longest_reach(order, dtype)
        change = longest * (2 * torch.rand(30, generator=generator, dtype=torch.float64) - 1)
        p = (2.0 * seed / 10 * torch.randn(30, generator=generator, dtype=torch.float64)).softmax(0)
        change = change - (p * change).sum()
        change = change * longest / change.abs().max()
        for field in (torch.ones(30, dtype=torch.float64), 3 * torch.randn(30, generator=generator, dtype=torch.float64).clamp(-1, 1)):
            terms = [(p * field * change**power).sum() / math.factorial(power) for power in range(order + 1)]
            left_out = ((p * field * change.exp()).sum() - sum(terms)).abs().item()
            assert left_out <= 1.3 * TRUNCATION[dtype] * longest + 1e-15


def test_pairs_without_any_change_are_described_by_every_order() -> None:
    for order in ORDERS:
        assert reaches(order, reach_of(torch.zeros(2, 3))).all()
        assert not reaches(order, reach_of(torch.full((2, 3), torch.nan))).any()  # those take their whole rows


def total_cost(orders: list[int], missed: Callable[[int, int], int], d_model: int, n_vocabulary: int) -> float:
    n_positions = 10
    costs = [
        module.COST_OF_ROW * n_positions if not o else n_positions * cost_of_pair(o) + module.COST_OF_ROW * missed(o, n)
        for n, o in enumerate(orders)
    ]
    of_groups = len(set(orders)) * module.COST_OF_GROUP / n_vocabulary
    return sum(costs) + of_groups + (n_positions * cost_of_position(max(orders), d_model) if max(orders) else 0)


@pytest.mark.parametrize("n_vocabulary", [10**3, 10**4])
@pytest.mark.parametrize("d_model", [8, 20000])
@pytest.mark.parametrize("size", [1e-3, 0.1, 0.7, 4.0])
def test_the_choice_for_every_neuron_costs_least_of_all(size: float, d_model: int, n_vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(1)
    reach = reach_of(size * torch.rand(10, 3, generator=generator) * torch.tensor([0.1, 1.0, 3.0]))

    def missed(order: int, neuron: int) -> int:
        return int((~reaches(order, reach))[:, neuron].sum())

    found = cheapest_orders(reach, d_model, n_vocabulary).tolist()
    every = itertools.product((0, *ORDERS), repeat=3)
    best = min(total_cost(list(each), missed, d_model, n_vocabulary) for each in every)
    assert total_cost(found, missed, d_model, n_vocabulary) == pytest.approx(best, rel=1e-6)


def test_a_neuron_whose_pairs_all_go_too_far_takes_whole_rows() -> None:
    reach = reach_of(torch.tensor([[0.001, 100.0]]).expand(500, 2).repeat(1, 20))
    orders = cheapest_orders(reach, 16, 10**4).tolist()
    assert orders[0] in ORDERS
    assert orders[1] == 0


def test_long_rows_are_dearer_for_each_token_so_that_series_go_further() -> None:
    generator = torch.Generator().manual_seed(2)
    extent = Extent(0.3 * torch.rand(40, 30, generator=generator), 0.1 * torch.rand(40, 30, generator=generator))
    short, long = (cheapest_orders(extent, 16, size) for size in (2048, 50_000))
    assert (long >= short).all()
    assert (long > short).any()


def test_few_tokens_keep_neurons_together() -> None:
    generator = torch.Generator().manual_seed(3)
    extent = reach_of(torch.tensor([0.001] * 2 + [0.2] * 29) * torch.rand(2000, 31, generator=generator))
    few, many = (cheapest_orders(extent, 16, n_tokens) for n_tokens in (64, 8192))
    assert len(few.unique()) == 1
    assert many[-1] > many[0]


def test_the_choice_looks_at_some_of_many_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(4)
    of_some = torch.tensor([0.001, 0.05, 0.2, 2.0]) * torch.rand(133, 4, generator=generator)
    extent = reach_of(of_some.repeat_interleave(15, dim=0))  # what is looked at stands for all
    found = cheapest_orders(extent, 16, 8192)
    monkeypatch.setattr(module, "POSITIONS_LOOKED_AT", 10**6)
    assert torch.equal(found, cheapest_orders(extent, 16, 8192))
    assert len(found.unique()) > 1
