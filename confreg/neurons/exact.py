"""Effects of chosen pairs of position and neuron from their whole rows of changed logits: what a series cannot reach.

In fp32 only the change Δ enters exponentials, so that small effects keep their digits; in float64 the new prediction is formed itself,
however large the change.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.linalg import vecdot

from confreg.neurons.ablation import RANKS, Ablation, Wanted
from confreg.neurons.fields import PositionFields
from confreg.neurons.ranks import count_of_ones, reciprocal_rank_change
from confreg.neurons.series import Coefficients, Tilted
from confreg.neurons.temperature_nodes import COLD, HOT, INVERSE_TEMPERATURES

Rows = Float[Tensor, "pair vocab"]
LARGEST_SMALL_CHANGE = 5.0  # nats; above it, exp - 1 of a single token may swamp the sums in fp32
LARGEST_SMALL_DIVERGENCE = 0.02  # nats; above it, there may be several best temperatures
# Towards the best temperature: steps, and the relative step that a minimum does not feel; in float64 from the lowest of many nodes too
NODES = {torch.float32: (), torch.float64: (*HOT, *INVERSE_TEMPERATURES, *COLD)}
N_STEPS = {torch.float32: 12, torch.float64: 24}
STEP_MIN = {torch.float32: 1e-3, torch.float64: 1e-7}


@dataclass(frozen=True)
class RowsOfPairs:
    """Whole rows, one for each pair: the prediction and its changes Δ, whose mean under the prediction is not zero."""

    probability: Rows  # p
    logit: Rows  # z - E z
    log_frequency: Rows  # log q - E log q
    total: Rows
    frozen_norm: Rows
    scale_only: Rows
    frozen_frequency: Rows

    @classmethod
    def of(
        cls, fields: PositionFields, ablation: Ablation, at: Coefficients, pair: tuple[Tensor, Tensor], dtype: torch.dtype
    ) -> RowsOfPairs:
        """The rows of some pairs; ``at`` holds these pairs alone."""
        position, neuron = pair
        baseline = fields.baseline
        scaled, write = baseline.scaled_logits.index_select(0, position).to(dtype), ablation.writes.rows(position, neuron).to(dtype)
        a, c, frozen_c = (each.to(dtype).unsqueeze(-1) for each in (at.scaled, at.write, at.write_frozen_norm))
        frozen_norm, scale_only = frozen_c * write, a * scaled
        total = torch.addcmul(scale_only, c, write)
        if ablation.post is not None:
            along = ablation.post.norm_change[pair].to(dtype).unsqueeze(-1) * ablation.post.logits.index_select(0, position).to(dtype)
            total, frozen_norm = total + (1 + a) * along, frozen_norm + along
        if baseline.softcap is not None:
            uncapped = scaled + baseline.output_bias.to(dtype)
            total, frozen_norm, scale_only = (capped_change(uncapped, each, baseline.softcap) for each in (total, frozen_norm, scale_only))
        direction = baseline.frequency_direction.to(dtype)
        frozen_frequency = torch.addr(total, total @ direction, direction, alpha=-1)
        return cls(*_prediction(fields, position, dtype), total, frozen_norm, scale_only, frozen_frequency)

    @cached_property
    def log_p(self) -> Rows:
        """Nats; tokens without any probability keep theirs."""
        return self.logit.log_softmax(-1)

    def largest(self) -> Float[Tensor, "pair"]:
        """Largest change of any logit in any variant; nats."""
        variants = (self.total, self.frozen_norm, self.scale_only, self.frozen_frequency)
        return torch.stack([each.abs().amax(-1) for each in variants]).amax(0)


def _prediction(fields: PositionFields, position: Int[Tensor, "pair"], dtype: torch.dtype) -> tuple[Rows, Rows, Rows]:
    """Probabilities, centred logits and centred log-frequencies of each pair's position."""
    if dtype == fields.log_partition.dtype:
        every = fields.every
        return (
            every.probability.index_select(0, position),
            every.logit.index_select(0, position),
            every.log_frequency.index_select(0, position),
        )
    logits, log_q = fields.baseline.in_float64(position).logits(), fields.baseline.frequency_log_probs.to(dtype)
    p = logits.softmax(-1)
    return p, logits - (p * logits).sum(-1, keepdim=True), log_q - (p @ log_q).unsqueeze(-1)


def capped_change(uncapped: Rows, change: Rows, softcap: float | None) -> Rows:
    """Change of softcap tanh(z / softcap) when z changes, without the cancellation of a difference."""
    if softcap is None:
        return change
    before, step = torch.tanh(uncapped / softcap), torch.tanh(change / softcap)
    return softcap * step * (1 - before.square()) / (1 + before * step)


class Exact:
    """The effects of some pairs."""

    def __init__(self, rows: RowsOfPairs, fields: PositionFields, position: Int[Tensor, "pair"]) -> None:
        self.rows, self.p = rows, rows.probability
        self.targets, self.top = (each[position].unsqueeze(-1) for each in (fields.baseline.targets, fields.top))
        self.frequency = fields.baseline.frequency_log_probs.exp().to(self.p.dtype)

    def tilted(self, change: Rows, with_means: bool = True) -> tuple[Tilted, Rows]:
        """The prediction that a change makes, and the change with its mean taken out."""
        centred = change - vecdot(self.p, change).unsqueeze(-1)
        fields = (centred, self.rows.logit, self.rows.log_frequency) if with_means else ()
        if centred.dtype == torch.float64:
            divergence, difference = self._tilt(centred)
            return Tilted(divergence, *(vecdot(difference, each) for each in fields)), centred
        weighted = torch.expm1(centred).mul_(self.p)
        growth = weighted.sum(-1)
        return Tilted(
            torch.log1p(growth), *(vecdot(weighted, each) / (1 + growth) for each in fields)
        ), centred  # their means under p are 0

    def _tilt(self, centred: Rows) -> tuple[Float[Tensor, "pair"], Rows]:
        """log E_p exp Δ, and p' - p."""
        if centred.dtype == torch.float64:
            mass_before = self.rows.log_p.logsumexp(-1)  # zero but for rounding, so that no change has exactly no effect
            divergence = (self.rows.log_p + centred).logsumexp(-1) - mass_before
            return divergence, (self.rows.log_p + centred - divergence.unsqueeze(-1)).exp() - self.rows.log_p.exp()
        weighted = self.p * torch.expm1(centred)
        growth = weighted.sum(-1, keepdim=True)
        return torch.log1p(growth).squeeze(-1), (weighted - self.p * growth) / (1 + growth)

    def loss(self, tilted: Tilted, centred: Rows) -> Float[Tensor, "pair"]:
        """Change of the loss."""
        return tilted.divergence - centred.gather(-1, self.targets).squeeze(-1)

    def kl_from_frequency(self, tilted: Tilted, centred: Rows) -> Float[Tensor, "pair"]:
        """Change of D(P_freq || P_model)."""
        return tilted.divergence - centred @ self.frequency

    def rank_changes(self, change: Rows) -> tuple[Float[Tensor, "pair"], Float[Tensor, "pair"]]:
        """Whether another token is the most likely one, 1 or 0, and the change of 1 / (rank + 1) of the target; ties change nothing."""
        before, after = self.rows.logit, self.rows.logit + change
        is_another = (after.amax(-1) > after.gather(-1, self.top).squeeze(-1)).to(change.dtype)
        before, after = (count_of_ones(each > each.gather(-1, self.targets), each.dtype) for each in (before, after))
        return is_another, reciprocal_rank_change(before, after)

    def least_divergence(self, tilted: Tilted, centred: Rows) -> Float[Tensor, "pair"]:
        """Smallest D(p_β || p') over temperatures β > 0 of the unablated prediction; of a large change there may be several minima."""
        divergence, nodes = tilted.divergence, NODES[centred.dtype]
        least = torch.minimum(divergence.clamp(min=0), self._least_divergence_from(torch.ones_like(divergence), divergence, centred))
        if nodes:
            at_nodes = torch.stack([self._at_temperature(torch.full_like(divergence, beta), centred)[0] for beta in nodes])
            lowest = divergence.new_tensor(nodes)[at_nodes.argmin(0)]
            least = torch.minimum(least, self._least_divergence_from(lowest, divergence, centred))
            least = torch.minimum(least, self._at_zero_temperature(divergence, centred))
        return least

    def _at_zero_temperature(self, divergence: Float[Tensor, "pair"], centred: Rows) -> Float[Tensor, "pair"]:
        """D of the limit of β without end, where all probability is on the top token; without end where several share the top."""
        top, second = self.rows.logit.topk(2, dim=-1).values.unbind(-1)
        of_top = (divergence.unsqueeze(-1) - centred - self.rows.log_p).gather(-1, self.top).squeeze(-1)
        return torch.where(top > second, of_top.clamp(min=0), torch.inf)

    def _least_divergence_from(
        self, beta: Float[Tensor, "pair"], divergence: Float[Tensor, "pair"], centred: Rows
    ) -> Float[Tensor, "pair"]:
        """By Newton's steps in β, halved where they do not help."""
        added, step = self._at_temperature(beta, centred)
        for _ in range(N_STEPS[centred.dtype]):
            if not (step.abs() > STEP_MIN[centred.dtype] * beta.clamp(min=0.01)).any():
                break
            tried, next_step = self._at_temperature(beta + step, centred)
            is_better = tried < added
            beta, added = torch.where(is_better, beta + step, beta), torch.where(is_better, tried, added)
            step = torch.where(is_better, next_step, step / 2)
        return (divergence + added).clamp(min=0)

    def _at_temperature(self, beta: Float[Tensor, "pair"], centred: Rows) -> tuple[Float[Tensor, "pair"], Float[Tensor, "pair"]]:
        """D(p_β || p') - D(p || p'), and Newton's step in β; where that would climb, to where β - 1 = Cov_β(z, Δ) / Var_β(z)."""
        theta, y = (beta - 1).unsqueeze(-1), self.rows.logit
        log_mass, difference = self._tilt(theta * y)
        tilted, rest = self.p + difference, theta * y - centred
        mean, mean_rest = ((difference * each).sum(-1, keepdim=True) for each in (y, rest))
        around = y - mean
        weighted = tilted * around
        variance, slope = (weighted * around).sum(-1), (weighted * (rest - mean_rest)).sum(-1)
        curvature = variance + (weighted * around * (rest - mean_rest)).sum(-1)
        curvature = torch.where(curvature > variance / 4, curvature, variance).clamp(min=torch.finfo(variance.dtype).tiny)
        step = torch.minimum(torch.maximum(-slope / curvature, -0.75 * beta), 3 * beta)
        return mean_rest.squeeze(-1) - log_mass, step


def exact_changes(
    fields: PositionFields, ablation: Ablation, at: Coefficients, pair: tuple[Tensor, Tensor], wanted: Wanted, with_temperature: bool = True
) -> dict[str, Float[Tensor, "pair"]]:
    """Changes of some pairs of position and neuron, by the names of ``EffectChanges``.

    Args:
        fields: of all positions.
        ablation: of all pairs.
        at: of all pairs.
        pair: which.
        wanted: which changes.
        with_temperature: also the divergence from the best temperature, where it is wanted.
    """
    rows = RowsOfPairs.of(fields, ablation, at.part(pair), pair, at.scaled.dtype)
    changes = _changes(rows, fields, pair, wanted, with_temperature)
    is_large = ~(rows.largest() <= LARGEST_SMALL_CHANGE)
    if wanted.temperature and with_temperature:
        is_large |= changes["divergence"] > LARGEST_SMALL_DIVERGENCE
    if at.scaled.dtype != torch.float64 and is_large.any():
        large = pair[0][is_large], pair[1][is_large]
        again = _changes(RowsOfPairs.of(fields, ablation, at.part(large), large, torch.float64), fields, large, wanted, with_temperature)
        for name, values in again.items():
            changes[name][is_large] = values.to(changes[name].dtype)
    return changes


def _changes(
    rows: RowsOfPairs, fields: PositionFields, pair: tuple[Tensor, Tensor], wanted: Wanted, with_temperature: bool
) -> dict[str, Tensor]:
    exact = Exact(rows, fields, pair[0])
    total, frozen_norm = exact.tilted(rows.total), exact.tilted(rows.frozen_norm)
    frozen_frequency = exact.tilted(rows.frozen_frequency, with_means=wanted.every_variant)
    changes = {
        "loss": exact.loss(*total),
        "loss_frozen_norm": exact.loss(*frozen_norm),
        "loss_frozen_frequency": exact.loss(*frozen_frequency),
        "entropy": total[0].entropy_change(),
        "entropy_frozen_norm": frozen_norm[0].entropy_change(),
        "kl_from_frequency": exact.kl_from_frequency(*total),
        "kl_to_frequency": total[0].kl_to_frequency_change(),
    }
    if wanted.scale_only:
        changes["loss_scale_only"] = exact.loss(*exact.tilted(rows.scale_only, with_means=False))
    if wanted.ranks:
        is_number = total[0].divergence.isfinite()  # comparisons with nan would be answers too
        for name, values in zip(RANKS, exact.rank_changes(rows.total), strict=True):
            changes[name] = torch.where(is_number, values, torch.nan)
    if wanted.temperature:
        changes["divergence"] = total[0].divergence.clamp(min=0)
        if with_temperature:
            changes["divergence_from_temperature"] = exact.least_divergence(*total)
    if wanted.every_variant:
        changes["entropy_frozen_frequency"] = frozen_frequency[0].entropy_change()
        changes["kl_from_frequency_frozen_norm"] = exact.kl_from_frequency(*frozen_norm)
        changes["kl_from_frequency_frozen_frequency"] = exact.kl_from_frequency(*frozen_frequency)
    return changes
