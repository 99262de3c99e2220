"""How far each pair's logits go, before anything is computed for it: bounds over the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from confreg.neurons.ablation import some_pairs
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
        """Of a sum of changes, from how far each goes along its field, not negative, and that field's largest value and spread."""
        (first, *sizes), *others = along
        largest, spread = (first * each for each in sizes)
        for step, of_largest, of_spread in others:
            largest, spread = largest.addcmul_(step, of_largest), spread.addcmul_(step, of_spread)
        return cls(largest, torch.minimum(spread, largest))

    def part(self, positions: slice, neurons: slice | Tensor = slice(None)) -> Extent:
        """That of some pairs."""
        return Extent(self.largest[positions, neurons], self.spread[positions, neurons])

    @property
    def shape(self) -> torch.Size:
        """Positions, neurons."""
        return self.largest.shape


@dataclass(frozen=True)
class Reach:
    """How far the logits of each pair go."""

    fields: PositionFields
    at: Coefficients
    of_writes: tuple[Float[Tensor, "position neuron"], Float[Tensor, "position neuron"]]  # |B - E B| of any token, standard deviation

    @classmethod
    def of(cls, fields: PositionFields, writes: NeuronWrites, at: Coefficients) -> Reach:
        """For all pairs of these positions and neurons."""
        smallest, largest = writes.extremes
        mean_write = fields.mean_unembedding(writes.unembedding) @ writes.w_out.T
        from_mean = torch.maximum(largest - mean_write, mean_write - smallest)
        return cls(fields, at, (from_mean, _spread_of_writes(fields.every.probability, writes, mean_write)))

    @property
    def total(self) -> Extent:
        """Of the replacement itself."""
        return Extent.added_up((self.at.write.abs(), *self.of_writes), self._along_scaled)

    @cached_property
    def every(self) -> Extent:
        """Of any variant."""
        sizes = self.fields.sizes
        longest_write = torch.maximum(self.at.write.abs(), self.at.write_frozen_norm.abs())
        along_frequency = self.at.log_frequency.abs(), sizes.largest_log_frequency, sizes.spread_log_frequency
        return Extent.added_up((longest_write, *self.of_writes), self._along_scaled, along_frequency)

    def of_neurons(self, neurons: Int[Tensor, "part"]) -> Reach:
        """Of some neurons."""
        from_mean, spread, largest, of_change = (
            some_pairs(each, slice(None), neurons) for each in (*self.of_writes, self.every.largest, self.every.spread)
        )
        part = Reach(self.fields, self.at.of_neurons(neurons), (from_mean, spread))
        part.__dict__["every"] = Extent(largest, of_change)
        return part

    @cached_property
    def _along_scaled(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.at.scaled.abs(), self.fields.sizes.largest_scaled, self.fields.sizes.spread_scaled


def _spread_of_writes(
    probability: Float[Tensor, "position vocab"], writes: NeuronWrites, mean_write: Float[Tensor, "position neuron"]
) -> Float[Tensor, "position neuron"]:
    square = writes.mean_square(probability)
    return ((square - mean_write.square()).clamp(min=0) + ROUNDING * square).sqrt()
