"""How near a change of temperature comes to a changed prediction, where no series tells.

With p_β ~ p^β and the change Δ, which is linear in a neuron's write, D(p_β || p') = D(p_β || p) + D(p || p') - E_β Δ for the Δ whose mean
under p is zero. As a function of β it may have several minima: those of a confident prediction are many nats of logits apart and hardly
differ in divergence. For most pairs a bound says that no temperature far from 1 can be the best. For the others what all neurons share at
some temperatures is computed once, so that D(p_β || p') is known there for every pair; it shows which pairs may have a lower minimum than
the nearby one that the series finds, and from where Newton's steps are to start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.linalg import vecdot

from confreg.neurons.fields import PositionFields
from confreg.neurons.reach import Extent
from confreg.neurons.series import Coefficients
from confreg.neurons.writes import NeuronWrites, slices

NODES_IN_A_DOUBLING = 2
INVERSE_TEMPERATURES = tuple(2 ** (each / NODES_IN_A_DOUBLING) for each in range(-10, 7))
UNCHANGED = INVERSE_TEMPERATURES.index(1.0)
# How far the divergence may fall between two nodes below both, in units of the variance of the logits: an eighth of the squared distance
# for a parabola, and twice that to be safe.
DIP = 2 * (math.log(2) / NODES_IN_A_DOUBLING) ** 2 / 8
SMALLEST_EXPONENT = 1e-2  # nats
SAFETY = 1.01  # above rounding
N_STEPS = {torch.float32: 12, torch.float64: 40}
STEP_MIN = {torch.float32: 3e-4, torch.float64: 1e-7}  # relative; a minimum does not feel less
LARGEST_SMALL_CHANGE = 5.0  # nats; above it, differences of large numbers would swamp the divergence in fp32
ELEMENTS_AT_ONCE = 2**18  # pair x vocabulary, or pair x node: small enough for a core's cache

Pair = tuple[Int[Tensor, "pair"], Int[Tensor, "pair"]]


@dataclass(frozen=True)
class _Nodes:
    """The unablated prediction at each of the temperatures, for some positions."""

    divergence: Float[Tensor, "position node 1"]  # D(p_β || p)
    dip: Float[Tensor, "position node 1"]  # how far it may fall on the way to the next one
    scaled: Float[Tensor, "position node 1"]  # mean of the scaled logits, less that under p
    unembedding: Float[Tensor, "position node d_model"]  # the same of the unembedding

    @classmethod
    def of(cls, fields: PositionFields, unembedding: Float[Tensor, "vocab d_model"]) -> _Nodes:
        """For some positions."""
        every, found = fields.of_tokens(), []
        mean, log_p = every.probability @ unembedding, every.logit + (fields.mean_logit - fields.log_partition).unsqueeze(-1)
        for beta in INVERSE_TEMPERATURES:
            tilted, divergence = _at_temperature(beta, every.logit, log_p)
            of_logit = (tilted * every.logit).sum(-1, keepdim=True)
            variance = (tilted * (every.logit - of_logit).square()).sum(-1)
            dip = torch.full_like(variance, -torch.inf) if beta == 1 else DIP * beta**2 * variance
            found.append((divergence, dip, (tilted * every.scaled).sum(-1), tilted @ unembedding - mean))
        divergence, dip, scaled, unembedded = (torch.stack(each, dim=1) for each in zip(*found, strict=True))
        return cls(divergence.unsqueeze(-1), dip.unsqueeze(-1), scaled.unsqueeze(-1), unembedded)


@dataclass(frozen=True)
class _Rows:
    """Of some pairs."""

    logit: Float[Tensor, "pair vocab"]  # z - E z
    change: Float[Tensor, "pair vocab"]  # Δ - E Δ

    def in_float64(self, chosen: Bool[Tensor, "pair"]) -> _Rows:
        """Some of them."""
        logit, change = self.logit[chosen].double(), self.change[chosen].double()
        return _Rows(logit, change - (logit.softmax(-1) * change).sum(-1, keepdim=True))

    def divergence(self) -> Float[Tensor, "pair"]:
        """D(p || p')."""
        return (self.logit + self.change).logsumexp(-1) - self.logit.logsumexp(-1)


class Temperatures:
    """The best temperatures of the pairs of some positions and neurons."""

    def __init__(self, fields: PositionFields, writes: NeuronWrites, at: Coefficients) -> None:
        self.fields, self.writes, self.at = fields, writes, at

    def improve(
        self, least: Float[Tensor, "position neuron"], divergence: Float[Tensor, "position neuron"], extent: Extent | None = None
    ) -> None:
        """Replace each D(p_β || p') at its best temperature by the smallest over all β > 0, where that may be another.

        Args:
            least: at the best temperature near 1; nan: unknown. Changed in place.
            divergence: D(p || p').
            extent: bounds on the change, by which most pairs need no search far from 1; default: all are searched.
        """
        is_near = torch.zeros_like(least, dtype=torch.bool) if extent is None else self._is_near(extent)
        position, neuron = (is_near & least.isnan()).nonzero(as_tuple=True)
        least[position, neuron] = self._from(least.new_ones(len(position)), (position, neuron), divergence[position, neuron])
        searched = (~is_near).any(-1).nonzero()[:, 0]
        for some in searched.split(max(1, ELEMENTS_AT_ONCE // (len(INVERSE_TEMPERATURES) * least.shape[1]))):
            nodes = _Nodes.of(self.fields.part(some), self.writes.unembedding)
            above = self._above_unchanged_at_nodes(nodes, some)
            is_known = is_near[some] | (divergence[some] + (above - nodes.dip).amin(1) >= least[some])
            which, neuron = (~is_known).nonzero(as_tuple=True)
            start = least.new_tensor(INVERSE_TEMPERATURES)[above.argmin(1)[which, neuron]]
            pair = some[which], neuron
            least[pair] = self._from(start, pair, divergence[pair])

    def _is_near(self, extent: Extent) -> Bool[Tensor, "position neuron"]:
        """Where no β beyond the nodes next to 1 can be better than 1 itself.

        By Donsker and Varadhan 2 E_β Δ <= D(p_β || p) + log E_p exp 2Δ, so that β is no better where D(p_β || p), which grows on either
        side of 1, is above the second term; by Bennett that one is at most log(1 + 4 σ² φ(2L)), where φ(x) = (exp x - 1 - x) / x².
        """
        every = self.fields.every
        log_p = every.logit + (self.fields.mean_logit - self.fields.log_partition).unsqueeze(-1)
        next_to_one = (_at_temperature(INVERSE_TEMPERATURES[UNCHANGED + side], every.logit, log_p)[1] for side in (-1, 1))
        twice = (2 * extent.largest).clamp(min=SMALLEST_EXPONENT)  # φ is increasing, and loses its digits below
        bound = torch.log1p(4 * extent.spread.square() * (torch.expm1(twice) - twice) / twice.square())
        return torch.minimum(*next_to_one).unsqueeze(-1) > SAFETY * bound

    def _above_unchanged_at_nodes(self, nodes: _Nodes, some: Int[Tensor, "some"]) -> Float[Tensor, "some node neuron"]:
        """D(p_β || p') - D(p || p')."""
        above = torch.addcmul(nodes.divergence, self.at.scaled[some].unsqueeze(1), nodes.scaled, value=-1)
        return above.addcmul_(self.at.write[some].unsqueeze(1), nodes.unembedding @ self.writes.w_out.T, value=-1)

    def _from(self, start: Float[Tensor, "pair"], pair: Pair, divergence: Float[Tensor, "pair"]) -> Float[Tensor, "pair"]:
        """Divergence at the minimum near a starting point."""
        least = torch.empty_like(divergence)
        for part in slices(len(divergence), ELEMENTS_AT_ONCE // len(self.writes.unembedding)):
            rows = self._rows((pair[0][part], pair[1][part]))
            least[part] = nearest_minimum(start[part], rows.logit, rows.change, divergence[part])
            is_large = ~(rows.change.abs().amax(-1) <= LARGEST_SMALL_CHANGE)
            if is_large.any():
                large = rows.in_float64(is_large)
                found = nearest_minimum(start[part][is_large].double(), large.logit, large.change, large.divergence())
                least[part][is_large] = found.to(least.dtype)
        return least

    def _rows(self, pair: Pair) -> _Rows:
        every, at = self.fields.every, self.at.part(pair)
        change = (at.scaled.unsqueeze(-1) * every.scaled[pair[0]]).addcmul_(at.write.unsqueeze(-1), self.writes.rows(*pair))
        return _Rows(every.logit[pair[0]], change.sub_(vecdot(every.probability[pair[0]], change).unsqueeze(-1)))


def _at_temperature(
    beta: float, logit: Float[Tensor, "position vocab"], log_p: Float[Tensor, "position vocab"]
) -> tuple[Float[Tensor, "position vocab"], Float[Tensor, "position"]]:
    """p_β, and D(p_β || p)."""
    log_tilted = (beta * logit).log_softmax(-1)
    tilted = log_tilted.exp()
    return tilted, (tilted * log_tilted.sub_(log_p)).sum(-1)


def nearest_minimum(
    beta: Float[Tensor, "pair"], logit: Float[Tensor, "pair vocab"], change: Float[Tensor, "pair vocab"], divergence: Float[Tensor, "pair"]
) -> Float[Tensor, "pair"]:
    """D(p_β || p') at the minimum that Newton's steps in β lead to, halved where they do not help; never above that at β = 1.

    Args:
        beta: to start from.
        logit: z - E z.
        change: Δ - E Δ.
        divergence: D(p || p').
    """
    log_p = logit.log_softmax(-1)
    added, step = _above_unchanged(beta, log_p, change)
    least, active = added.clone(), torch.arange(len(beta), device=beta.device)
    for _ in range(N_STEPS[beta.dtype]):
        goes_on = step.abs() > STEP_MIN[beta.dtype] * beta
        if not goes_on.any():
            break
        if not goes_on.all():  # pairs that have arrived cost nothing more
            active, beta, added, step, log_p, change = (each[goes_on] for each in (active, beta, added, step, log_p, change))
        tried, next_step = _above_unchanged(beta + step, log_p, change)
        is_better = tried < added
        beta, added = torch.where(is_better, beta + step, beta), torch.where(is_better, tried, added)
        step = torch.where(is_better, next_step, step / 2)
        least[active] = added
    return torch.minimum((divergence + least).clamp(min=0), divergence.clamp(min=0))


def _above_unchanged(
    beta: Float[Tensor, "pair"], log_p: Float[Tensor, "pair vocab"], change: Float[Tensor, "pair vocab"]
) -> tuple[Float[Tensor, "pair"], Float[Tensor, "pair"]]:
    """D(p_β || p') - D(p || p'), and Newton's step in β; where that would climb, to where β - 1 = Cov_β(z, Δ) / Var_β(z)."""
    log_tilted = (beta.unsqueeze(-1) * log_p).log_softmax(-1)
    tilted, rest = log_tilted.exp(), log_tilted.sub_(log_p).sub_(change)  # log p_β / p', up to D(p || p')
    mean_rest = vecdot(tilted, rest)
    around = log_p - vecdot(tilted, log_p).unsqueeze(-1)
    weighted, rest = tilted.mul_(around), rest.sub_(mean_rest.unsqueeze(-1))
    variance, slope = vecdot(weighted, around), vecdot(weighted, rest)
    curvature = variance + vecdot(weighted.mul_(around), rest)
    curvature = torch.where(curvature > variance / 4, curvature, variance).clamp(min=torch.finfo(variance.dtype).tiny)
    step = torch.minimum(torch.maximum(-slope / curvature, -0.75 * beta), 3 * beta)
    return mean_rest, step
