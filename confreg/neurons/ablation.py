"""What goes into the effects of replacing neurons, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from confreg.neurons.writes import GroupWrites, NeuronWrites


@dataclass(frozen=True)
class Baseline:
    """The unablated prediction at the scored positions. Logits have the vocabulary mean removed: nothing here depends on it."""

    scaled_logits: Float[Tensor, "position vocab"]  # ẑ, without bias
    output_bias: Float[Tensor, "vocab"]  # b̃
    targets: Int[Tensor, "position"]
    scale: Float[Tensor, "position"]  # s of the final norm
    frequency_log_probs: Float[Tensor, "vocab"]  # nats
    frequency_direction: Float[Tensor, "vocab"]  # u, a unit vector
    softcap: float | None = None  # logits are softcap * tanh(z / softcap); then no vocabulary mean is removed

    def logits(self, tokens: slice = slice(None)) -> Float[Tensor, "position part"]:
        """Of the unablated prediction, for some of the vocabulary."""
        if self.has_scaled_logits:
            return self.scaled_logits[:, tokens]
        logits = self.scaled_logits[:, tokens] + self.output_bias[tokens]
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    @cached_property
    def has_scaled_logits(self) -> bool:
        """Whether the logits are the scaled ones: no bias, no cap."""
        return self.softcap is None and not self.output_bias.any()

    def in_float64(self, positions: slice | Tensor) -> Baseline:
        """The same for some of the positions, in float64."""
        logits, bias, log_q, direction = (
            each.double() for each in (self.scaled_logits[positions], self.output_bias, self.frequency_log_probs, self.frequency_direction)
        )
        return Baseline(logits, bias, self.targets[positions], self.scale[positions], log_q, direction, self.softcap)

    def log_probs(self) -> Float[Tensor, "position vocab"]:
        """Nats, of the unablated prediction."""
        return self.logits().log_softmax(-1)

    def part(self, positions: slice | Tensor) -> Baseline:
        """The same for some of the positions."""
        parts = (self.scaled_logits[positions], self.output_bias, self.targets[positions], self.scale[positions])
        return Baseline(*parts, self.frequency_log_probs, self.frequency_direction, self.softcap)


@dataclass(frozen=True)
class PostNorm:
    """What a norm between the MLP's output and the residual makes of each replacement.

    The residual holds x = x₀ + N with the normed output N = g ⊙ M / τ, so a replacement changes it along its own write and along N:
    x' = x + α N + c w, where α = τ / τ' - 1, c = δ / τ' and w = g ⊙ (row of the down projection), the write of the ``Ablation``.
    """

    norm_change: Float[Tensor, "position neuron"]  # α
    write_change: Float[Tensor, "position neuron"]  # c
    logits: Float[Tensor, "position vocab"]  # what N contributes to ẑ
    residual_along: Float[Tensor, "position"]  # ⟨Px, N⟩
    square: Float[Tensor, "position"]  # |PN|²
    along_write: Float[Tensor, "position neuron"]  # ⟨PN, w⟩

    def growth(self) -> Float[Tensor, "position neuron"]:
        """What the change along N adds to that along the write in |Px'|² - |Px|²."""
        along_itself = 2 * self.residual_along.unsqueeze(1) + self.norm_change * self.square.unsqueeze(1)
        return self.norm_change * (along_itself + 2 * self.write_change * self.along_write)

    def part(self, positions: slice, neurons: slice | Tensor) -> PostNorm:
        """The same for some of the positions and neurons."""
        return PostNorm(
            some_pairs(self.norm_change, positions, neurons),
            some_pairs(self.write_change, positions, neurons),
            self.logits[positions],
            self.residual_along[positions],
            self.square[positions],
            some_pairs(self.along_write, positions, neurons),
        )


@dataclass(frozen=True)
class Ablation:
    """What changes when each of several neurons is replaced."""

    activation_change: Float[Tensor, "position neuron"]  # δ: replacement minus activation
    residual_along_write: Float[Tensor, "position neuron"]  # ⟨Px, w⟩
    write_norm: Float[Tensor, "*neuron"]  # |Pw|; of a group at each position
    writes: NeuronWrites | GroupWrites  # B
    d_model: int
    scale_is_fixed: bool = False  # the final norm divides by a constant: nothing can act through it
    post: PostNorm | None = None  # where the MLP's output is normed before it joins the residual

    def prepared(self) -> Ablation:
        """Itself, knowing of its writes what every part of the positions needs."""
        if isinstance(self.writes, NeuronWrites):
            self.writes.extremes  # noqa: B018  a cached property, as is the matrix that it takes
        return self

    @property
    def write_change(self) -> Float[Tensor, "position neuron"]:
        """How much of the write the residual gains: δ, or δ / τ' behind a norm of the MLP's output."""
        return self.activation_change if self.post is None else self.post.write_change

    def scale(self, before: Float[Tensor, "position"]) -> Float[Tensor, "position neuron"]:
        """The final norm's scale after the replacement; its epsilon is part of the scale before."""
        if self.scale_is_fixed:
            return before.unsqueeze(1).expand_as(self.activation_change)
        return (before.square().unsqueeze(1) + self._growth).clamp_(min=torch.finfo(before.dtype).tiny).sqrt_()

    def shrink(self, before: Float[Tensor, "position"], after: Float[Tensor, "position neuron"]) -> Float[Tensor, "position neuron"]:
        """s / s' - 1 of the two scales, without the cancellation that would cost a small effect its digits in fp32."""
        if self.scale_is_fixed:
            return torch.zeros_like(after)
        return -(self._growth / (before.unsqueeze(1) + after).mul_(after))

    @cached_property
    def _growth(self) -> Float[Tensor, "position neuron"]:
        """s'² - s²."""
        change = self.write_change.to(self.residual_along_write.dtype)
        growth = torch.addcmul(2 * self.residual_along_write, change, self.write_norm.square()).mul_(change)
        return (growth if self.post is None else growth + self.post.growth()).div_(self.d_model)

    def part(self, positions: slice, neurons: slice | Tensor) -> Ablation:
        """The same for some of the positions and neurons."""
        return Ablation(
            some_pairs(self.activation_change, positions, neurons),
            some_pairs(self.residual_along_write, positions, neurons),
            self.write_norm[neurons] if self.write_norm.ndim == 1 else some_pairs(self.write_norm, positions, neurons),
            self.writes.within(positions, neurons),
            self.d_model,
            self.scale_is_fixed,
            None if self.post is None else self.post.part(positions, neurons),
        )


def some_pairs(
    values: Float[Tensor, "position neuron"], positions: slice, neurons: slice | Int[Tensor, "part"]
) -> Float[Tensor, "some part"]:
    """Of some positions and neurons; neurons by number are many times faster this way than by indexing."""
    return values[positions, neurons] if isinstance(neurons, slice) else values[positions].index_select(1, neurons)


@dataclass(frozen=True)
class Wanted:
    """Which changes are computed beside those that the naming rules look at."""

    scale_only: bool = True
    ranks: bool = True  # arg max and reciprocal rank
    temperature: bool = True
    every_variant: bool = False  # entropy and KL under every variant: in no table, for studies and for comparisons with other methods

    def names(self) -> list[str]:
        """Of the changes."""
        optional = {
            "loss_scale_only": self.scale_only,
            **dict.fromkeys(RANKS, self.ranks),
            **dict.fromkeys(("divergence", "divergence_from_temperature"), self.temperature),
            **dict.fromkeys(("entropy_frozen_frequency", *(f"kl_from_frequency_{path}" for path in FROZEN)), self.every_variant),
        }
        return [each.name for each in fields(EffectChanges) if optional.get(each.name, True)]


FROZEN = ("frozen_norm", "frozen_frequency")
RANKS = ("argmax", "reciprocal_rank")  # changes that no series tells


@dataclass(frozen=True)
class EffectChanges:
    """Changes at each position for each neuron, ablated minus unablated, signed and in nats; None where nobody asked."""

    loss: Float[Tensor, "position neuron"]
    loss_frozen_norm: Float[Tensor, "position neuron"]
    loss_frozen_frequency: Float[Tensor, "position neuron"]
    entropy: Float[Tensor, "position neuron"]
    entropy_frozen_norm: Float[Tensor, "position neuron"]
    kl_from_frequency: Float[Tensor, "position neuron"]
    kl_to_frequency: Float[Tensor, "position neuron"]
    loss_scale_only: Float[Tensor, "position neuron"] | None = None
    argmax: Float[Tensor, "position neuron"] | None = None  # 1 where another token is the most likely one, else 0
    reciprocal_rank: Float[Tensor, "position neuron"] | None = None  # of the target: 1 / (tokens above it + 1)
    divergence: Float[Tensor, "position neuron"] | None = None  # D(p || p')
    divergence_from_temperature: Float[Tensor, "position neuron"] | None = None  # min over β of D(p_β || p'), p_β ~ p^β
    entropy_frozen_frequency: Float[Tensor, "position neuron"] | None = None
    kl_from_frequency_frozen_norm: Float[Tensor, "position neuron"] | None = None
    kl_from_frequency_frozen_frequency: Float[Tensor, "position neuron"] | None = None
