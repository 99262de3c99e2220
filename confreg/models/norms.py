"""Norms that a model may have: how each is made, and what a measurement must know of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
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

    def applied(
        self, residual: Float[Tensor, "*position d_model"], scale: Float[Tensor, "*position"]
    ) -> Float[Tensor, "*position d_model"]:
        """What the norm makes of a residual where it divides by this scale, computed in float64."""
        normed = self.centred(residual.double()) / scale.double().unsqueeze(-1)
        normed = normed if self.gain is None else normed * self.gain.double()
        return (normed if self.bias is None else normed + self.bias.double()).to(residual.dtype)


@dataclass(frozen=True)
class NormKind:
    """One kind of norm: its module, and how to make and read one."""

    module: type[nn.Module]
    make: Callable[[int, float, NormReading, float], nn.Module]  # d_model, epsilon, the norm it stands for, that one's mean scale
    read: Callable[[Any], NormReading]


def _read_layer_norm(norm: nn.LayerNorm) -> NormReading:
    return NormReading(True, norm.weight, norm.bias, norm.eps)


def _read_rms_norm(norm: Any) -> NormReading:
    return NormReading(False, norm.weight, None, norm.variance_epsilon)


def _read_frozen_norm(norm: FrozenNorm) -> NormReading:
    return NormReading(norm.centres, norm.weight, norm.bias, fixed_scale=norm.divisor.item())


NORMS = {  # by their names in model.norm
    "layernorm": NormKind(nn.LayerNorm, lambda d_model, epsilon, *_: nn.LayerNorm(d_model, eps=epsilon), _read_layer_norm),
    "rmsnorm": NormKind(LlamaRMSNorm, lambda d_model, epsilon, *_: LlamaRMSNorm(d_model, eps=epsilon), _read_rms_norm),
    "frozen": NormKind(FrozenNorm, lambda d_model, _, old, scale: FrozenNorm(d_model, old.centres, scale), _read_frozen_norm),
    "none": NormKind(nn.Identity, lambda *_: nn.Identity(), lambda _: NormReading(False, fixed_scale=1.0)),
}


def _one_plus(weight: Tensor) -> Tensor:
    """A gain that is stored as its distance from one; added in fp32 at least, as the norms themselves do."""
    return 1.0 + weight.to(torch.promote_types(weight.dtype, torch.float32))


def _read_torch_rms_norm(norm: nn.RMSNorm) -> NormReading:
    epsilon = norm.eps if norm.eps is not None else torch.finfo(torch.get_default_dtype() if norm.weight is None else norm.weight.dtype).eps
    return NormReading(False, norm.weight, None, epsilon)


def _read_rms_norm_of_one_plus_gain(norm: Any) -> NormReading:
    return NormReading(False, _one_plus(norm.weight), None, norm.eps)


def _read_layer_norm_of_one_plus_gain(norm: nn.LayerNorm) -> NormReading:
    return NormReading(True, _one_plus(norm.weight), norm.bias, norm.eps)


def _read_layer_norm_with_gain_alone(norm: Any) -> NormReading:
    return NormReading(True, norm.weight, None, norm.variance_epsilon)


EPSILONS = ("eps", "variance_epsilon", "epsilon")  # how norms call theirs
OF_TRANSFORMERS: dict[str, Callable[[Any], NormReading]] = {  # classes of transformers.models, by their names
    **dict.fromkeys(
        [f"{family}RMSNorm" for family in ("Glm4", "Granite", "Mistral", "Olmo2", "Olmo3", "Phi3", "Qwen2", "Qwen3", "SmolLM3")],
        _read_rms_norm,
    ),
    **dict.fromkeys([f"{family}RMSNorm" for family in ("Gemma", "Gemma2", "Gemma3", "VaultGemma")], _read_rms_norm_of_one_plus_gain),
    "NemotronLayerNorm1P": _read_layer_norm_of_one_plus_gain,
    "CohereLayerNorm": _read_layer_norm_with_gain_alone,
    "Cohere2LayerNorm": _read_layer_norm_with_gain_alone,
    "OlmoLayerNorm": lambda _: NormReading(True, epsilon=1e-5),  # its epsilon stands in its forward
}


def kind_of_norm(norm: nn.Module) -> str:
    """A norm's name among those that a model may be built with.

    Raises:
        ValueError: for any other.
    """
    for name, kind in NORMS.items():
        if _does_the_same(norm, kind.module):
            return name
    raise _no_row(norm, [kind.module.__name__ for kind in NORMS.values()])


def read_norm(norm: nn.Module) -> NormReading:
    """What a norm does to its input; gain and bias are the module's own tensors where they act as they are stored.

    Raises:
        ValueError: for a class without a reader. A class that inherits from one with a reader and computes something else is another class.
    """
    readers: dict[type, Callable[[Any], NormReading]] = {kind.module: kind.read for kind in NORMS.values()}
    readers[nn.RMSNorm] = _read_torch_rms_norm
    for ancestor in type(norm).__mro__:
        if ancestor.__module__.startswith("transformers.models.") and ancestor.__name__ in OF_TRANSFORMERS:
            readers[ancestor] = OF_TRANSFORMERS[ancestor.__name__]
        if ancestor in readers and _does_the_same(norm, ancestor):
            return readers[ancestor](norm)
    if (tried := _read_by_trying(norm)) is not None:
        return tried
    raise _no_row(norm, [*(each.__name__ for each in readers), *OF_TRANSFORMERS])


def _read_by_trying(norm: Any) -> NormReading | None:
    """What a norm of an unknown class was seen to do to a random residual with random gains and biases; None where nothing fits.

    Its epsilon is read from it, never guessed, and seen to act on a small residual. Half of the digits of fp32 are enough to tell one
    reading from another; the self-checks look at the others.
    """
    epsilon = next((each for name in EPSILONS if isinstance(each := getattr(norm, name, None), float)), None)
    if epsilon is None or getattr(norm, "weight", None) is None or {*norm.state_dict()} - {"weight", "bias"}:
        return None
    copied, generator = copy.deepcopy(norm).double().cpu(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        large = torch.randn(4, len(copied.weight), generator=generator, dtype=torch.float64) + 0.5
        for centres, gain in product((True, False), (lambda weight: weight, _one_plus)):
            readings = [NormReading(centres, gain(each.weight), getattr(each, "bias", None), epsilon) for each in (norm, copied)]
            if all(_does(copied, readings[1], residual) for residual in (large, epsilon**0.5 * large)):
                return readings[0]
    return None


def _does(norm: nn.Module, reading: NormReading, residual: Float[Tensor, "position d_model"]) -> bool:
    try:
        found = norm.forward(residual)
    except (RuntimeError, TypeError):
        return False
    expected = reading.applied(residual, reading.scale(residual))
    return found.shape == expected.shape and torch.allclose(found.double(), expected, atol=1e-4, rtol=1e-4)


def _does_the_same(norm: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a norm is of this class, or of one below it that computes nothing else (as sharding makes them)."""
    return isinstance(norm, kind) and type(norm).forward is kind.forward


def _no_row(norm: nn.Module, expected: list[str]) -> ValueError:
    return ValueError(
        f"No row for the norm {type(norm).__name__} in confreg.models.norms; expected one of {', '.join(expected)}. "
        "A measurement needs to know whether it centres, its scale, and whether its gain is the weight or one plus the weight."
    )
