"""How near a change of temperature comes to a changed prediction, where no series tells.

With p_β ~ p^β and the change Δ, which is linear in a neuron's write, D(p_β || p') = D(p_β || p) + D(p || p') - E_β Δ for the Δ whose mean
under p is zero. As a function of β it may have several minima: those of a confident prediction are many nats of logits apart and hardly
differ in divergence. What all neurons share at some temperatures is computed once, so that D(p_β || p') is known there for every pair; it
shows which pairs may have a lower minimum than the nearby one that the series finds, and from where Newton's steps are to start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from confreg.neurons.fields import PositionFields
from confreg.neurons.series import Coefficients
from confreg.neurons.writes import NeuronWrites, slices

NODES_IN_A_DOUBLING = 2
INVERSE_TEMPERATURES = tuple(2 ** (each / NODES_IN_A_DOUBLING) for each in range(-10, 7))
UNCHANGED = INVERSE_TEMPERATURES.index(1.0)
# How far the divergence may fall between two nodes below both, in units of the variance of the logits: an eighth of the squared distance
# for a parabola, and twice that to be safe.
DIP = 2 * (math.log(2) / NODES_IN_A_DOUBLING) ** 2 / 8
N_STEPS = {torch.float32: 12, torch.float64: 40}
STEP_MIN = {torch.float32: 3e-4, torch.float64: 1e-7}  # relative; a minimum does not feel less
LARGEST_SMALL_CHANGE = 5.0  # nats; above it, differences of large numbers would swamp the divergence in fp32
ELEMENTS_AT_ONCE = 2**18  # pair x vocabulary, or pair x node: small enough for a core's cache

Pair = tuple[Int[Tensor, "pair"], Int[Tensor, "pair"]]


@dataclass(frozen=True)
class _Nodes:
    """The unablated prediction at each of the temperatures."""

    divergence: Float[Tensor, "position node 1"]  # D(p_β || p)
    dip: Float[Tensor, "position node 1"]  # how far it may fall on the way to the next one
    scaled: Float[Tensor, "position node 1"]  # mean of the scaled logits, less that under p
    unembedding: Float[Tensor, "position node d_model"]  # the same of the unembedding


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
    """The temperatures of some positions, for all neurons with the same unembedding."""

    def __init__(self, fields: PositionFields, unembedding: Float[Tensor, "vocab d_model"]) -> None:
        self.fields, self.unembedding = fields, unembedding

    def improve(
        self, writes: NeuronWrites, at: Coefficients, divergence: Float[Tensor, "position neuron"], least: Float[Tensor, "position neuron"]
    ) -> None:
        """Replace each D(p_β || p') at its best temperature by the smallest over all β > 0, where that may be another.

        Args:
            writes: of the neurons.
            at: how far the pairs go along the scaled logits and their write.
            divergence: D(p || p').
            least: at the best temperature near 1; nan: unknown. Changed in place.
        """
        for part in slices(len(least), ELEMENTS_AT_ONCE // (len(INVERSE_TEMPERATURES) * least.shape[1])):
            above = self._above_unchanged_at_nodes(writes, at.part(part), part)
            is_known = (divergence[part] + (above - self._nodes.dip[part]).amin(1)) >= least[part]
            position, neuron = (~is_known).nonzero(as_tuple=True)
            start = least.new_tensor(INVERSE_TEMPERATURES)[above.argmin(1)[position, neuron]]
            pair = position + part.start, neuron
            least[pair] = self._from(start, writes, at.part(pair), pair, divergence[pair])

    @cached_property
    def _nodes(self) -> _Nodes:
        every, found = self.fields.of_tokens(), []
        mean, log_p = every.probability @ self.unembedding, every.logit + (self.fields.mean_logit - self.fields.log_partition).unsqueeze(-1)
        for beta in INVERSE_TEMPERATURES:
            log_tilted = (beta * every.logit).log_softmax(-1)
            tilted = log_tilted.exp()
            of_logit = (tilted * every.logit).sum(-1, keepdim=True)
            variance = (tilted * (every.logit - of_logit).square()).sum(-1)
            divergence, scaled = ((tilted * each).sum(-1) for each in (log_tilted - log_p, every.scaled))
            dip = torch.full_like(variance, -torch.inf) if beta == 1 else DIP * beta**2 * variance
            found.append((divergence, dip, scaled, tilted @ self.unembedding - mean))
        divergence, dip, scaled, unembedding = (torch.stack(each, dim=1) for each in zip(*found, strict=True))
        return _Nodes(divergence.unsqueeze(-1), dip.unsqueeze(-1), scaled.unsqueeze(-1), unembedding)

    def _above_unchanged_at_nodes(self, writes: NeuronWrites, at: Coefficients, part: slice) -> Float[Tensor, "position node neuron"]:
        """D(p_β || p') - D(p || p')."""
        nodes = self._nodes
        written = nodes.unembedding[part] @ writes.w_out.T
        above = torch.addcmul(nodes.divergence[part], at.scaled.unsqueeze(1), nodes.scaled[part], value=-1)
        return above.addcmul_(at.write.unsqueeze(1), written, value=-1)

    def _from(
        self, start: Float[Tensor, "pair"], writes: NeuronWrites, at: Coefficients, pair: Pair, divergence: Float[Tensor, "pair"]
    ) -> Float[Tensor, "pair"]:
        """Divergence at the minimum near a starting point; ``at`` holds these pairs alone."""
        least = torch.empty_like(divergence)
        for part in slices(len(divergence), ELEMENTS_AT_ONCE // len(self.unembedding)):
            rows = self._rows(writes, at.part(part), (pair[0][part], pair[1][part]))
            least[part] = nearest_minimum(start[part], rows.logit, rows.change, divergence[part])
            is_large = ~(rows.change.abs().amax(-1) <= LARGEST_SMALL_CHANGE)
            if is_large.any():
                large = rows.in_float64(is_large)
                found = nearest_minimum(start[part][is_large].double(), large.logit, large.change, large.divergence())
                least[part][is_large] = found.to(least.dtype)
        return least

    def _rows(self, writes: NeuronWrites, at: Coefficients, pair: Pair) -> _Rows:
        some = self.fields.part(pair[0]).of_tokens()
        change = torch.addcmul(at.scaled.unsqueeze(-1) * some.scaled, at.write.unsqueeze(-1), writes.rows(*pair))
        return _Rows(some.logit, change.sub_((some.probability * change).sum(-1, keepdim=True)))


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
    for _ in range(N_STEPS[beta.dtype]):
        if not (step.abs() > STEP_MIN[beta.dtype] * beta).any():
            break
        tried, next_step = _above_unchanged(beta + step, log_p, change)
        is_better = tried < added
        beta, added = torch.where(is_better, beta + step, beta), torch.where(is_better, tried, added)
        step = torch.where(is_better, next_step, step / 2)
    return torch.minimum((divergence + added).clamp(min=0), divergence.clamp(min=0))


def _above_unchanged(
    beta: Float[Tensor, "pair"], log_p: Float[Tensor, "pair vocab"], change: Float[Tensor, "pair vocab"]
) -> tuple[Float[Tensor, "pair"], Float[Tensor, "pair"]]:
    """D(p_β || p') - D(p || p'), and Newton's step in β; where that would climb, to where β - 1 = Cov_β(z, Δ) / Var_β(z)."""
    log_tilted = (beta.unsqueeze(-1) * log_p).log_softmax(-1)
    tilted, rest = log_tilted.exp(), log_tilted.sub_(log_p).sub_(change)  # log p_β / p', up to D(p || p')
    mean_rest = (tilted * rest).sum(-1, keepdim=True)
    around, rest = log_p - (tilted * log_p).sum(-1, keepdim=True), rest.sub_(mean_rest)
    weighted = tilted * around
    variance, slope, third = ((weighted * each).sum(-1) for each in (around, rest, around * rest))
    curvature = variance + third
    curvature = torch.where(curvature > variance / 4, curvature, variance).clamp(min=torch.finfo(variance.dtype).tiny)
    step = torch.minimum(torch.maximum(-slope / curvature, -0.75 * beta), 3 * beta)
    return mean_rest.squeeze(-1), step
