"""What a measurement must know of an architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from confreg.settings import ModelSettings


@dataclass(frozen=True)
class Family:
    """One architecture. Paths are attribute names from the causal language model."""

    blocks: str
    down_projection: str  # within a block: its input is the neurons' activations
    attention_output: str | None  # within a block: the projection whose input is the outputs of the heads, in a row; None: not known
    block_norms: tuple[str, ...]  # within a block: those that its configuration gives it
    final_norm: str
    configure: Callable[[ModelSettings, int, int], PreTrainedConfig] | None = None  # settings, vocabulary size, longest block
    norm: str | None = None  # all of them, by their name in model.norm; with ``configure``, for families that are trained from scratch
    rotary_share: float = 0.0  # of a head's dimensions: those that turn with the position, in pairs; with ``configure``
    gate: tuple[str, str] | None = None  # within a block, of a gated MLP in parts: the gate's activation, and the projection it multiplies
    post_mlp_norm: str | None = None  # within a block: what the MLP's output passes before it is added to the residual
    residual_multiplier: Callable[[Any], float] = lambda config: 1.0  # of what the MLP adds to the residual
    logit_multiplier: Callable[[Any], float] = lambda config: 1.0  # of the logits, the bias of the unembedding included
    softcap: Callable[[Any], float | None] = lambda config: None  # c of the logits c tanh(z / c)
    lacks: Callable[[Any], str | None] = lambda config: None  # what a measurement needs and a configuration leaves out


def lacking_in_bloom(config: Any) -> str | None:
    """What Bloom's configuration may do to the residual: its attributions past the layers above would be wrong."""
    if config.apply_residual_connection_post_layernorm:
        return "a residual that its norms leave alone (apply_residual_connection_post_layernorm=True)"
    return None


def lacking_in_opt(config: Any) -> str | None:
    """What the published OPT of 350M parameters has otherwise than its larger and smaller ones."""
    if not config.do_layer_norm_before or config._remove_final_layer_norm:
        return "a final norm (do_layer_norm_before=False or _remove_final_layer_norm=True)"
    if config.word_embed_proj_dim != config.hidden_size:
        return "an unembedding of the normed residual: project_out stands between them (word_embed_proj_dim differs from hidden_size)"
    return None
