"""D(p_β || p') at some temperatures far from 1, where a lower minimum than the nearby one may begin.

It is D(p_β || p) + D(p || p') - E_β Δ. The first and what a mean under p_β needs of the unembedding are the same for all neurons, so that a
product gives it for every pair of a position; where few pairs ask, their own rows give it for less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vecdot

from confreg.neurons.fields import PositionFields

NODES_IN_A_DOUBLING = 2
INVERSE_TEMPERATURES = tuple(2 ** (each / NODES_IN_A_DOUBLING) for each in range(-10, 7))
HOT = tuple(2 ** (each / NODES_IN_A_DOUBLING) for each in range(-20, -10))
COLD = tuple(2 ** (each / NODES_IN_A_DOUBLING) for each in range(7, 21))  # for predictions that hesitate between two tokens
# How far the divergence may fall between two nodes below both, in units of the variance of the logits: an eighth of the squared distance
# for a parabola, and twice that to be safe.
DIP = 2 * (math.log(2) / NODES_IN_A_DOUBLING) ** 2 / 8
WIDTH_OF_A_ROW = 300  # dimensions of the residual whose product takes as long as the rows of a pair


@dataclass(frozen=True)
class Rows:
    """Whole rows of some pairs."""

    probability: Float[Tensor, "pair vocab"]  # p
    logit: Float[Tensor, "pair vocab"]  # z - E z
    change: Float[Tensor, "pair vocab"]  # Δ - E Δ

    def in_float64(self, chosen: Tensor | slice = slice(None)) -> Rows:
        """Some of them."""
        logit, change = self.logit[chosen].double(), self.change[chosen].double()
        p = logit.softmax(-1)
        return Rows(p, logit - vecdot(p, logit).unsqueeze(-1), change - vecdot(p, change).unsqueeze(-1))

    def divergence(self) -> Float[Tensor, "pair"]:
        """D(p || p')."""
        return (self.logit + self.change).logsumexp(-1) - self.logit.logsumexp(-1)


@dataclass(frozen=True)
class Nodes:
    """The unablated prediction at each of the temperatures, for some positions."""

    divergence: Float[Tensor, "position node 1"]  # D(p_β || p)
    dip: Float[Tensor, "position node 1"]  # how far it may fall on the way to the next one
    scaled: Float[Tensor, "position node 1"]  # mean of the scaled logits, less that under p
    unembedding: Float[Tensor, "position node d_model"]  # the same of the unembedding

    @classmethod
    def of(
        cls, fields: PositionFields, unembedding: Float[Tensor, "vocab d_model"], betas: Sequence[float] = INVERSE_TEMPERATURES
    ) -> Nodes:
        """For some positions."""
        every, found = fields.of_tokens(), []
        mean, log_p = every.probability @ unembedding, every.logit + (fields.mean_logit - fields.log_partition).unsqueeze(-1)
        for beta in betas:
            tilted, divergence = at_temperature(beta, every.logit, log_p)
            of_logit = (tilted * every.logit).sum(-1, keepdim=True)
            dip = _dip(beta, (tilted * (every.logit - of_logit).square()).sum(-1))
            found.append((divergence, dip, (tilted * every.scaled).sum(-1), tilted @ unembedding - mean))
        divergence, dip, scaled, unembedded = (torch.stack(each, dim=1) for each in zip(*found, strict=True))
        return cls(divergence.unsqueeze(-1), dip.unsqueeze(-1), scaled.unsqueeze(-1), unembedded)


def above_unchanged(rows: Rows, betas: Sequence[float]) -> tuple[Float[Tensor, "node pair"], Float[Tensor, "node pair"]]:
    """D(p_β || p') - D(p || p') of some pairs, and how far it may fall between the nodes, from the pairs' own rows."""
    above, dips = [], []
    log_p = rows.logit.log_softmax(-1)
    for beta in betas:
        tilted, divergence = at_temperature(beta, rows.logit, log_p)
        mean = vecdot(tilted, rows.logit)
        above.append(divergence - vecdot(tilted, rows.change))
        dips.append(_dip(beta, vecdot(tilted, (rows.logit - mean.unsqueeze(-1)).square_())))
    return torch.stack(above), torch.stack(dips)


def are_few(n_pairs: int, n_positions: int, d_model: int) -> bool:
    """Whether the rows of so many pairs take less than what all pairs of their positions share."""
    return n_pairs < n_positions * (1 + d_model / WIDTH_OF_A_ROW)


def _dip(beta: float, variance: Tensor) -> Tensor:
    """Nothing is sought around the temperature of 1, from where the nearby minimum was found."""
    return torch.full_like(variance, -torch.inf) if beta == 1 else DIP * beta**2 * variance


def at_temperature(
    beta: float, logit: Float[Tensor, "position vocab"], log_p: Float[Tensor, "position vocab"]
) -> tuple[Float[Tensor, "position vocab"], Float[Tensor, "position"]]:
    """p_β, and D(p_β || p)."""
    log_tilted = (beta * logit).log_softmax(-1)
    tilted = log_tilted.exp()
    return tilted, (tilted * log_tilted.sub_(log_p)).sum(-1)
