"""From the settings to the configurations of transformers, one function for each family that is trained from scratch."""

from __future__ import annotations

from typing import Any

from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig, PreTrainedConfig

from confreg.settings import ModelSettings


def configure_gpt2(settings: ModelSettings, vocabulary_size: int, block_length: int) -> PreTrainedConfig:
    """GPT-2 names its sizes in its own way."""
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


def configure_gpt_neox(settings: ModelSettings, vocabulary_size: int, block_length: int) -> PreTrainedConfig:
    """Pythia's family."""
    sizes = _sizes(settings, vocabulary_size, block_length)
    return GPTNeoXConfig(**sizes, hidden_dropout=settings.dropout, layer_norm_eps=settings.norm_epsilon)


def configure_llama(settings: ModelSettings, vocabulary_size: int, block_length: int) -> PreTrainedConfig:
    """Its only dropout is that of the attention."""
    return LlamaConfig(**_sizes(settings, vocabulary_size, block_length), rms_norm_eps=settings.norm_epsilon, pad_token_id=None)
