"""Neurons and attention heads of any layer, replaced while a model runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from confreg.models.families import attention_output, by_block, down_projection, n_heads, n_layers, output_rows
from confreg.models.undisturbed import undisturbed


class InterventionError(RuntimeError):
    """An intervention that did not act as it should have; the message names where. Without it the effect would silently be zero."""


@dataclass(frozen=True)
class Intervention:
    """Some neurons, or some attention heads, of one layer, replaced together.

    Args:
        layer: block, from 0.
        replacement: one number, or what broadcasts to block x token x column. Neurons: a column for each of ``neurons``. Heads: a column
            for each dimension of each of ``heads``, one head after the other.
        neurons: their activations are replaced, the inputs of the MLP's down projection (of a gated MLP: act(gate) * up).
        heads: their outputs are replaced, before the attention's output projection.

    Raises:
        ValueError: where not exactly one of ``neurons`` and ``heads`` names something, or one is named twice.
    """

    layer: int
    replacement: float | Tensor
    neurons: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        chosen = (*self.neurons, *self.heads)
        if bool(self.neurons) == bool(self.heads) or len(set(chosen)) != len(chosen):
            raise ValueError(
                f"Intervention got neurons={self.neurons} and heads={self.heads}; expected some of the one kind or of the other, each once."
            )

    def projection(self, model: PreTrainedModel) -> nn.Module:
        """The module in front of which it acts.

        Raises:
            ValueError: for a layer that the model has not.
        """
        if not 0 <= self.layer < n_layers(model):
            raise ValueError(f"Intervention got layer={self.layer}; expected one of the model's layers 0 to {n_layers(model) - 1}.")
        return down_projection(model, self.layer) if self.neurons else attention_output(model, self.layer)

    def columns(self, model: PreTrainedModel) -> Int[Tensor, "column"]:
        """Which inputs of the projection it replaces.

        Raises:
            ValueError: for a neuron or a head that the layer has not.
        """
        width = len(output_rows(self.projection(model)))
        kind, chosen = ("neurons", self.neurons) if self.neurons else ("heads", self.heads)
        size = 1 if self.neurons else width // n_heads(model)
        if not all(0 <= each < width // size for each in chosen):
            raise ValueError(f"Intervention got {kind}={chosen} of layer {self.layer}; expected some of 0 to {width // size - 1}.")
        first = torch.tensor(chosen, device=model.device) * size
        return (first.unsqueeze(1) + torch.arange(size, device=model.device)).flatten()

    def in_blocks(self, part: slice) -> Intervention:
        """The same for some of the blocks, where its replacement differs between them."""
        values = self.replacement
        if isinstance(values, Tensor) and values.ndim == 3 and len(values) > 1:
            return replace(self, replacement=values[part])
        return self

    def values_like(self, activations: Float[Tensor, "block token column"]) -> Tensor:
        """The replacement in the shape, the dtype and on the device of what it replaces.

        Raises:
            ValueError: where the shapes do not fit.
        """
        values = torch.as_tensor(self.replacement, dtype=activations.dtype, device=activations.device)
        try:
            return values.expand_as(activations)
        except RuntimeError as error:
            raise ValueError(
                f"Intervention.replacement has shape {tuple(values.shape)}; expected what broadcasts to block x token x column, "
                f"{tuple(activations.shape)}."
            ) from error


@contextmanager
def replaced(model: PreTrainedModel, interventions: Sequence[Intervention]) -> Iterator[None]:
    """Within, each of the interventions, all in front of one projection, acts on its own copy of the batch.

    The caller runs the model once, on as many copies of the tokens, one after the other along the batch axis.

    Raises:
        InterventionError: where the projection was not called exactly once, so that nothing, or only a part, was replaced.
    """
    columns, n_calls, shape = [each.columns(model) for each in interventions], 0, torch.Size()

    def note_shape(_model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal shape
        shape = next(each.shape[:2] for each in (*inputs, *named.values()) if isinstance(each, Tensor))

    def replace_columns(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal n_calls
        n_calls += 1
        values = by_block(inputs[0], shape).unflatten(0, (len(interventions), -1)).clone()
        for copy, which, intervention in zip(values, columns, interventions, strict=True):
            copy[..., which] = intervention.values_like(copy[..., which])
        return values.reshape(inputs[0].shape), *inputs[1:]

    with ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(note_shape, with_kwargs=True).remove)
        hooks.callback(interventions[0].projection(model).register_forward_pre_hook(replace_columns).remove)
        yield
    if n_calls != 1:
        raise InterventionError(
            f"The {'down projection' if interventions[0].neurons else 'attention output'} of layer {interventions[0].layer} of this "
            f"{type(model).__name__} was called {n_calls} times in one pass; expected once. "
            f"{'A fused kernel takes its weights and leaves the module out' if not n_calls else 'It is shared or runs in parts'}: "
            "look at how the block computes it, and at its row in confreg.models.families."
        )


def site_activations(
    model: PreTrainedModel, tokens: Int[Tensor, "block token"], layer: int, heads: bool = False
) -> Float[Tensor, "block token column"]:
    """What enters the projection of a layer: the activations of all its neurons, or the outputs of all its heads, side by side."""
    site = Intervention(layer, 0.0, heads=(0,)) if heads else Intervention(layer, 0.0, neurons=(0,))
    seen: list[Tensor] = []
    handle = site.projection(model).register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].detach()))
    try:
        with undisturbed(model), torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            model(input_ids=tokens.to(model.device), use_cache=False)
    finally:
        handle.remove()
    if len(seen) != 1:
        raise InterventionError(
            f"The projection of layer {layer} of this {type(model).__name__} was called {len(seen)} times; expected once."
        )
    return by_block(seen[0], tokens.shape)
