"""The plain transformers model within whatever holds it: a LightningModule, a compiled one, a wrapper of peft."""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import PreTrainedModel

from confreg.models.adapters import without_adapters


def causal_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself.

    Raises:
        TypeError: where there is none.
    """
    found = _uncompiled(model)
    if not isinstance(found, PreTrainedModel):
        found = _uncompiled(getattr(found, "model", None))
    if callable(inner := getattr(found, "get_base_model", None)):  # a wrapper of peft
        found = inner()
    if not isinstance(found, PreTrainedModel):
        raise TypeError(
            f"measure got a {type(model).__name__}; expected a transformers causal language model, or a module with one as .model."
        )
    if found.get_output_embeddings() is None:
        raise TypeError(f"measure got a {type(found).__name__} without an unembedding; expected one with a language-model head.")
    return found


def _uncompiled(model: nn.Module | None) -> nn.Module | None:
    """What ``torch.compile(model)`` wraps; any other module is itself."""
    return getattr(model, "_orig_mod", model)


def in_fp32(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself where it is in fp32, else a copy that is."""
    return model if model.dtype == torch.float32 else copy.deepcopy(model).float()


def effective_model(module: nn.Module) -> PreTrainedModel:
    """The causal language model of a module as a checkpoint of it opens: in fp32, low-rank changes added to the weights they change."""
    return without_adapters(in_fp32(causal_model(module)))
