"""How far each pair's logits go, before anything is computed for it: bounds over the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from confreg.neurons.fields import Fields, PositionFields
from confreg.neurons.series import Coefficients
from confreg.neurons.writes import NeuronWrites

ROUNDING = 1e-6  # of a mean square in fp32: a difference of two of them is no smaller


@dataclass(frozen=True)
class Reach:
    """Bounds on the change of a pair's logits; nats."""

    largest: Float[Tensor, "position neuron"]  # |Δ - E_p Δ| of any token, in any variant
    spread: Float[Tensor, "position neuron"]  # standard deviation of Δ under the prediction, in any variant
    change_range: Float[Tensor, "position neuron"]  # of the total: how much more one token's logit changes than another's

    @classmethod
    def of(cls, fields: PositionFields, writes: NeuronWrites, at: Coefficients) -> Reach:
        """For all pairs of these positions and neurons."""
        every, (smallest, largest) = fields.of_tokens(), writes.extremes
        mean_write = every.probability @ writes.unembedding @ writes.w_out.T
        from_mean = torch.maximum(largest - mean_write, mean_write - smallest)
        along_write = torch.maximum(at.write.abs(), at.write_frozen_norm.abs()) * from_mean
        along_scaled = at.scaled.abs() * every.scaled.abs().amax(-1, keepdim=True)
        along_frequency = at.log_frequency.abs() * every.log_frequency.abs().amax(-1, keepdim=True)
        furthest = along_write + along_scaled + along_frequency
        spread = torch.maximum(at.write.abs(), at.write_frozen_norm.abs()) * _spread_of_writes(every.probability, writes, mean_write)
        spread = spread + at.scaled.abs() * _spread(every, every.scaled) + at.log_frequency.abs() * _spread(every, every.log_frequency)
        width = every.scaled.amax(-1, keepdim=True) - every.scaled.amin(-1, keepdim=True)
        change_range = at.write.abs() * (largest - smallest) + at.scaled.abs() * width
        return cls(furthest, torch.minimum(spread, furthest), change_range)

    @property
    def shape(self) -> torch.Size:
        """Positions, neurons."""
        return self.largest.shape


def _spread(fields: Fields, centred: Float[Tensor, "position vocab"]) -> Float[Tensor, "position 1"]:
    return (fields.probability * centred.square()).sum(-1, keepdim=True).sqrt()


def _spread_of_writes(
    probability: Float[Tensor, "position vocab"], writes: NeuronWrites, mean_write: Float[Tensor, "position neuron"]
) -> Float[Tensor, "position neuron"]:
    square = writes.mean_square(probability)
    return ((square - mean_write.square()).clamp(min=0) + ROUNDING * square).sqrt()
