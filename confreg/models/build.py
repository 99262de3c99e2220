"""A model from the settings: from scratch, or the modules of a pretrained one whose weights a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.activations import ACT2FN

from confreg.models.families import BUILDABLE, FAMILIES
from confreg.models.pretrained import open_pretrained, rebuilt
from confreg.models.swaps import swap_parts
from confreg.settings import ModelSettings, PretrainedSettings, SettingError
from confreg.settings.mapping import kind_of_part


def model_from(
    settings: Mapping[str, Any], vocabulary_size: int, block_length: int, seed: int, architecture: dict[str, Any] | None = None
) -> PreTrainedModel:
    """The model that plain values describe, in training mode; of a pretrained one the modules alone, to be filled from a checkpoint.

    Args:
        settings: of either kind, as a checkpoint keeps them.
        vocabulary_size: rows of the unembedding, from scratch.
        block_length: tokens of the longest block, from scratch.
        seed: of the initial weights, from scratch.
        architecture: of a pretrained one.
    """
    kind = kind_of_part("model", settings)
    chosen: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), dict(settings)))
    if isinstance(chosen, PretrainedSettings):
        return open_pretrained(chosen, seed) if architecture is None else rebuilt(chosen, architecture)
    return build_model(chosen, vocabulary_size, block_length, seed)


def build_model(settings: ModelSettings, vocabulary_size: int, block_length: int, seed: int) -> PreTrainedModel:
    """A randomly initialised causal language model in fp32, in training mode.

    Args:
        settings: the architecture; what it swaps is swapped after the weights are drawn, so that all others are the same without.
        vocabulary_size: rows of the unembedding.
        block_length: tokens of the longest block.
        seed: of the initial weights; the global generator is left as it was.

    Raises:
        SettingError: as ``check_architecture`` says.
    """
    check_architecture(settings)
    configure = FAMILIES[settings.family].configure
    assert configure is not None  # as check_architecture made sure
    config = configure(settings, vocabulary_size, block_length)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
    swap_parts(model, settings, block_length, seed)
    return model


def check_architecture(settings: ModelSettings) -> None:
    """Refuse what no model can be built from.

    Raises:
        SettingError: for a family that cannot be trained from scratch or an activation that does not exist, with the possible ones; for
            heads that cannot turn with the position.
    """
    for name, choices in (("family", BUILDABLE), ("activation", ACT2FN)):
        value = getattr(settings, name)
        if value not in choices:
            raise SettingError(f"model.{name} is {value!r}; expected one of {', '.join(sorted(choices))}.")
    head_size, share = settings.d_model // settings.n_head, FAMILIES[settings.family].rotary_share
    n_turning = int(head_size * share)
    if share and not 0 < n_turning + n_turning % 2 <= head_size:
        raise SettingError(
            f"model.n_head is {settings.n_head} and model.d_model {settings.d_model}: heads of {head_size} dimensions, of which "
            f"{settings.family} turns {share:.0%} with the position, in pairs; expected an even number of dimensions, enough for one pair."
        )
