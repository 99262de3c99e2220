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
        tokens, (smallest, largest) = fields.every, writes.extremes
        mean_write = tokens.probability @ writes.unembedding @ writes.w_out.T
        from_mean = torch.maximum(largest - mean_write, mean_write - smallest)
        spread_of_writes = _spread_of_writes(tokens.probability, writes, mean_write)

        def extent(along_write: Tensor, *along: tuple[Tensor, Tensor]) -> Extent:
            furthest, spread = along_write.abs() * from_mean, along_write.abs() * spread_of_writes
            for how_far, centred in along:
                furthest = furthest + how_far.abs() * centred.abs().amax(-1, keepdim=True)
                spread = spread + how_far.abs() * (tokens.probability * centred.square()).sum(-1, keepdim=True).sqrt()
            return Extent(furthest, torch.minimum(spread, furthest))

        scaled, log_frequency = (at.scaled, tokens.scaled), (at.log_frequency, tokens.log_frequency)
        longest_write = torch.maximum(at.write.abs(), at.write_frozen_norm.abs())
        return cls(extent(at.write, scaled), extent(longest_write, scaled, log_frequency))


def _spread_of_writes(
    probability: Float[Tensor, "position vocab"], writes: NeuronWrites, mean_write: Float[Tensor, "position neuron"]
) -> Float[Tensor, "position neuron"]:
    square = writes.mean_square(probability)
    return ((square - mean_write.square()).clamp(min=0) + ROUNDING * square).sqrt()
