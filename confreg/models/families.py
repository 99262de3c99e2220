"""Families of architectures as a table: how to build one from the settings, and where its parts are; without a row, as structure tells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from jaxtyping import Float
from torch import Size, Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from confreg.models.configurations import configure_gpt2, configure_gpt_neox, configure_llama
from confreg.models.family import Family, lacking_in_bloom, lacking_in_opt
from confreg.models.structure import PartNotFoundError, find_family

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
_BLOOM = replace(
    _LIKE_GPT2,
    down_projection="mlp.dense_4h_to_h",
    attention_output="self_attention.dense",
    block_norms=("input_layernorm", "post_attention_layernorm"),
    lacks=lacking_in_bloom,
)

FAMILIES = {  # by the name that transformers gives an architecture: config.model_type
    "bloom": _BLOOM,
    "cohere": _COHERE,
    "cohere2": _COHERE,
    "falcon": replace(_BLOOM, block_norms=("input_layernorm", "post_attention_layernorm", "ln_attn", "ln_mlp"), lacks=lambda config: None),
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
    "mpt": Family(
        blocks="transformer.blocks",
        down_projection="ffn.down_proj",
        attention_output="attn.out_proj",
        block_norms=("norm_1", "norm_2"),
        final_norm="transformer.norm_f",
    ),
    "nemotron": replace(_LIKE_LLAMA, gate=None),
    "olmo": _LIKE_LLAMA,
    "olmo2": _OLMO2,
    "olmo3": _OLMO2,
    "opt": Family(
        blocks="model.decoder.layers",
        down_projection="fc2",
        attention_output="self_attn.out_proj",
        block_norms=("self_attn_layer_norm", "final_layer_norm"),
        final_norm="model.decoder.final_layer_norm",
        lacks=lacking_in_opt,
    ),
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
_FOUND: WeakKeyDictionary[PreTrainedModel, Family] = WeakKeyDictionary()  # by structure
BUILDABLE = tuple(name for name, family in FAMILIES.items() if family.configure is not None)  # what model.family offers


def family_of(model: PreTrainedModel) -> Family:
    """The row of a model's architecture; where the table has none, what a pass over a few tokens shows, found once for each model.

    Raises:
        ValueError: for an architecture that has no row and does not show its parts, or a configuration that leaves one out; it is named.
    """
    family = FAMILIES.get(model.config.model_type) or _FOUND.get(model) or _found(model)
    if (lacking := family.lacks(model.config)) is not None:
        raise ValueError(f"This {type(model).__name__} cannot be measured: it lacks {lacking}.")
    return family


def _found(model: PreTrainedModel) -> Family:
    try:
        _FOUND[model] = find_family(model)
    except PartNotFoundError as error:
        raise ValueError(
            f"No row for the architecture {model.config.model_type!r} in confreg.models.families, nor does its structure tell: {error}. "
            "A measurement needs to know its blocks, its MLP's down projection and its final norm. There are rows for "
            f"{', '.join(sorted(FAMILIES))}."
        ) from error
    return _FOUND[model]


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
    """The module whose input is the outputs of a layer's attention heads, one head after the other.

    Raises:
        ValueError: where it is not known, nor how many heads there are.
    """
    path = family_of(model).attention_output
    if path is None or not n_heads(model):
        raise ValueError(
            f"The attention output of this {type(model).__name__} or its number of heads is not known: its structure does not tell. Its "
            "neurons can be measured; for its heads it needs a row in confreg.models.families."
        )
    projection: nn.Module = _at(blocks_of(model)[layer], path)
    return projection


def n_heads(model: PreTrainedModel) -> int:
    """Attention heads of each layer; 0 where the configuration does not say."""
    number = getattr(model.config, "num_attention_heads", 0)
    return number if isinstance(number, int) else 0


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
    family, blocks = family_of(model), blocks_of(model)
    inner = [(layer, name) for layer, block in enumerate(blocks) for name in family.block_norms if getattr(block, name, None) is not None]
    return [*(f"{family.blocks}.{layer}.{name}" for layer, name in inner), family.final_norm]


def n_layers(model: PreTrainedModel) -> int:
    """Number of transformer blocks."""
    return len(_at(model, family_of(model).blocks))


def output_rows(projection: nn.Module) -> Tensor:
    """What each neuron writes for one unit of activation: [neuron, d_model], whichever way the module stores it."""
    weight: Any = projection.weight
    return weight if isinstance(projection, Conv1D) else weight.T


def by_block(values: Float[Tensor, "*position column"], shape: Size) -> Float[Tensor, "block token column"]:
    """What enters or leaves a projection, for each token of each block: some architectures put the blocks one after the other."""
    return values.unflatten(0, shape) if values.ndim == 2 else values


def _at(module: nn.Module, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module
