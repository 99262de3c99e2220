"""Families of architectures as a table: how to build one from the settings, and where its parts are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from confreg.settings import ModelSettings


@dataclass(frozen=True)
class Family:
    """One architecture. Paths are attribute names from the causal language model."""

    configure: Callable[[ModelSettings, int, int], PreTrainedConfig]  # settings, vocabulary size, longest block
    blocks: str
    down_projection: str  # within a block: its input is the neurons' activations
    block_norms: tuple[str, ...]  # within a block
    final_norm: str
    norm: str  # all of them, by their name in confreg.models.norms
    rotary_share: float = 0.0  # of a head's dimensions: those that turn with the position, in pairs


def _configure_gpt2(settings: ModelSettings, vocabulary_size: int, block_length: int) -> PreTrainedConfig:
    return GPT2Config(
        vocab_size=vocabulary_size,
        n_positions=block_length,
        n_embd=settings.d_model,
        n_layer=settings.n_layer,
        n_head=settings.n_head,
        n_inner=settings.d_mlp,
        activation_function=settings.activation,
        resid_pdrop=settings.dropout,
        embd_pdrop=settings.dropout,
        attn_pdrop=settings.dropout,
        layer_norm_epsilon=settings.norm_epsilon,
        tie_word_embeddings=settings.tied,
        bos_token_id=None,
        eos_token_id=None,
    )


def _sizes(settings: ModelSettings, vocabulary_size: int, block_length: int) -> dict[str, Any]:
    """What most families call by the same names."""
    return {
        "vocab_size": vocabulary_size,
        "max_position_embeddings": block_length,
        "hidden_size": settings.d_model,
        "num_hidden_layers": settings.n_layer,
        "num_attention_heads": settings.n_head,
        "intermediate_size": settings.d_mlp,
        "hidden_act": settings.activation,
        "attention_dropout": settings.dropout,
        "tie_word_embeddings": settings.tied,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _configure_gpt_neox(settings: ModelSettings, vocabulary_size: int, block_length: int) -> PreTrainedConfig:
    sizes = _sizes(settings, vocabulary_size, block_length)
    return GPTNeoXConfig(**sizes, hidden_dropout=settings.dropout, layer_norm_eps=settings.norm_epsilon)


def _configure_llama(settings: ModelSettings, vocabulary_size: int, block_length: int) -> PreTrainedConfig:
    """Its only dropout is that of the attention."""
    return LlamaConfig(**_sizes(settings, vocabulary_size, block_length), rms_norm_eps=settings.norm_epsilon, pad_token_id=None)


FAMILIES = {
    "gpt2": Family(
        configure=_configure_gpt2,
        blocks="transformer.h",
        down_projection="mlp.c_proj",
        block_norms=("ln_1", "ln_2"),
        final_norm="transformer.ln_f",
        norm="layernorm",
    ),
    "gpt_neox": Family(
        configure=_configure_gpt_neox,
        blocks="gpt_neox.layers",
        down_projection="mlp.dense_4h_to_h",
        block_norms=("input_layernorm", "post_attention_layernorm"),
        final_norm="gpt_neox.final_layer_norm",
        norm="layernorm",
        rotary_share=0.25,
    ),
    "llama": Family(
        configure=_configure_llama,
        blocks="model.layers",
        down_projection="mlp.down_proj",
        block_norms=("input_layernorm", "post_attention_layernorm"),
        final_norm="model.norm",
        norm="rmsnorm",
        rotary_share=1.0,
    ),
}


def family_of(model: PreTrainedModel) -> Family:
    """The row of a model's architecture.

    Raises:
        ValueError: for an architecture that the table lacks.
    """
    name = model.config.model_type
    if name not in FAMILIES:
        raise ValueError(
            f"No row for the architecture {name!r} in confreg.models.families; expected one of {', '.join(sorted(FAMILIES))}. "
            "A measurement needs to know its blocks, its MLP's down projection and its final norm."
        )
    return FAMILIES[name]


def last_down_projection(model: PreTrainedModel) -> nn.Module:
    """The module whose input is the activations of the last MLP's neurons."""
    family = family_of(model)
    return _at(_at(model, family.blocks)[-1], family.down_projection)


def final_norm(model: PreTrainedModel) -> nn.Module:
    """The norm before the unembedding; its input is the residual after the last block."""
    return _at(model, family_of(model).final_norm)


def norm_paths(model: PreTrainedModel) -> list[str]:
    """Where the norms are, from the model, in the order of the blocks; the final one comes last."""
    family = family_of(model)
    inner = [f"{family.blocks}.{layer}.{name}" for layer in range(n_layers(model)) for name in family.block_norms]
    return [*inner, family.final_norm]


def n_layers(model: PreTrainedModel) -> int:
    """Number of transformer blocks."""
    return len(_at(model, family_of(model).blocks))


def output_rows(projection: nn.Module) -> Tensor:
    """What each neuron writes for one unit of activation: [neuron, d_model], whichever way the module stores it."""
    weight: Any = projection.weight
    return weight if isinstance(projection, Conv1D) else weight.T


def _at(module: nn.Module, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module
