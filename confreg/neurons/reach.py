"""How far each pair's logits go, before anything is computed for it: bounds over the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from confreg.neurons.fields import PositionFields
from confreg.neurons.series import Coefficients
from confreg.neurons.writes import NeuronWrites

ROUNDING = 1e-6  # of a mean square in fp32: a difference of two of them is no smaller


@dataclass(frozen=True)
class Extent:
    """Bounds on a change Δ of a pair's logits; nats."""

    largest: Float[Tensor, "position neuron"]  # |Δ - E_p Δ| of any token
    spread: Float[Tensor, "position neuron"]  # standard deviation of Δ under the prediction

    @classmethod
    def added_up(cls, *along: tuple[Tensor, Tensor, Tensor]) -> Extent:
        """Of a sum of changes, from how far each goes along its field, and that field's largest value and spread."""
        largest, spread = (torch.stack([step.abs() * each[size] for step, *each in along]).sum(0) for size in (0, 1))
        return cls(largest, torch.minimum(spread, largest))

    @property
    def shape(self) -> torch.Size:
        """Positions, neurons."""
        return self.largest.shape


@dataclass(frozen=True)
class Reach:
    """How far the logits of each pair go."""

    total: Extent
    every: Extent  # in any variant

    @classmethod
    def of(cls, fields: PositionFields, writes: NeuronWrites, at: Coefficients) -> Reach:
        """For all pairs of these positions and neurons."""
        (smallest, largest), sizes = writes.extremes, fields.sizes
        mean_write = fields.mean_unembedding(writes.unembedding) @ writes.w_out.T
        from_mean = torch.maximum(largest - mean_write, mean_write - smallest)
        of_writes = from_mean, _spread_of_writes(fields.every.probability, writes, mean_write)
        of_scaled = sizes.largest_scaled, sizes.spread_scaled
        of_log_frequency = sizes.largest_log_frequency, sizes.spread_log_frequency
        total = Extent.added_up((at.write, *of_writes), (at.scaled, *of_scaled))
        longest_write = torch.maximum(at.write.abs(), at.write_frozen_norm.abs())
        return cls(total, Extent.added_up((longest_write, *of_writes), (at.scaled, *of_scaled), (at.log_frequency, *of_log_frequency)))


def _spread_of_writes(
    probability: Float[Tensor, "position vocab"], writes: NeuronWrites, mean_write: Float[Tensor, "position neuron"]
) -> Float[Tensor, "position neuron"]:
    square = writes.mean_square(probability)
    return ((square - mean_write.square()).clamp(min=0) + ROUNDING * square).sqrt()
