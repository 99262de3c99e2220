"""A norm between an MLP's output and the residual (as in OLMo-2 and Gemma-2): what replacing a neuron then changes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from confreg.models.norms import NormReading


@dataclass(frozen=True)
class PostMlpNorm:
    """The norm, and the neurons that write into it. A replacement changes its scale τ, and with it what all the others write.

    The residual gains N = g ⊙ PM / τ from the MLP's output M; a bias of the norm stays as it is and is left out.
    """

    norm: NormReading
    gain: Float[Tensor, "d_model"]  # g, the residual multiplier folded in
    rows: Float[Tensor, "neuron d_model"]  # of the down projection, float64, as the norm sees them

    @classmethod
    def of(cls, norm: NormReading, rows: Float[Tensor, "neuron d_model"], residual_multiplier: float) -> PostMlpNorm:
        """From the norm's reading and the down projection's rows, in float64: a large write may be most of M."""
        rows = norm.centred(rows.detach().double())
        gain = rows.new_ones(rows.shape[1]) if norm.gain is None else norm.gain.detach().double()
        return cls(norm, gain * residual_multiplier, rows)

    def normed(self, mlp_output: Float[Tensor, "position d_model"]) -> Float[Tensor, "position d_model"]:
        """N: what the residual gains from the MLP, in float64."""
        return self.gain * self.norm.centred(mlp_output.double()) / self.norm.scale(mlp_output).unsqueeze(-1)

    def changes(
        self, mlp_output: Float[Tensor, "position d_model"], activation_change: Float[Tensor, "position neuron"]
    ) -> tuple[Float[Tensor, "position neuron"], Float[Tensor, "position neuron"]]:
        """α = τ / τ' - 1 and δ / τ' of every replacement alone, in float64; α without the cancellation that a small change would suffer.

        τ'² = τ² + (2 δ ⟨PM, w⟩ + δ² |Pw|²) / d_model.
        """
        change = activation_change.double()
        along = self.norm.centred(mlp_output.double()) @ self.rows.T
        norm_change, inverse = self._rescaled(mlp_output, 2 * change * along + change.square() * self.rows.square().sum(-1))
        return norm_change, change * inverse

    def changes_together(
        self, mlp_output: Float[Tensor, "position d_model"], moved: Float[Tensor, "position group d_model"]
    ) -> tuple[Float[Tensor, "position group"], Float[Tensor, "position group"]]:
        """α = τ / τ' - 1 and 1 / τ' of groups replaced together, each of which moves the MLP's output by Σ δ w of its ``rows``."""
        moved, seen = moved.double(), self.norm.centred(mlp_output.double()).unsqueeze(-1)
        return self._rescaled(mlp_output, 2 * (moved @ seen).squeeze(-1) + moved.square().sum(-1))

    def _rescaled(
        self, mlp_output: Float[Tensor, "position d_model"], growth: Float[Tensor, "position replacement"]
    ) -> tuple[Float[Tensor, "position replacement"], Float[Tensor, "position replacement"]]:
        """τ / τ' - 1 and 1 / τ' where |PM|² grows by so much."""
        before = self.norm.scale(mlp_output).unsqueeze(1)
        if self.norm.fixed_scale is not None:
            return torch.zeros_like(growth), before.reciprocal().expand_as(growth)
        growth = growth / self.rows.shape[1]
        after = (before.square() + growth).clamp(min=torch.finfo(before.dtype).tiny).sqrt()
        return -growth / (after * (before + after)), after.reciprocal()
