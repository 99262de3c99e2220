"""Joint moments, under the unablated prediction, of what a neuron writes to the logits and of what all neurons share: by matrix products.

With B a neuron's write and, at a position, the centred fields y (logits), f (scaled logits) and h (log-frequencies), these are

    E_p[y^i f^j h^l (B - E_p B)^k]

for all pairs of position and neuron. Each is a product of two matrices, one without neurons and one without positions, so that
position x neuron x vocabulary is never formed; the first power of B goes through the width of the residual instead of the neurons. Where
the logits have neither bias nor cap, f is y, and moments that are then the same are computed once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from confreg.neurons.fields import Fields, PositionFields
from confreg.neurons.moment_weights import Weight, folded, highest_powers, orders_of_moments, orders_of_weights
from confreg.neurons.writes import NeuronWrites, slices

TOKENS_AT_ONCE = 1024
ELEMENTS_IN_CACHE = 2**21  # weight x position x token
KNOWN = {Weight(): 1.0, Weight(1): 0.0, Weight(0, 1): 0.0, Weight(0, 0, 1): 0.0}  # the whole probability, and means of centred fields


def products(fields: Fields, weights: Collection[Weight]) -> Float[Tensor, "weight position part"]:
    """The prediction times each of the weights, of which every one is a product of another with one more field."""
    weighted = fields.probability.new_empty(len(weights), *fields.probability.shape)
    for place, source, field in _recipe(tuple(weights)):
        if field is None:
            weighted[place] = fields.probability
        else:
            torch.mul(weighted[source], getattr(fields, field), out=weighted[place])
    return weighted


@cache
def _recipe(weights: tuple[Weight, ...]) -> list[tuple[int, int, str | None]]:
    """For the place of each weight that of the one before, and the field that comes to it; None: it is the prediction itself."""
    place = {weight: place for place, weight in enumerate(weights)}
    steps: list[tuple[int, int, str | None]] = []
    for weight in sorted(place, key=sum):
        field = "log_frequency" if weight.log_frequency else "logit" if weight.logit else "scaled"
        steps.append((place[weight], place[weight.without_last], field) if any(weight) else (place[weight], 0, None))
    return steps


class SharedMoments:
    """What all neurons share at some positions: the mean of each weight, and its mean with the unembedding, from which those with the first
    power of any write follow. Computed when first asked for, to the highest order so far.

    Args:
        fields: at these positions.
        unembedding: of all neurons.
        every_variant: also for effects under every variant.
        with_temperature: also for the best temperature.
    """

    def __init__(
        self,
        fields: PositionFields,
        unembedding: Float[Tensor, "vocab d_model"],
        every_variant: bool = False,
        with_temperature: bool = True,
    ) -> None:
        self.fields, self.unembedding = fields, unembedding
        self.every_variant, self.with_temperature = every_variant, with_temperature
        self.is_folded = fields.baseline.has_scaled_logits
        self.means: dict[Weight, Float[Tensor, "position 1"]] = {}
        self.with_unembedding: dict[Weight, Float[Tensor, "position d_model"]] = {}
        self._order = 0

    def has_all(self, every_variant: bool, with_temperature: bool) -> bool:
        """Whether it serves effects under these variants, and the best temperature where that is asked for."""
        return self.every_variant == every_variant and self.with_temperature >= with_temperature

    def weighted_predictions(self, order: int) -> Iterator[tuple[slice, Iterator[tuple[slice, Float[Tensor, "weight part token"]]]]]:
        """For parts of the vocabulary: the prediction times those weights that take less than all of an order, and perhaps more after them,
        in parts of the positions that fit a core's cache. On the way this adds up what itself is to know up to that order."""
        weights = highest_powers(order, self.every_variant, self.is_folded, self.with_temperature)
        is_known = order <= self._order
        if is_known:
            weights = {weight: power for weight, power in weights.items() if power > 1}  # they come first
        sums = None if is_known else self._no_sums(weights)
        for tokens in slices(len(self.unembedding), TOKENS_AT_ONCE):
            yield tokens, self._parts(tokens, weights, sums)
        if sums is not None:
            self._keep(weights, sums)
            self._order = order

    def _no_sums(self, weights: Mapping[Weight, int]) -> tuple[Tensor, Tensor]:
        means = self.unembedding.new_zeros(len(weights), len(self.fields.log_partition), 1)
        return means, means.new_zeros(sum(map(bool, weights.values())), means.shape[1], self.unembedding.shape[1])

    def _parts(
        self, tokens: slice, weights: Collection[Weight], sums: tuple[Tensor, Tensor] | None
    ) -> Iterator[tuple[slice, Float[Tensor, "weight part token"]]]:
        fields = self.fields.of_tokens(tokens)
        for positions in slices(len(self.fields.log_partition), ELEMENTS_IN_CACHE // (len(weights) * (tokens.stop - tokens.start))):
            weighted = products(fields.part(positions), weights)
            if sums is not None:
                means, with_unembedding = sums
                means[:, positions] += weighted.sum(-1, keepdim=True)
                with_unembedding[:, positions] += weighted[: len(with_unembedding)] @ self.unembedding[tokens]
            yield positions, weighted

    def _keep(self, weights: Collection[Weight], sums: tuple[Tensor, Tensor]) -> None:
        self.means, self.with_unembedding = (dict(zip(weights, each, strict=False)) for each in sums)
        for weight in KNOWN.keys() & self.means.keys():  # what rounding makes of it would be larger than a small effect
            self.means[weight] = torch.full_like(self.means[weight], KNOWN[weight])


@dataclass(frozen=True)
class Moments:
    """Central moments: those of a weight without the write, [position, 1], then with its powers, [position, neuron]."""

    of_key: Mapping[Weight, list[Float[Tensor, "position _"]]]
    mean_write: Float[Tensor, "position neuron"]  # E_p B
    order: int
    every_variant: bool
    is_folded: bool

    @classmethod
    def of_groups(
        cls, shared: SharedMoments, groups: Mapping[int, NeuronWrites], with_temperature: bool = True
    ) -> Iterator[tuple[int, Moments]]:
        """For all pairs of these positions with the neurons of each group, whose key is the order of their expansion.

        Args:
            shared: of these positions and the writes' unembedding.
            groups: writes by order.
            with_temperature: also for the best temperature, as ``shared`` must be.
        """
        sums, every_variant = _PowerSums(shared, groups), shared.every_variant
        for order in groups:
            powers = highest_powers(order, every_variant, shared.is_folded, with_temperature)
            raw = {weight: sums.raw(weight, order, power) for weight, power in powers.items()}
            mean = raw[Weight()][1].clone()  # the moments take its place
            for moments in raw.values():
                centre(moments, mean)
            yield order, cls(raw, mean, order, every_variant, shared.is_folded)

    def key(self, weight: Weight) -> Weight:
        """Under which its moments are kept."""
        return folded(weight) if self.is_folded else weight

    def has(self, weight: Weight) -> bool:
        """Whether it belongs to the expansion of a mean."""
        return weight in orders_of_weights(self.order, self.every_variant)

    def of(self, weight: Weight) -> list[Float[Tensor, "position _"]]:
        """E[w (B - b)^k] for k = 0, 1, … as far as the order goes, or one further where f is y."""
        return self.of_key[self.key(weight)]


class _PowerSums:
    """Raw moments with the second and higher powers of the write, added up over parts of the vocabulary. The weights that take least of an
    order come first, so that those that go with any power of the write are one matrix."""

    def __init__(self, shared: SharedMoments, groups: Mapping[int, NeuronWrites]) -> None:
        self.shared, self.groups, highest = shared, groups, max(groups)
        every = orders_of_moments(highest, shared.every_variant, shared.is_folded)
        self.taken = {weight: taken for weight, taken in every.items() if taken <= highest - 2}
        self.place, n_positions = {weight: place for place, weight in enumerate(self.taken)}, len(shared.fields.log_partition)
        self.sums = {
            (order, power): writes.w_out.new_zeros(self._n_weights(order - power), n_positions, len(writes.w_out))
            for order, writes in groups.items()
            for power in range(2, order + 1)
        }
        for tokens, parts in shared.weighted_predictions(highest):
            self._add(tokens, parts)

    def _n_weights(self, order_left: int) -> int:
        return sum(taken <= order_left for taken in self.taken.values())

    def _add(self, tokens: slice, parts: Iterator[tuple[slice, Float[Tensor, "weight part token"]]]) -> None:
        raised = {key: sums for order, writes in self.groups.items() for key, sums in _powers(order, writes.to_tokens(tokens))}
        for positions, weighted in parts:
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


def centre(raw: list[Float[Tensor, "position _"]], mean: Float[Tensor, "position neuron"]) -> None:
    """Make E[w (B - b)^k] of E[w B^k], k = 0, 1, …, in place: every pass puts one more factor B - b in the place of a B."""
    for first in range(1, len(raw)):
        for power in range(len(raw) - 1, first - 1, -1):
            raw[power].addcmul_(raw[power - 1], mean, value=-1.0)
