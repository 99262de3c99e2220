"""Norms that a model may have: how each is made, and what a measurement must know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm


class FrozenNorm(nn.Module):
    """A norm without its own way to act: every position is divided by the same constant.

    Centring, gain and bias are those of the norm in whose place it stands: all three of a LayerNorm, the gain alone of an RMSNorm.

    Args:
        d_model: width of the residual stream.
        centres: whether it stands for a LayerNorm.
        divisor: the constant; a buffer, so that checkpoints carry it and no optimizer moves it.
    """

    bias: nn.Parameter | None
    divisor: Tensor

    def __init__(self, d_model: int, centres: bool, divisor: float) -> None:
        super().__init__()
        self.centres = centres
        self.weight = nn.Parameter(torch.ones(d_model))
        self.register_parameter("bias", nn.Parameter(torch.zeros(d_model)) if centres else None)
        self.register_buffer("divisor", torch.tensor(divisor))

    def forward(self, residual: Float[Tensor, "*position d_model"]) -> Float[Tensor, "*position d_model"]:
        """gain * (x, centred) / constant + bias."""
        centred = residual - residual.mean(-1, keepdim=True) if self.centres else residual
        scaled = self.weight * (centred / self.divisor)
        return scaled if self.bias is None else scaled + self.bias

    def extra_repr(self) -> str:
        return f"({len(self.weight)},), centres={self.centres}, divisor={self.divisor.item():.4g}"


@dataclass(frozen=True)
class NormReading:
    """What a norm makes of a residual x: ``gain * (x, centred or not) / scale + bias``."""

    centres: bool
    gain: Float[Tensor, "d_model"] | None = None  # None: one everywhere
    bias: Float[Tensor, "d_model"] | None = None
    epsilon: float = 0.0
    fixed_scale: float | None = None  # None: each position has its own

    def centred(self, residual: Float[Tensor, "*position d_model"]) -> Float[Tensor, "*position d_model"]:
        """Px: without its mean where the norm centres."""
        return residual - residual.mean(-1, keepdim=True) if self.centres else residual

    def scale(self, residual: Float[Tensor, "*position d_model"]) -> Float[Tensor, "*position"]:
        """What the norm divides by at each position, in float64: sqrt(|Px|² / d_model + epsilon), or its constant."""
        if self.fixed_scale is not None:
            return residual.new_full(residual.shape[:-1], self.fixed_scale, dtype=torch.float64)
        return (self.centred(residual.double()).square().mean(-1) + self.epsilon).sqrt()


@dataclass(frozen=True)
class NormKind:
    """One kind of norm: its module, and how to make and read one."""

    module: type[nn.Module]
    make: Callable[[int, float, NormReading, float], nn.Module]  # d_model, epsilon, the norm it stands for, that one's mean scale
    read: Callable[[Any], NormReading]


def _read_layer_norm(norm: nn.LayerNorm) -> NormReading:
    return NormReading(True, norm.weight, norm.bias, norm.eps)


def _read_rms_norm(norm: LlamaRMSNorm) -> NormReading:
    return NormReading(False, norm.weight, None, norm.variance_epsilon)


def _read_frozen_norm(norm: FrozenNorm) -> NormReading:
    return NormReading(norm.centres, norm.weight, norm.bias, fixed_scale=norm.divisor.item())


NORMS = {  # by their names in model.norm
    "layernorm": NormKind(nn.LayerNorm, lambda d_model, epsilon, *_: nn.LayerNorm(d_model, eps=epsilon), _read_layer_norm),
    "rmsnorm": NormKind(LlamaRMSNorm, lambda d_model, epsilon, *_: LlamaRMSNorm(d_model, eps=epsilon), _read_rms_norm),
    "frozen": NormKind(FrozenNorm, lambda d_model, _, old, scale: FrozenNorm(d_model, old.centres, scale), _read_frozen_norm),
    "none": NormKind(nn.Identity, lambda *_: nn.Identity(), lambda _: NormReading(False, fixed_scale=1.0)),
}


def kind_of_norm(norm: nn.Module) -> str:
    """A norm's name in the table.

    Raises:
        ValueError: for a module that the table lacks.
    """
    for name, kind in NORMS.items():
        if isinstance(norm, kind.module):
            return name
    raise ValueError(
        f"No row for the norm {type(norm).__name__} in confreg.models.norms; expected one of "
        f"{', '.join(kind.module.__name__ for kind in NORMS.values())}. A measurement needs to know whether it centres, and its scale."
    )


def read_norm(norm: nn.Module) -> NormReading:
    """What a module of the table does to its input; gain and bias are the module's own tensors.

    Raises:
        ValueError: for a module that the table lacks.
    """
    return NORMS[kind_of_norm(norm)].read(norm)
