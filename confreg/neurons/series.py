"""Changes of a prediction as a power series in the change of its logits, with moments as coefficients.

At a pair of position and neuron the logits change by Δ = a f + c (B - E_p B) up to a constant, f the centred scaled logits; putting the
frequency component back adds κ h, h the centred log-frequencies. Every effect is an expectation under the tilted prediction p exp(Δ), and
so a power series in a, c and κ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from confreg.neurons.ablation import some_pairs
from confreg.neurons.moment_weights import Weight
from confreg.neurons.moments import Moments

Pairs = Float[Tensor, "position neuron"]


@dataclass(frozen=True)
class Coefficients:
    """How far each pair goes along each field."""

    scaled: Float[Tensor, "*pair"]  # a: s / s' - 1
    write: Float[Tensor, "*pair"]  # c: δ / s'
    write_frozen_norm: Float[Tensor, "*pair"]  # δ / s
    log_frequency: Float[Tensor, "*pair"]  # κ, in units of the log-frequencies

    def part(self, chosen: slice | Tensor | tuple[slice | Tensor, ...]) -> Coefficients:
        """Those of some pairs."""
        return Coefficients(self.scaled[chosen], self.write[chosen], self.write_frozen_norm[chosen], self.log_frequency[chosen])

    def of_neurons(self, neurons: Int[Tensor, "part"]) -> Coefficients:
        """Those of all positions and some neurons."""
        every = (self.scaled, self.write, self.write_frozen_norm, self.log_frequency)
        return Coefficients(*(some_pairs(each, slice(None), neurons) for each in every))


@dataclass(frozen=True)
class Tilted:
    """A changed prediction; what nobody asked for is None. Nats."""

    divergence: Float[Tensor, "*pair"]  # D(p || p') = log E_p exp Δ of the centred Δ
    mean_change: Float[Tensor, "*pair"] | None = None  # E_p' Δ
    logit: Float[Tensor, "*pair"] | None = None  # E_p' z - E_p z
    log_frequency: Float[Tensor, "*pair"] | None = None  # E_p' log q - E_p log q

    def entropy_change(self) -> Float[Tensor, "*pair"]:
        """H' - H."""
        assert self.mean_change is not None
        assert self.logit is not None
        return (self.divergence - self.mean_change).sub_(self.logit)

    def kl_to_frequency_change(self) -> Float[Tensor, "*pair"]:
        """Change of D(P_model || P_freq)."""
        assert self.log_frequency is not None
        return self.entropy_change().add_(self.log_frequency).neg_()


class Series:
    """The expansions of all pairs of some positions and neurons."""

    def __init__(self, moments: Moments, at: Coefficients) -> None:
        self.moments, self.at, self.order = moments, at, moments.order
        self._of_writes: dict[Weight, Tensor] = {}
        self._values: dict[tuple[int, int], Pairs] = {}

    def total(self) -> Tilted:
        """Of the replacement itself."""
        change = (self.at.scaled * self._with_scaled(0)).addcmul_(self.at.write, self._with_write(0))
        return _tilted(self._value(0, 0), change, self._value(1, 0), self._value(0, 1))

    def frozen_norm(self) -> Tilted:
        """With the scale of the final norm kept."""
        c, write = self.at.write_frozen_norm, self.moments.of(Weight())
        means = (series(c, self.moments.of(weight)[1:]) for weight in (Weight(1), Weight(0, 0, 1)))
        return _tilted(series(c, write[1:]), c * expansion(c, write[1:]), *means)

    def scale_only(self) -> Tilted:
        """With the scale of the final norm changed alone."""
        moments = [self.moments.of(Weight(0, power))[0] for power in range(1, self.order + 1)]
        return Tilted(torch.log1p(series(self.at.scaled, moments)))

    def frozen_frequency(self, every_variant: bool = False) -> Tilted:
        """With the component along the frequency direction put back."""
        kappa, powers = self.at.log_frequency, range(self.order + 1)
        values = [self._value(0, power) for power in powers]
        growth = expansion(kappa, values)
        if not every_variant:
            return Tilted(torch.log1p(growth))
        along_scaled, along_write = (expansion(kappa, [of(power) for power in powers[:-1]]) for of in (self._with_scaled, self._with_write))
        change = (self.at.scaled * along_scaled).addcmul_(self.at.write, along_write).addcmul_(kappa, expansion(kappa, values[1:]))
        return _tilted(growth, change, expansion(kappa, [self._value(1, power) for power in powers]))

    @cached_property
    def temperature_change(self) -> Pairs:
        """θ = β - 1 of the temperature, p_β ~ p^β, whose prediction is nearest to the changed one.

        Setting the derivative of D(p_β || p') to zero gives θ = Cov_β(z, Δ) / Var_β(z). Relative to θ, the covariance under p has an error
        of the first order in Δ, and every step makes it one order smaller. The divergence, itself of the second order, feels its square:
        after one step an error of the sixth order, which series to the fifth do not know either, after two one of the eighth.
        """
        of_logit, along = self._with_powers_of_logit
        tiny = torch.finfo(of_logit[0].dtype).tiny
        theta = along[0] / of_logit[0].clamp(min=tiny)
        for _ in range(1 if self.order <= 5 else 2):
            growth, mean, change = self._at_temperature(theta, of_logit, along)
            mass = growth.add_(1)
            square, product = ((each[0] + series(theta, each[1:])).div_(mass) for each in (of_logit, along))
            theta = (product.addcmul_(mean, change, value=-1)).div_(square.addcmul_(mean, mean, value=-1).clamp_(min=tiny))
        return theta

    def least_divergence(self, divergence: Pairs) -> Pairs:
        """Smallest D(p_β || p') over temperatures of the unablated prediction, where that temperature is within reach of the series."""
        theta = self.temperature_change
        growth, mean, change = self._at_temperature(theta, *self._with_powers_of_logit)
        least = torch.addcmul(divergence - change, theta, mean).sub_(growth.log1p_())
        return torch.minimum(least.clamp_(min=0), divergence.clamp(min=0))

    @cached_property
    def _with_powers_of_logit(self) -> tuple[list[Tensor], list[Pairs]]:
        """E y^n from n = 2, and E y^n Δ from n = 1."""
        of_logit = [self.moments.of(Weight(power))[0] for power in range(2, self.order + 3)]
        return of_logit, [self._change_with(Weight(power)) for power in range(1, self.order + 1)]

    def _change_with(self, weight: Weight) -> Pairs:
        """E_p[w Δ]."""
        with_scaled = self.moments.of(weight._replace(scaled=1))[0]
        return (self.at.scaled * with_scaled).addcmul_(self.at.write, self.moments.of(weight)[1])

    @staticmethod
    def _at_temperature(theta: Pairs, of_logit: Sequence[Tensor], along: Sequence[Pairs]) -> tuple[Pairs, Pairs, Pairs]:
        """Mass above one, mean of y and mean of Δ under p exp(θ y)."""
        growth = series(theta, [torch.zeros_like(of_logit[0]), *of_logit[:-1]])
        mass = 1 + growth
        return growth, series(theta, of_logit).div_(mass), series(theta, along).div_(mass)

    def _value(self, logit: int, log_frequency: int) -> Pairs:
        """E[w exp(a f + c (B - b))] of the weight w = y^i h^l, without the one of the whole prediction's mass."""
        if (logit, log_frequency) not in self._values:
            weights = (Weight(logit, power, log_frequency) for power in range(self.order + 1))
            at_power = [self._of_write(each) for each in weights if self.moments.has(each)]
            self._values[logit, log_frequency] = expansion(self.at.scaled, at_power)
        return self._values[logit, log_frequency]

    def _with_scaled(self, log_frequency: int) -> Pairs:
        """The same of f h^l."""
        if self.moments.is_folded:
            return self._value(1, log_frequency)  # f is y
        weights = (Weight(0, power, log_frequency) for power in range(1, self.order + 1))
        return expansion(self.at.scaled, [self._of_write(each) for each in weights if self.moments.has(each)])

    def _with_write(self, log_frequency: int) -> Pairs:
        """The same of (B - b) h^l."""
        weights = (Weight(0, power, log_frequency) for power in range(self.order))
        powers = [self.moments.of(each)[1:] for each in weights if self.moments.has(each)]
        return expansion(self.at.scaled, [expansion(self.at.write, each) for each in powers if each])

    def _of_write(self, weight: Weight) -> Tensor:
        """E[w exp(c (B - b))], without the one of the whole prediction's mass; [position, 1] where no power of the write is known."""
        key = self.moments.key(weight)
        if key not in self._of_writes:
            moments = self.moments.of(weight)
            self._of_writes[key] = expansion(self.at.write, moments) if any(key) else series(self.at.write, moments[1:])
        return self._of_writes[key]


def _tilted(growth: Pairs, *times_mass: Pairs) -> Tilted:
    """From the mass of p exp Δ above one, and sums under it: of Δ, of y and of h."""
    mass = 1 + growth
    means = [each / mass for each in times_mass]
    return Tilted(torch.log1p(growth, out=mass), *means)


def expansion(x: Tensor, coefficients: Sequence[Tensor]) -> Tensor:
    """Σ x^n / n! c_n from n = 0, by Horner's scheme; a single coefficient is given back as it is."""
    value = coefficients[-1]
    for power in range(len(coefficients) - 1, 0, -1):
        value = _next(coefficients[power - 1], x, value, 1 / power, is_first=power == len(coefficients) - 1)
    return value


def series(x: Tensor, coefficients: Sequence[Tensor]) -> Tensor:
    """Σ x^n / n! c_n from n = 1; zero without coefficients."""
    if not coefficients:
        return torch.zeros_like(x)
    if len(coefficients) == 1:
        return x * coefficients[0]
    value = coefficients[-1]
    for power in range(len(coefficients) - 1, 0, -1):
        value = _next(coefficients[power - 1], x, value, 1 / (power + 1), is_first=power == len(coefficients) - 1)
    return value.mul_(x)


def _next(coefficient: Tensor, x: Tensor, value: Tensor, factor: float, is_first: bool) -> Tensor:
    """coefficient + factor x value, in the place of ``value`` unless that is a coefficient too: new memory is what costs most here."""
    if is_first:
        return torch.addcmul(coefficient, x, value, value=factor)
    return torch.addcmul(coefficient, x, value, value=factor, out=value)
