"""Effects of all pairs of some positions and neurons from their series."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from confreg.neurons.ablation import Wanted
from confreg.neurons.fields import PositionFields
from confreg.neurons.moment_weights import Weight
from confreg.neurons.moments import Moments
from confreg.neurons.orders import TRUNCATION_NATS, first_term_left_out
from confreg.neurons.series import Coefficients, Series, Tilted
from confreg.neurons.writes import NeuronWrites

Changes = dict[str, Float[Tensor, "position neuron"]]


@dataclass(frozen=True)
class _CentredAt:
    """The fields of the change, their means taken out, at the target or on average over the token frequencies."""

    scaled: Float[Tensor, "position 1"]
    write: Float[Tensor, "position neuron"]
    log_frequency: Float[Tensor, "position 1"]

    @classmethod
    def target(cls, fields: PositionFields, writes: NeuronWrites, mean_write: Tensor) -> _CentredAt:
        baseline = fields.baseline
        scaled = baseline.scaled_logits.gather(-1, baseline.targets.unsqueeze(-1)).squeeze(-1)
        write = writes.unembedding[baseline.targets] @ writes.w_out.T
        return cls._centred(fields, scaled, write - mean_write, baseline.frequency_log_probs[baseline.targets])

    @classmethod
    def frequency(cls, fields: PositionFields, writes: NeuronWrites, mean_write: Tensor) -> _CentredAt:
        log_q = fields.baseline.frequency_log_probs
        q = log_q.exp()
        return cls._centred(fields, fields.baseline.scaled_logits @ q, writes.along(q) - mean_write, q @ log_q)

    @classmethod
    def _centred(cls, fields: PositionFields, scaled: Tensor, write: Tensor, log_frequency: Tensor) -> _CentredAt:
        return cls((scaled - fields.mean_scaled).unsqueeze(-1), write, (log_frequency - fields.mean_log_frequency).unsqueeze(-1))

    def total(self, at: Coefficients) -> Tensor:
        return (at.scaled * self.scaled).addcmul_(at.write, self.write)

    def frozen_norm(self, at: Coefficients) -> Tensor:
        return at.write_frozen_norm * self.write

    def frozen_frequency(self, at: Coefficients) -> Tensor:
        return self.total(at).addcmul_(at.log_frequency, self.log_frequency)


def expanded_changes(fields: PositionFields, writes: NeuronWrites, at: Coefficients, moments: Moments, wanted: Wanted) -> Changes:
    """Changes by the names of ``EffectChanges``, but for those of arg max and rank; nan for temperatures that no series reaches."""
    series = Series(moments, at)
    total, frozen_norm = series.total(), series.frozen_norm()
    frozen_frequency = series.frozen_frequency(wanted.every_variant)
    target, frequency = (of(fields, writes, moments.mean_write) for of in (_CentredAt.target, _CentredAt.frequency))
    changes = {
        "loss": _less(total, target.total(at)),
        "loss_frozen_norm": _less(frozen_norm, target.frozen_norm(at)),
        "loss_frozen_frequency": _less(frozen_frequency, target.frozen_frequency(at)),
        "entropy": total.entropy_change(),
        "entropy_frozen_norm": frozen_norm.entropy_change(),
        "kl_from_frequency": _less(total, frequency.total(at)),
        "kl_to_frequency": total.kl_to_frequency_change(),
    }
    if wanted.scale_only:
        changes["loss_scale_only"] = _less(series.scale_only(), at.scaled * target.scaled)
    if wanted.temperature:
        changes["divergence"] = total.divergence.clamp(min=0)
        changes["divergence_from_temperature"] = _least_divergence(fields, series, total.divergence)
    if wanted.every_variant:
        changes["entropy_frozen_frequency"] = frozen_frequency.entropy_change()
        changes["kl_from_frequency_frozen_norm"] = _less(frozen_norm, frequency.frozen_norm(at))
        changes["kl_from_frequency_frozen_frequency"] = _less(frozen_frequency, frequency.frozen_frequency(at))
    return changes


def _less(tilted: Tilted, change: Float[Tensor, "position neuron"]) -> Float[Tensor, "position neuron"]:
    """The divergence less a change, in whose place it is put: new memory is what costs most here."""
    return torch.sub(tilted.divergence, change, out=change)


def _least_divergence(fields: PositionFields, series: Series, divergence: Float[Tensor, "position neuron"]) -> Tensor:
    """That from the best temperature; where it changes the logits by more than the series describes, nan."""
    theta, variance = series.temperature_change.abs(), series.moments.of(Weight(2))[0]
    spread = torch.maximum(theta * variance.clamp(min=0).sqrt(), (2 * divergence.clamp(min=0)).sqrt())  # the change's own beside it
    error = first_term_left_out(series.order + 1, theta * fields.largest_logit, spread)
    return torch.where(error <= TRUNCATION_NATS[error.dtype], series.least_divergence(divergence), torch.nan)
