"""What goes into the effects of replacing neurons, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Baseline:
    """The unablated prediction at the scored positions. Logits have the vocabulary mean removed: nothing here depends on it."""

    scaled_logits: Float[Tensor, "position vocab"]  # ẑ, without bias
    output_bias: Float[Tensor, "vocab"]  # b̃
    targets: Int[Tensor, "position"]
    scale: Float[Tensor, "position"]  # s of the final norm
    frequency_log_probs: Float[Tensor, "vocab"]  # nats
    frequency_direction: Float[Tensor, "vocab"]  # u, a unit vector

    def log_probs(self) -> Float[Tensor, "position vocab"]:
        """Nats, of the unablated prediction."""
        return (self.scaled_logits + self.output_bias).log_softmax(-1)


@dataclass(frozen=True)
class Ablation:
    """What changes when each of several neurons is replaced."""

    activation_change: Float[Tensor, "position neuron"]  # δ: replacement minus activation
    residual_along_write: Float[Tensor, "position neuron"]  # ⟨Px, w⟩
    write_norm: Float[Tensor, "neuron"]  # |Pw|
    logit_writes: Float[Tensor, "neuron vocab"]  # B, the vocabulary mean removed
    d_model: int
    scale_is_fixed: bool = False  # the final norm divides by a constant: nothing can act through it

    def scale(self, before: Float[Tensor, "position"]) -> Float[Tensor, "position neuron"]:
        """The final norm's scale after the replacement; its epsilon is part of the scale before."""
        if self.scale_is_fixed:
            return before.unsqueeze(1).expand_as(self.activation_change)
        return (before.square().unsqueeze(1) + self._growth()).clamp(min=torch.finfo(before.dtype).tiny).sqrt()

    def shrink(self, before: Float[Tensor, "position"], after: Float[Tensor, "position neuron"]) -> Float[Tensor, "position neuron"]:
        """s / s' - 1 of the two scales, without the cancellation that would cost a small effect its digits in fp32."""
        if self.scale_is_fixed:
            return torch.zeros_like(after)
        return -self._growth() / (after * (before.unsqueeze(1) + after))

    def _growth(self) -> Float[Tensor, "position neuron"]:
        """s'² - s²."""
        change = self.activation_change
        return (2 * change * self.residual_along_write + change.square() * self.write_norm.square()) / self.d_model

    def part(self, positions: slice, neurons: slice) -> Ablation:
        """The same for some of the positions and neurons."""
        return Ablation(
            self.activation_change[positions, neurons],
            self.residual_along_write[positions, neurons],
            self.write_norm[neurons],
            self.logit_writes[neurons],
            self.d_model,
            self.scale_is_fixed,
        )


@dataclass(frozen=True)
class EffectChanges:
    """Signed changes in nats at each position for each neuron: ablated minus unablated."""

    loss: Float[Tensor, "position neuron"]
    loss_frozen_norm: Float[Tensor, "position neuron"]
    loss_scale_only: Float[Tensor, "position neuron"] | None  # None where nobody asks for it
    loss_frozen_frequency: Float[Tensor, "position neuron"]
    entropy: Float[Tensor, "position neuron"]
    entropy_frozen_norm: Float[Tensor, "position neuron"]
    kl_from_frequency: Float[Tensor, "position neuron"]
    kl_to_frequency: Float[Tensor, "position neuron"]
