"""A model from scratch, from the settings."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.activations import ACT2FN

from confreg.models.families import FAMILIES
from confreg.settings import ModelSettings, SettingError


def build_model(settings: ModelSettings, vocabulary_size: int, block_length: int, seed: int) -> PreTrainedModel:
    """A randomly initialised causal language model in fp32, in training mode.

    Args:
        settings: the architecture.
        vocabulary_size: rows of the unembedding.
        block_length: tokens of the longest block.
        seed: of the initial weights; the global generator is left as it was.

    Raises:
        SettingError: for a family or an activation that does not exist.
    """
    if settings.family not in FAMILIES:
        raise SettingError(f"model.family is {settings.family!r}; expected one of {', '.join(sorted(FAMILIES))}.")
    if settings.activation not in ACT2FN:
        raise SettingError(f"model.activation is {settings.activation!r}; expected one of {', '.join(sorted(ACT2FN))}.")
    config = FAMILIES[settings.family].configure(settings, vocabulary_size, block_length)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
