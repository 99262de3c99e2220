"""Joint moments, under the unablated prediction, of what a neuron writes to the logits and of what all neurons share: by matrix products.

With B a neuron's write and, at a position, the centred fields y (logits), f (scaled logits) and h (log-frequencies), these are

    E_p[y^i f^j h^l (B - E_p B)^k]

for all pairs of position and neuron. Each is a product of two matrices, one without neurons and one without positions, so that
position x neuron x vocabulary is never formed; the first power of B goes through the width of the residual instead of the neurons. Where
the logits have neither bias nor cap, f is y, and moments that are then the same are computed once.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from confreg.neurons.fields import Fields, PositionFields
from confreg.neurons.writes import NeuronWrites, slices

TOKENS_AT_ONCE = 1024
ELEMENTS_IN_CACHE = 2**20  # weight x position x token


class Weight(NamedTuple):
    """Powers of the centred fields by which the prediction is weighted."""

    logit: int = 0
    scaled: int = 0
    log_frequency: int = 0

    @property
    def without_last(self) -> Weight:
        """The weight of which this one is the product with one more field."""
        if self.log_frequency:
            return Weight(self.logit, self.scaled, self.log_frequency - 1)
        return Weight(self.logit - 1, self.scaled) if self.logit else Weight(0, self.scaled - 1)


KNOWN = {Weight(): 1.0, Weight(1): 0.0, Weight(0, 1): 0.0, Weight(0, 0, 1): 0.0}  # the whole probability, and means of centred fields


@cache
def orders_of_weights(order: int, every_variant: bool = False) -> dict[Weight, int]:
    """The weights of an expansion to ``order``, ascending by the order that each takes of it; the rest is left to powers of the write.

    A first power of y or h is that of a mean to be expanded and takes none; higher ones of h belong to the expansion.
    """
    taken: dict[Weight, int] = {}
    for scaled in range(order + 1):
        taken |= dict.fromkeys((Weight(0, scaled, 0), Weight(1, scaled, 0), Weight(0, scaled, 1)), scaled)
        taken |= {Weight(0, scaled, power): scaled + power for power in range(2, order - scaled + 1)}
        if every_variant:
            taken |= {Weight(1, scaled, power): scaled + power for power in range(1, order - scaled + 1)}
    return dict(sorted(taken.items(), key=lambda each: each[1]))


def temperature_weights(order: int) -> list[Weight]:
    """Higher powers of y, for the temperature that fits best, those that meet the write first."""
    return [*(Weight(power, 0) for power in range(2, order + 3)), *(Weight(power, 1) for power in range(2, order + 1))]


def folded(weight: Weight) -> Weight:
    """The same weight where f is y."""
    return Weight(0, weight.logit + weight.scaled, weight.log_frequency)


@cache
def orders_of_moments(order: int, every_variant: bool = False, is_folded: bool = False) -> dict[Weight, int]:
    """The weights that are different ones, ascending by the least order that each takes."""
    taken: dict[Weight, int] = {}
    for weight, each in orders_of_weights(order, every_variant).items():
        taken.setdefault(folded(weight) if is_folded else weight, each)
    return taken


@cache
def shared_weights(order: int, every_variant: bool = False, is_folded: bool = False) -> list[Weight]:
    """All of which an expansion to ``order`` needs the mean, and that with the unembedding."""
    of_temperature = (folded(each) if is_folded else each for each in temperature_weights(order))
    return list(dict.fromkeys([*orders_of_moments(order, every_variant, is_folded), *of_temperature]))


def products(fields: Fields, weights: Collection[Weight]) -> Float[Tensor, "weight position part"]:
    """The prediction times each of the weights, of which every one is a product of another with one more field."""
    place = {weight: place for place, weight in enumerate(weights)}
    weighted = fields.probability.new_empty(len(place), *fields.probability.shape)
    for weight in sorted(place, key=sum):
        if any(weight):
            field = fields.log_frequency if weight.log_frequency else fields.logit if weight.logit else fields.scaled
            torch.mul(weighted[place[weight.without_last]], field, out=weighted[place[weight]])
        else:
            weighted[place[weight]] = fields.probability
    return weighted


class SharedMoments:
    """What all neurons share at some positions: the mean of each weight, and its mean with the unembedding, from which those with the first
    power of any write follow. Computed when first asked for, to the highest order so far."""

    def __init__(self, fields: PositionFields, unembedding: Float[Tensor, "vocab d_model"], every_variant: bool = False) -> None:
        self.fields, self.unembedding, self.every_variant = fields, unembedding, every_variant
        self.is_folded = fields.baseline.has_scaled_logits
        self.means: dict[Weight, Float[Tensor, "position 1"]] = {}
        self.with_unembedding: dict[Weight, Float[Tensor, "position d_model"]] = {}
        self._order = 0

    def key(self, weight: Weight) -> Weight:
        """Under which its moments are kept."""
        return folded(weight) if self.is_folded else weight

    def up_to(self, order: int) -> SharedMoments:
        """Itself, with all that an expansion to this order needs."""
        if order > self._order:
            self._compute(shared_weights(order, self.every_variant, self.is_folded))
            self._order = order
        return self

    def _compute(self, weights: list[Weight]) -> None:
        n_positions, d_model = len(self.fields.log_partition), self.unembedding.shape[1]
        means, with_unembedding = (self.unembedding.new_zeros(len(weights), n_positions, size) for size in (1, d_model))
        for tokens in slices(len(self.unembedding), TOKENS_AT_ONCE):
            for positions, weighted in self.products_by_part(tokens, weights):
                means[:, positions] += weighted.sum(-1, keepdim=True)
                with_unembedding[:, positions] += weighted @ self.unembedding[tokens]
        self.means, self.with_unembedding = dict(zip(weights, means, strict=True)), dict(zip(weights, with_unembedding, strict=True))
        for weight in KNOWN.keys() & self.means.keys():  # what rounding makes of it would be larger than a small effect
            self.means[weight] = torch.full_like(self.means[weight], KNOWN[weight])

    def products_by_part(self, tokens: slice, weights: Collection[Weight]) -> Iterator[tuple[slice, Float[Tensor, "weight part token"]]]:
        """The weighted prediction for some of the vocabulary, in parts of the positions that fit a core's cache."""
        fields = self.fields.of_tokens(tokens)
        for positions in slices(len(self.fields.log_partition), ELEMENTS_IN_CACHE // (len(weights) * (tokens.stop - tokens.start))):
            yield positions, products(fields.part(positions), weights)


@dataclass(frozen=True)
class Moments:
    """Central moments by weight: the one without the write, [position, 1], then those of its powers, [position, neuron]."""

    of_weight: Mapping[Weight, list[Float[Tensor, "position _"]]]
    mean_write: Float[Tensor, "position neuron"]  # E_p B
    order: int

    @classmethod
    def of_groups(cls, shared: SharedMoments, groups: Mapping[int, NeuronWrites]) -> Iterator[tuple[int, Moments]]:
        """For all pairs of these positions with the neurons of each group, whose key is the order of their expansion."""
        sums = _PowerSums(shared, groups)
        for order in groups:
            powers, highest = _highest_powers(order, shared.every_variant), dict[Weight, int]()
            for weight, power in powers.items():
                highest[shared.key(weight)] = max(power, highest.get(shared.key(weight), 0))
            raw = {weight: sums.raw(weight, order, power) for weight, power in highest.items()}
            mean = raw[Weight()][1]
            found = {weight: central(moments, mean) for weight, moments in raw.items()}
            yield order, cls({weight: found[shared.key(weight)][: power + 1] for weight, power in powers.items()}, mean, order)


def _highest_powers(order: int, every_variant: bool) -> dict[Weight, int]:
    """Of the write, with each weight of an expansion."""
    powers = {weight: order - taken for weight, taken in orders_of_weights(order, every_variant).items()}
    return powers | {weight: int(weight.scaled == 0 and weight.logit <= order) for weight in temperature_weights(order)}


class _PowerSums:
    """Raw moments with the second and higher powers of the write, added up over parts of the vocabulary. The weights that take least of an
    order come first, so that those that go with any power of the write are one matrix."""

    def __init__(self, shared: SharedMoments, groups: Mapping[int, NeuronWrites]) -> None:
        self.shared, self.groups, highest = shared.up_to(max(groups)), groups, max(groups)
        every = orders_of_moments(highest, shared.every_variant, shared.is_folded)
        self.taken = {weight: taken for weight, taken in every.items() if taken <= highest - 2}
        self.place, n_positions = {weight: place for place, weight in enumerate(self.taken)}, len(shared.fields.log_partition)
        self.sums = {
            (order, power): writes.w_out.new_zeros(self._n_weights(order - power), n_positions, len(writes.w_out))
            for order, writes in groups.items()
            for power in range(2, order + 1)
        }
        for tokens in slices(len(shared.unembedding), TOKENS_AT_ONCE):
            self._add(tokens)

    def _n_weights(self, order_left: int) -> int:
        return sum(taken <= order_left for taken in self.taken.values())

    def _add(self, tokens: slice) -> None:
        raised = {key: sums for order, writes in self.groups.items() for key, sums in _powers(order, writes.to_tokens(tokens))}
        for positions, weighted in self.shared.products_by_part(tokens, self.taken):
            for key, power_of_write in raised.items():
                sums = self.sums[key]
                part = weighted[: len(sums)].flatten(0, 1) @ power_of_write.T
                sums[:, positions] += part.view(len(sums), -1, sums.shape[-1])

    def raw(self, weight: Weight, order: int, highest_power: int) -> list[Tensor]:
        """The mean of a weight, and its moments with every power of a group's writes from the first."""
        moments = [self.shared.means[weight]]
        if highest_power:
            moments.append(self.shared.with_unembedding[weight] @ self.groups[order].w_out.T)
        if highest_power < 2:
            return moments
        return moments + [self.sums[order, power][self.place[weight]] for power in range(2, highest_power + 1)]


def _powers(order: int, written: Float[Tensor, "neuron token"]) -> Iterator[tuple[tuple[int, int], Float[Tensor, "neuron token"]]]:
    """Powers of what is written from the second on, with order and power as key."""
    raised = written
    for power in range(2, order + 1):
        raised = raised * written
        yield (order, power), raised


def central(raw: list[Float[Tensor, "position _"]], mean: Float[Tensor, "position neuron"]) -> list[Float[Tensor, "position _"]]:
    """E[w (B - b)^k] from E[w B^k], for k = 0, 1, …"""
    moments = raw[:1]
    for power in range(1, len(raw)):
        moment = raw[0]
        for lower in range(1, power + 1):  # Horner's scheme in -b
            moment = torch.addcmul(raw[lower] * math.comb(power, lower), moment, mean, value=-1.0)
        moments.append(moment)
    return moments
