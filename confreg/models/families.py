"""Families of architectures as a table: how to build one from the settings, and where its parts are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from confreg.models.configurations import configure_gpt2, configure_gpt_neox, configure_llama
from confreg.settings import ModelSettings


@dataclass(frozen=True)
class Family:
    """One architecture. Paths are attribute names from the causal language model."""

    blocks: str
    down_projection: str  # within a block: its input is the neurons' activations
    attention_output: str  # within a block: the projection whose input is the outputs of the heads, one after the other
    block_norms: tuple[str, ...]  # within a block
    final_norm: str
    configure: Callable[[ModelSettings, int, int], PreTrainedConfig] | None = None  # settings, vocabulary size, longest block
    norm: str | None = None  # all of them, by their name in model.norm; with ``configure``, for families that are trained from scratch
    rotary_share: float = 0.0  # of a head's dimensions: those that turn with the position, in pairs; with ``configure``
    gate: tuple[str, str] | None = None  # within a block, of a gated MLP in parts: the gate's activation, and the projection it multiplies
    post_mlp_norm: str | None = None  # within a block: what the MLP's output passes before it is added to the residual
    residual_multiplier: Callable[[Any], float] = lambda config: 1.0  # of what the MLP adds to the residual
    logit_multiplier: Callable[[Any], float] = lambda config: 1.0  # of the logits, the bias of the unembedding included
    softcap: Callable[[Any], float | None] = lambda config: None  # c of the logits c tanh(z / c)


_LLAMA = Family(
    configure=configure_llama,
    blocks="model.layers",
    down_projection="mlp.down_proj",
    attention_output="self_attn.o_proj",
    block_norms=("input_layernorm", "post_attention_layernorm"),
    final_norm="model.norm",
    norm="rmsnorm",
    rotary_share=1.0,
    gate=("mlp.act_fn", "mlp.up_proj"),
)
_LIKE_LLAMA = replace(_LLAMA, configure=None, norm=None)  # the same places: what differs is in the norms, the attention and the activation
_COHERE = replace(_LIKE_LLAMA, block_norms=("input_layernorm",), logit_multiplier=lambda config: config.logit_scale)
_OLMO2 = replace(
    _LIKE_LLAMA,
    block_norms=("post_attention_layernorm", "post_feedforward_layernorm"),
    post_mlp_norm="post_feedforward_layernorm",
)
_GEMMA2 = replace(
    _LIKE_LLAMA,
    block_norms=("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    post_mlp_norm="post_feedforward_layernorm",
    softcap=lambda config: config.final_logit_softcapping,
)
_GPT2 = Family(
    configure=configure_gpt2,
    blocks="transformer.h",
    down_projection="mlp.c_proj",
    attention_output="attn.c_proj",
    block_norms=("ln_1", "ln_2"),
    final_norm="transformer.ln_f",
    norm="layernorm",
)
_LIKE_GPT2 = replace(_GPT2, configure=None, norm=None)

FAMILIES = {  # by the name that transformers gives an architecture: config.model_type
    "cohere": _COHERE,
    "cohere2": _COHERE,
    "gemma": _LIKE_LLAMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "glm4": replace(
        _LIKE_LLAMA,
        block_norms=("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"),
        post_mlp_norm="post_mlp_layernorm",
        gate=None,
    ),
    "gpt2": _GPT2,
    "gpt_neo": replace(_LIKE_GPT2, attention_output="attn.attention.out_proj"),
    "gpt_neox": Family(
        configure=configure_gpt_neox,
        blocks="gpt_neox.layers",
        down_projection="mlp.dense_4h_to_h",
        attention_output="attention.dense",
        block_norms=("input_layernorm", "post_attention_layernorm"),
        final_norm="gpt_neox.final_layer_norm",
        norm="layernorm",
        rotary_share=0.25,
    ),
    "gptj": replace(_LIKE_GPT2, down_projection="mlp.fc_out", attention_output="attn.out_proj", block_norms=("ln_1",)),
    "granite": replace(
        _LIKE_LLAMA,
        residual_multiplier=lambda config: config.residual_multiplier,
        logit_multiplier=lambda config: 1 / config.logits_scaling,
    ),
    "llama": _LLAMA,
    "mistral": _LIKE_LLAMA,
    "nemotron": replace(_LIKE_LLAMA, gate=None),
    "olmo": _LIKE_LLAMA,
    "olmo2": _OLMO2,
    "olmo3": _OLMO2,
    "phi": replace(
        _LIKE_LLAMA,
        down_projection="mlp.fc2",
        gate=None,
        attention_output="self_attn.dense",
        block_norms=("input_layernorm",),
        final_norm="model.final_layernorm",
    ),
    "phi3": replace(_LIKE_LLAMA, gate=None),
    "qwen2": _LIKE_LLAMA,
    "qwen3": _LIKE_LLAMA,
    "smollm3": _LIKE_LLAMA,
    "stablelm": _LIKE_LLAMA,
    "starcoder2": replace(_LIKE_LLAMA, down_projection="mlp.c_proj", gate=None),
    "vaultgemma": replace(
        _LIKE_LLAMA,
        block_norms=("input_layernorm", "pre_feedforward_layernorm"),
        softcap=lambda config: config.final_logit_softcapping,
    ),
}
BUILDABLE = tuple(name for name, family in FAMILIES.items() if family.configure is not None)  # what model.family offers


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


def blocks_of(model: PreTrainedModel) -> list[nn.Module]:
    """The transformer blocks, lowest first."""
    return list(_at(model, family_of(model).blocks))


def down_projection(model: PreTrainedModel, layer: int) -> nn.Module:
    """The module whose input is the activations of a layer's neurons."""
    projection: nn.Module = _at(blocks_of(model)[layer], family_of(model).down_projection)
    return projection


def last_down_projection(model: PreTrainedModel) -> nn.Module:
    """The module whose input is the activations of the last MLP's neurons."""
    return down_projection(model, -1)


def attention_output(model: PreTrainedModel, layer: int) -> nn.Module:
    """The module whose input is the outputs of a layer's attention heads, one head after the other."""
    projection: nn.Module = _at(blocks_of(model)[layer], family_of(model).attention_output)
    return projection


def gated_parts(model: PreTrainedModel, layer: int) -> dict[str, nn.Module] | None:
    """Of a gated MLP the modules whose outputs, multiplied, are its neurons: "activation" and "up"; None where it has no such parts."""
    parts, block = family_of(model).gate, blocks_of(model)[layer]
    return None if parts is None else {"activation": _at(block, parts[0]), "up": _at(block, parts[1])}


def last_post_mlp_norm(model: PreTrainedModel) -> nn.Module | None:
    """The norm between the last MLP's output and the residual, where there is one."""
    name = family_of(model).post_mlp_norm
    return None if name is None else _at(blocks_of(model)[-1], name)


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
