"""Gradients of entropy and loss with respect to what is written to the final residual, in two parts: past the final norm and through it.

With g the gradient of a quantity with respect to the logits, Ũ the effective unembedding, ẑ = Ũ x / s the scaled logits, P the norm's
centring and s its scale, the quantity moves with the residual x as

    Ũᵀ g / s                            with the norm's scale kept: the direct part
    - ⟨g, ẑ⟩ P x / (d_model s²)         because the scale moves: the norm-mediated part

and with a neuron's activation as the scalar product of either with its write: one matrix product for all neurons. Times the change of the
activation this is the first-order estimate of an ablation's effect, signed. The two parts add up, as mean absolute effects do not.

Source: this project's own; the limit of arXiv 2406.16254, Eqs. 4 to 6, for small changes of the activation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from confreg.neurons.predictions import entropy_nats


def entropy_logit_gradient(
    log_probs: Float[Tensor, "position vocab"], targets: Int[Tensor, "position"] | None = None
) -> Float[Tensor, "position vocab"]:
    """Gradient of the entropy with respect to the logits, -p (log p + H), from log-probabilities in nats.

    Returns:
        Sums to zero over the vocabulary; an impossible token has none. The targets do not matter.
    """
    entropy, probs = entropy_nats(log_probs).unsqueeze(-1), log_probs.exp()
    return log_probs.masked_fill(probs == 0, 0.0).add_(entropy).mul_(probs).neg_()  # in place: these are the largest tensors there are


def loss_logit_gradient(log_probs: Float[Tensor, "position vocab"], targets: Int[Tensor, "position"]) -> Float[Tensor, "position vocab"]:
    """Gradient of the loss with respect to the logits, p - (1 at the target), from log-probabilities in nats.

    Returns:
        Sums to zero over the vocabulary.
    """
    return log_probs.exp().scatter_add_(-1, targets.unsqueeze(-1), -torch.ones_like(log_probs[:, :1]))


LOGIT_GRADIENTS = {"entropy": entropy_logit_gradient, "loss": loss_logit_gradient}


def softcap_slope(capped_logits: Float[Tensor, "position vocab"], softcap: float) -> Float[Tensor, "position vocab"]:
    """How fast ``softcap * tanh(z / softcap)`` moves with z: in (0, 1]. Times a gradient for the logits, the gradient for z."""
    return 1 - (capped_logits / softcap).square()


@dataclass(frozen=True)
class SplitGradient:
    """A gradient in two parts that add up, with respect to the residual or to what writes to it."""

    frozen_norm: Float[Tensor, "*position axis"]  # the final norm's scale kept
    norm: Float[Tensor, "*position axis"]  # because that scale moves

    @property
    def total(self) -> Float[Tensor, "*position axis"]:
        """Both parts together."""
        return self.frozen_norm + self.norm

    def along(self, w_out: Float[Tensor, "neuron axis"]) -> SplitGradient:
        """With respect to the activations of neurons that write the rows of ``w_out`` straight to the residual."""
        return SplitGradient(self.frozen_norm @ w_out.T, self.norm @ w_out.T)


def split_at_final_norm(
    normed_gradient: Float[Tensor, "*position d_model"],
    centred_residual: Float[Tensor, "*position d_model"],
    scale: Float[Tensor, "*position"],
    scale_is_fixed: bool = False,
) -> SplitGradient:
    """Carry a gradient back through the final norm, the scale's part kept apart.

    Args:
        normed_gradient: with respect to Px / s, before the norm's gain; without its mean over d_model where the norm centres.
        centred_residual: Px.
        scale: s, what the norm divides by.
        scale_is_fixed: the norm divides by a constant: its part is exactly zero.

    Returns:
        With respect to the residual, float64: the norm's part is a small difference where a write hardly moves the scale.
    """
    centred, scale = centred_residual.double(), scale.double().unsqueeze(-1)
    frozen = normed_gradient.double() / scale
    if scale_is_fixed:
        return SplitGradient(frozen, torch.zeros_like(frozen))
    along_residual = (frozen * centred).sum(-1, keepdim=True)  # ⟨g, ẑ⟩
    return SplitGradient(frozen, -along_residual * centred / (centred.shape[-1] * scale.square()))


def last_layer_gradients(
    logit_gradient: Float[Tensor, "position vocab"],
    unembedding: Float[Tensor, "vocab d_model"],
    centred_residual: Float[Tensor, "position d_model"],
    scale: Float[Tensor, "position"],
    w_out: Float[Tensor, "neuron d_model"],
    scale_is_fixed: bool = False,
) -> SplitGradient:
    """With respect to the activation of each last-layer neuron at each position, in closed form.

    Args:
        logit_gradient: of the quantity, with respect to the logits before any soft-cap.
        unembedding: effective unembedding of the readout (norm gain folded in, centred as the norm centres).
        centred_residual: Px, the residual as the norm sees it.
        scale: s, what the norm divides by.
        w_out: Pw, what each neuron writes for one unit of activation.
        scale_is_fixed: the norm divides by a constant.

    Returns:
        Position x neuron, float64. A write that the unembedding cannot see has no direct part; one orthogonal to the residual none
        through the norm.
    """
    of_residual = split_at_final_norm(logit_gradient @ unembedding, centred_residual, scale, scale_is_fixed)
    return of_residual.along(w_out.double())
