"""Gradients with respect to the activations of every layer's neurons at once, the layers above in them or not.

One forward pass keeps the graph from the first layer's activations to the logits; each quantity is then carried back from the final
residual, once for each of its two parts (see ``confreg.neurons.attributions``). No parameter gets a gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from confreg.models.families import blocks_of, by_block, down_projection, family_of, final_norm, n_layers, output_rows
from confreg.models.norms import read_norm
from confreg.models.undisturbed import undisturbed
from confreg.neurons.attributions import LOGIT_GRADIENTS, SplitGradient, split_at_final_norm

VALUES_OF_A_NEURON, VALUES_OF_A_DIMENSION, VALUES_OF_A_LOGIT = 16, 24, 6  # kept for each token at a time, the graph's included
LayerTensors = list[Float[Tensor, "block token neuron"]]  # one for each layer, lowest first


@dataclass
class TracedPass:
    """One forward pass whose graph reaches from the first layer's activations to the logits."""

    model: PreTrainedModel
    tokens: Int[Tensor, "block token"]
    scored: Bool[Tensor, "block token"]
    vocabulary_size: int | None = None  # token ids from here on are padding, outside of every prediction
    activations: dict[int, Tensor] = field(default_factory=dict)  # of each layer: block token neuron
    writes: dict[int, Tensor] = field(default_factory=dict)  # what each layer's MLP makes of them: block token d_model

    def __post_init__(self) -> None:
        with ExitStack() as hooks:
            for layer in range(n_layers(self.model)):
                self._trace_layer(layer, hooks)
            self._trace_final_norm(hooks)
            logits: Tensor = self.model(input_ids=self.tokens, use_cache=False).logits
        self.logits = logits if self.vocabulary_size is None else logits[..., : self.vocabulary_size]
        self.norm = read_norm(final_norm(self.model))

    def _trace_layer(self, layer: int, hooks: ExitStack) -> None:
        def grow_graph(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            of_layer = by_block(inputs[0], self.tokens.shape)
            of_layer = of_layer if of_layer.requires_grad else of_layer.detach().requires_grad_()
            self.activations[layer] = of_layer
            return (of_layer.view(inputs[0].shape), *inputs[1:])

        def note(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.writes[layer] = by_block(output, self.tokens.shape)

        projection, post_norm = down_projection(self.model, layer), family_of(self.model).post_mlp_norm
        last = projection if post_norm is None else blocks_of(self.model)[layer].get_submodule(post_norm)
        hooks.callback(projection.register_forward_pre_hook(grow_graph).remove)
        hooks.callback(last.register_forward_hook(note).remove)

    def _trace_final_norm(self, hooks: ExitStack) -> None:
        def note(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self.residual, self.normed = inputs[0], output

        hooks.callback(final_norm(self.model).register_forward_hook(note).remove)

    def layer_activations(self) -> LayerTensors:
        """Detached, lowest layer first."""
        return [each.detach() for each in self._by_layer(self.activations)]

    def of_final_residual(self) -> Iterator[tuple[str, SplitGradient]]:
        """Gradient of the sum over scored positions of the entropy, then of the loss, with respect to the residual before the final norm.

        Yields:
            ``"entropy"`` or ``"loss"`` and its gradient, block x token x d_model in float64; zero where nothing is scored.
        """
        log_probs = self.logits.detach()[self.scored].log_softmax(-1)
        targets = self.tokens.roll(-1, dims=1)[self.scored]
        for quantity, logit_gradient in LOGIT_GRADIENTS.items():
            yield quantity, self._before_norm(self._behind_norm(logit_gradient(log_probs, targets)))

    def _behind_norm(self, of_scored: Float[Tensor, "position vocab"]) -> Float[Tensor, "block token d_model"]:
        of_logits = torch.zeros_like(self.logits).masked_scatter_(self.scored.unsqueeze(-1), of_scored)
        return torch.autograd.grad(self.logits, self.normed, of_logits, retain_graph=True)[0]

    def _before_norm(self, of_normed: Float[Tensor, "block token d_model"]) -> SplitGradient:
        norm, residual = self.norm, self.residual.detach()
        of_gained = of_normed if norm.gain is None else of_normed * norm.gain.detach()
        is_fixed = norm.fixed_scale is not None
        return split_at_final_norm(norm.centred(of_gained), norm.centred(residual), norm.scale(residual), is_fixed)

    def through_all_layers(self, of_residual: Float[Tensor, "block token d_model"]) -> LayerTensors:
        """Carry a gradient from the final residual to every layer's activations, through every layer above.

        An activation moves the predictions of its own position and of the later ones of its block that attend to it: the gradient at a
        position is that of the sum over all scored positions of the block.
        """
        inputs = self._by_layer(self.activations)
        if not of_residual.any():  # as behind a norm without a scale of its own; zero then is exact
            return [torch.zeros_like(each) for each in inputs]
        return list(torch.autograd.grad(self.residual, inputs, of_residual.to(self.residual.dtype), retain_graph=True))

    def through_direct_path(self, of_residual: Float[Tensor, "block token d_model"]) -> Iterator[Float[Tensor, "block token neuron"]]:
        """Carry it there past the layers above, as if they did not see the change: one matrix product for each layer, lowest first."""
        of_writes = of_residual.to(self.residual.dtype) * family_of(self.model).residual_multiplier(self.model.config)
        for write, inputs in zip(self._by_layer(self.writes), self._by_layer(self.activations), strict=True):
            yield torch.autograd.grad(write, inputs, of_writes, retain_graph=True)[0]

    @staticmethod
    def _by_layer(tensors: dict[int, Tensor]) -> list[Tensor]:
        return [tensors[layer] for layer in sorted(tensors)]


def layer_activations(model: PreTrainedModel, tokens: Int[Tensor, "block token"]) -> LayerTensors:
    """Activations of every layer's neurons, without a graph: what enters each down projection."""
    with torch.no_grad():
        return TracedPass(model, tokens, torch.zeros_like(tokens, dtype=torch.bool)).layer_activations()


def layer_widths(model: PreTrainedModel) -> list[int]:
    """How many neurons each layer has, lowest layer first."""
    return [len(output_rows(down_projection(model, layer))) for layer in range(n_layers(model))]


def blocks_in_memory(model: PreTrainedModel, n_tokens: int, memory_bytes: int) -> int:
    """How many blocks of so many tokens a traced pass and its gradients may take at a time; at least one."""
    vocabulary_size, d_model = model.get_output_embeddings().weight.shape
    of_neurons, of_residual = VALUES_OF_A_NEURON * sum(layer_widths(model)), VALUES_OF_A_DIMENSION * d_model * n_layers(model)
    values = of_neurons + of_residual + VALUES_OF_A_LOGIT * vocabulary_size
    return max(1, memory_bytes // (values * n_tokens * model.dtype.itemsize))


@contextmanager
def differentiable(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Within, gradients flow to activations and to no parameter, also where the caller forbids gradients.

    Yields:
        The model itself, or a copy where its weights were made in inference mode, of which no graph can be kept. Modes, random state and
        which parameters want a gradient are as before afterwards; their gradients are never touched.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(model.device.type, enabled=False), undisturbed(model):
        ordinary = copy.deepcopy(model) if any(each.is_inference() for each in _tensors(model)) else model
        learning = [parameter for parameter in ordinary.parameters() if parameter.requires_grad]
        try:
            for parameter in learning:
                parameter.requires_grad_(False)
            yield ordinary
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
