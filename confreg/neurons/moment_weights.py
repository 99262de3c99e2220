"""Which moments an expansion takes: the weights, and with each of them the powers of what a neuron writes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

TENSORS_OF_A_SERIES = 40  # sums on the way to the changes


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
def highest_powers(order: int, every_variant: bool = False, is_folded: bool = False, with_temperature: bool = True) -> dict[Weight, int]:
    """Of the write, with each weight of an expansion to ``order``; the weights that meet none come last."""
    powers = {weight: order - taken for weight, taken in orders_of_moments(order, every_variant, is_folded).items()}
    for weight in temperature_weights(order) if with_temperature else ():
        key = folded(weight) if is_folded else weight
        powers[key] = max(powers.get(key, 0), int(weight.scaled == 0 and weight.logit <= order))
    return dict(sorted(powers.items(), key=lambda each: not each[1]))


@dataclass(frozen=True)
class Family:
    """The weights with one power of y: how many powers of f there are, from 0 on, with each power of h and each of the write."""

    logit: int
    counts: tuple[tuple[int, ...], ...]  # [power of h][power of the write]; never growing along either

    def n_scaled(self, log_frequency: int, write: int) -> int:
        """Powers of f with these of h and of the write."""
        if log_frequency >= len(self.counts) or write >= len(self.counts[log_frequency]):
            return 0
        return self.counts[log_frequency][write]


@cache
def families(order: int, every_variant: bool = False, is_folded: bool = False, with_temperature: bool = True) -> tuple[Family, ...]:
    """The weights of ``highest_powers``, ascending by the power of y, which leaves none out."""
    powers = highest_powers(order, every_variant, is_folded, with_temperature)
    found: list[Family] = []
    while some := [(weight, power) for weight, power in powers.items() if weight.logit == len(found)]:
        rows = [[power for weight, power in some if weight.log_frequency == each] for each in range(order + 1)]
        found.append(Family(len(found), tuple(tuple(sum(power >= k for power in row) for k in range(max(row) + 1)) for row in rows if row)))
    return tuple(found)


@cache
def tensors_of_series(order: int, every_variant: bool = False, is_folded: bool = False) -> int:
    """For each pair at once: moments, each weight's mean under the tilted prediction, and what is made of them."""
    powers = highest_powers(order, every_variant, is_folded).values()
    return sum(powers) + sum(map(bool, powers)) + TENSORS_OF_A_SERIES
