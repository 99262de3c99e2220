"""How far a series must go: the order for each neuron, and the pairs that no order reaches."""

from __future__ import annotations

import itertools
import math
from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from confreg.neurons.moment_weights import families, orders_of_moments
from confreg.neurons.reach import Extent

ORDERS = (2, 3, 4, 5, 6, 8)
# The first term left out, for a logit or log-frequency three nats from its mean: relative to the change's standard deviation under the
# prediction, which is the size of its effects, and in nats.
TRUNCATION = {torch.float32: 2e-4, torch.float64: 1e-11}
TRUNCATION_NATS = {torch.float32: 5e-6, torch.float64: 1e-11}
NATS_FROM_MEAN = 3.0
# In units of one multiplication and addition of a matrix product, for each token:
COST_OF_WEIGHT = 12.0  # forming one weight at one position
COST_OF_ROW = 600.0  # the whole row of one pair
COST_OF_LONG_ROW = 3000.0  # the same where a core's cache holds only a few rows
LONG_ROW = 2**14  # tokens
COST_OF_GROUP = 1e8  # of what is done for the neurons of one order (0, too), however few they are; not for each token
MOST_GROUPS = 3
POSITIONS_LOOKED_AT = 128  # for the choice alone: what an order does not reach is found at all of them


def longest_reach(order: int, dtype: torch.dtype) -> float:
    """Largest change of a logit, nats, that a series to this order describes whatever the prediction is."""
    factor = math.factorial(order + 1) / NATS_FROM_MEAN
    return min((TRUNCATION[dtype] * factor) ** (1 / order), (TRUNCATION_NATS[dtype] * factor) ** (1 / (order + 1)))


def reaches(order: int, extent: Extent) -> Bool[Tensor, "position neuron"]:
    """Which pairs a series to this order describes."""
    factor, dtype = NATS_FROM_MEAN / math.factorial(order + 1), extent.spread.dtype
    times_spread = extent.spread * extent.largest ** (order - 1)  # with the factor and once more the spread it is the term
    is_small = times_spread <= TRUNCATION[dtype] / factor
    return is_small & (times_spread.mul_(extent.spread) <= TRUNCATION_NATS[dtype] / factor)


def first_term_left_out(order: int, largest: Float[Tensor, "*pair"], spread: Float[Tensor, "*pair"]) -> Float[Tensor, "*pair"]:
    """Bound in nats, from the largest change of a logit and the change's standard deviation under the prediction."""
    return spread.square() * largest ** (order - 1) * (NATS_FROM_MEAN / math.factorial(order + 1))


@cache
def cost_of_pair(order: int, is_folded: bool = False) -> float:
    """Of the matrix products with powers of the write from the second on."""
    return float(sum(max(0, order - taken - 1) for taken in orders_of_moments(order, is_folded=is_folded).values()))


@cache
def cost_of_position(order: int, d_model: int, is_folded: bool = False) -> float:
    """Of what all neurons share where ``order`` is the highest."""
    every = families(order, is_folded=is_folded)
    n_products = sum(row[1] for family in every for row in family.counts if len(row) > 1)
    return sum(family.n_scaled(0, 0) for family in every) * COST_OF_WEIGHT + n_products * d_model


def cost_of_row(n_vocabulary: int) -> float:
    """Of all that is computed from the whole row of one pair, for each token of it."""
    return COST_OF_ROW if n_vocabulary < LONG_ROW else COST_OF_LONG_ROW


def cheapest_orders(extent: Extent, d_model: int, n_vocabulary: int, is_folded: bool = False) -> Int[Tensor, "neuron"]:
    """For each neuron the order that costs least together with the whole rows of the pairs that it does not reach; 0: all whole rows.

    Args:
        extent: of all pairs.
        d_model: width of the residual.
        n_vocabulary: tokens of a row.
        is_folded: whether the logits are the scaled ones, so that fewer moments are different.
    """
    (n_positions, n_neurons), of_row = extent.shape, cost_of_row(n_vocabulary)
    seen = extent.part(slice(None, None, max(1, n_positions // POSITIONS_LOOKED_AT)))
    whole_rows = extent.largest.new_full((n_neurons,), n_positions * of_row)
    costs, shared = [whole_rows], [0.0]
    for order in ORDERS:
        missed = 1 - reaches(order, seen).to(whole_rows.dtype).mean(0)
        costs.append(n_positions * (cost_of_pair(order, is_folded) + of_row * missed))
        shared.append(n_positions * cost_of_position(order, d_model, is_folded))
        if not missed.any():
            break
    orders = whole_rows.new_tensor((0, *ORDERS)[: len(costs)], dtype=torch.int64)
    return orders[_cheapest_set(torch.stack(costs), whole_rows.new_tensor(shared), COST_OF_GROUP / n_vocabulary)]


def _cheapest_set(
    of_neurons: Float[Tensor, "order neuron"], of_positions: Float[Tensor, "order"], of_group: float
) -> Int[Tensor, "neuron"]:
    """Place of each neuron's order; of the costs that all neurons share, those of the highest order hold those of the others."""
    places = torch.arange(len(of_neurons), device=of_neurons.device)
    is_in = torch.tensor(_sets(len(of_neurons)), device=of_neurons.device)
    least, chosen = of_neurons.masked_fill(~is_in.unsqueeze(-1), torch.inf).min(1)
    is_taken = (chosen.unsqueeze(1) == places.unsqueeze(-1)).any(-1)
    shared = (is_taken * of_positions).amax(-1) + of_group * is_taken.sum(-1)
    return chosen[(least.sum(-1) + shared).argmin()]


@cache
def _sets(n_orders: int) -> list[list[bool]]:
    """Few enough orders, and which of all belong to each set."""
    sets = itertools.chain.from_iterable(itertools.combinations(range(n_orders), size) for size in range(1, MOST_GROUPS + 1))
    return [[order in each for order in range(n_orders)] for each in sets]
