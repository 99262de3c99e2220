"""How a model reads its logits from the residual stream, and how its last neurons write to it, on copies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from confreg.models.families import final_norm, last_down_projection, n_layers, output_rows
from confreg.models.norms import NormReading, read_norm
from confreg.neurons.ablation import Ablation, Baseline
from confreg.neurons.frequency import Frequency


@dataclass(frozen=True)
class Readout:
    """The effective unembedding and the last layer's writes, the vocabulary mean and what the norm removes taken out.

    Logits are ``unembedding @ residual / scale + output_bias``, up to a constant for each position that no prediction depends on.
    """

    unembedding: Float[Tensor, "vocab d_model"]  # CŨ: norm gain folded in, centred over the vocabulary (and over d_model for a LayerNorm)
    output_bias: Float[Tensor, "vocab"]  # C(b + Wβ)
    w_out: Float[Tensor, "neuron d_model"]  # Pw: as the final norm sees it
    norm: NormReading  # the final one
    layer: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> Readout:
        """Read a model's last layer; its own weights are left alone."""
        norm, unembedding = read_norm(final_norm(model)), model.get_output_embeddings()
        weight = unembedding.weight.detach().float()
        effective = weight if norm.gain is None else weight * norm.gain.detach().float()
        bias = weight.new_zeros(len(weight))
        if norm.bias is not None:
            bias = bias + weight @ norm.bias.detach().float()
        if getattr(unembedding, "bias", None) is not None:
            bias = bias + unembedding.bias.detach().float()
        w_out = norm.centred(output_rows(last_down_projection(model)).detach().float())
        effective = norm.centred(effective)
        return cls(effective - effective.mean(0), bias - bias.mean(), w_out, norm, n_layers(model) - 1)

    @property
    def residual_is_centred(self) -> bool:
        """Whether the final norm takes the residual's mean out."""
        return self.norm.centres

    @property
    def usable_dimensions(self) -> int:
        """Dimensions of the residual that the final norm lets through."""
        return self.unembedding.shape[1] - int(self.residual_is_centred)

    def baseline(self, tokens: ScoredTokens, frequency: Frequency) -> Baseline:
        """The unablated prediction at the scored positions."""
        scale = self.norm.scale(tokens.residual)
        scaled_logits = tokens.residual @ self.unembedding.T / scale.unsqueeze(-1).to(tokens.residual.dtype)
        return Baseline(scaled_logits, self.output_bias, tokens.targets, scale, frequency.log_probs, frequency.direction)

    def ablation(self, tokens: ScoredTokens, replacement: Float[Tensor, "neuron"], w_out: Float[Tensor, "neuron d_model"]) -> Ablation:
        """What replacing each activation changes, if the neurons wrote along ``w_out`` (their own rows, or a control's)."""
        exact = w_out.double()  # one large write may be most of the residual: then the new scale is a difference of large numbers
        along_write = self.norm.centred(tokens.residual.double()) @ exact.T
        writes, is_fixed = w_out @ self.unembedding.T, self.norm.fixed_scale is not None
        return Ablation(replacement - tokens.activations, along_write, exact.norm(dim=-1), writes, w_out.shape[1], is_fixed)


@dataclass(frozen=True)
class ScoredTokens:
    """The scored positions of some blocks, one after the other."""

    activations: Float[Tensor, "position neuron"]
    residual: Float[Tensor, "position d_model"]
    log_probs: Float[Tensor, "position vocab"]  # nats, of the model's own logits
    targets: Int[Tensor, "position"]
    clusters: Int[Tensor, "position"]  # the document of each


@dataclass(frozen=True)
class Captured:
    """What one forward pass left at every position."""

    activations: Float[Tensor, "block token neuron"]  # of the last MLP: the input of its down projection
    residual: Float[Tensor, "block token d_model"]  # after the last block, before the final norm
    logits: Float[Tensor, "block token vocab"]

    def at(self, scored: Bool[Tensor, "block token"], tokens: Int[Tensor, "block token"], documents: Int[Tensor, "block"]) -> ScoredTokens:
        """The scored positions, each with the token that follows it as target."""
        return ScoredTokens(
            self.activations[scored],
            self.residual[scored],
            self.logits[scored].log_softmax(-1),
            tokens.roll(-1, dims=1)[scored],
            documents.unsqueeze(1).expand_as(tokens)[scored],
        )


def capture(model: PreTrainedModel, tokens: Int[Tensor, "block token"]) -> Captured:
    """One forward pass in the model's present mode, without gradients; its hooks are gone afterwards."""
    seen: dict[str, Tensor] = {}
    with _input_of(last_down_projection(model), "activations", seen), _input_of(final_norm(model), "residual", seen), torch.no_grad():
        logits = model(input_ids=tokens, use_cache=False).logits
    return Captured(seen["activations"], seen["residual"], logits)


@contextmanager
def _input_of(module: nn.Module, name: str, seen: dict[str, Tensor]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(lambda _module, inputs: seen.__setitem__(name, inputs[0].detach()))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and plain calls within; every module's own mode, what ``module.compile()`` put in place of its calls, and the random
    state are as before afterwards, also after an error."""
    modes = {module: module.training for module in model.modules()}
    compiled = {module: module._compiled_call_impl for module in model.modules() if module._compiled_call_impl is not None}
    devices = sorted({each.device.index for each in model.parameters() if each.is_cuda})
    with torch.random.fork_rng(devices=devices):
        try:
            model.eval()
            for module in compiled:
                module._compiled_call_impl = None
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            for module, call in compiled.items():
                module._compiled_call_impl = call
