"""How far a series must go: the order for each neuron, and the pairs that no order reaches."""

from __future__ import annotations

import math
from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from confreg.neurons.moments import orders_of_moments, shared_weights
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


def longest_reach(order: int, dtype: torch.dtype) -> float:
    """Largest change of a logit, nats, that a series to this order describes whatever the prediction is."""
    factor = math.factorial(order + 1) / NATS_FROM_MEAN
    return min((TRUNCATION[dtype] * factor) ** (1 / order), (TRUNCATION_NATS[dtype] * factor) ** (1 / (order + 1)))


def reaches(order: int, extent: Extent) -> Bool[Tensor, "position neuron"]:
    """Which pairs a series to this order describes."""
    term = first_term_left_out(order, extent.largest, extent.spread)
    return (term <= TRUNCATION[term.dtype] * extent.spread) & (term <= TRUNCATION_NATS[term.dtype])


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
    return len(shared_weights(order, is_folded=is_folded)) * (COST_OF_WEIGHT + d_model)


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
    whole_rows = extent.largest.new_full((n_neurons,), n_positions * of_row)
    costs, totals = [whole_rows], [whole_rows.sum()]
    for order in ORDERS:
        missed = (~reaches(order, extent)).sum(0)
        costs.append(n_positions * cost_of_pair(order, is_folded) + of_row * missed)
        totals.append(torch.stack(costs).amin(0).sum() + n_positions * cost_of_position(order, d_model, is_folded))
    highest = int(torch.stack(totals).argmin())
    orders = torch.tensor((0, *ORDERS), device=extent.largest.device)
    return orders[torch.stack(costs[: highest + 1]).argmin(0)]
