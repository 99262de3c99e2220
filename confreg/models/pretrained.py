"""Models from weights that exist: published ones, folders, GGUF files, runs; never by running code that comes with them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from confreg.languages.model_sources import ModelSource, ModelSourceError
from confreg.models.adapters import add_lora, check_peft
from confreg.models.families import family_of
from confreg.settings import PretrainedSettings, SettingError

LONGEST_BLOCK = ("max_position_embeddings", "n_positions", "max_seq_len")  # how architectures call it


def open_pretrained(settings: PretrainedSettings, seed: int = 0) -> PreTrainedModel:
    """The model that the settings name, in training mode, so that its dropout acts.

    Args:
        settings: source, revision, dtype, dropout, low-rank changes.
        seed: of what is drawn: the first factors of low-rank changes.

    Raises:
        ModelSourceError: where the weights cannot be had.
        SettingError: for low-rank changes of what is not there.
        ValueError: for an architecture that cannot be measured.
    """
    model = open_source(ModelSource.of(settings.source, settings.revision), settings)
    family_of(model)
    if settings.lora is not None:
        add_lora(model, settings.lora, seed)
    return model.train()


def open_source(source: ModelSource, settings: PretrainedSettings | None = None) -> PreTrainedModel:
    """The plain model of a source, in evaluation mode.

    Raises:
        ModelSourceError: where the weights cannot be had.
    """
    chosen = settings or PretrainedSettings(source.source)
    dtype = getattr(torch, chosen.dtype)
    if source.kind in ("run", "checkpoint"):
        return _with_dropout_of(_open_saved(source).to(dtype), chosen.dropout).eval()
    arguments = source.arguments()
    with source.explained("configuration"):
        config = _text_config(AutoConfig.from_pretrained(**arguments))
    set_dropout(config, chosen.dropout)
    with source.explained("weights"):
        if source.kind != "gguf":
            arguments["use_safetensors"] = not chosen.pickled
        with bars_on_terminals_alone():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(**arguments, config=config, dtype=dtype)
    return model.eval()


def _open_saved(source: ModelSource) -> PreTrainedModel:
    """A saved step of a run."""
    from confreg.models.checkpoints import CheckpointError, step_of
    from confreg.models.runs import SavedRun
    from confreg.models.swaps import swapped_parts

    run = SavedRun(source.run)
    if not run.steps:
        raise CheckpointError(f"{source.run} has no checkpoints; expected at least one.")
    asked = step_of(source.path) if source.kind == "checkpoint" else _step(source, run.steps)
    model = run.at(asked).model
    if swapped := swapped_parts(model, run.settings.model):
        raise ModelSourceError(f"{source.source} has parts that no other run can begin with: {'; '.join(swapped)}.")
    return model


def _step(source: ModelSource, steps: list[int]) -> int:
    if source.revision is None:
        return steps[-1]
    if not source.revision.isdecimal():
        raise ModelSourceError(
            f"revision is {source.revision!r} and {source.source} is a run; expected one of its steps, such as {steps[-1]}."
        )
    return int(source.revision)


def architecture_of(model: PreTrainedModel) -> dict[str, Any]:
    """The configuration from which the same modules can be built again, as plain values."""
    plain: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    plain.pop("quantization_config", None)  # of a GGUF file: the weights are not quantised any more
    return plain


def rebuilt(settings: PretrainedSettings, architecture: dict[str, Any]) -> PreTrainedModel:
    """The modules of a pretrained model with weights of no meaning, to be filled from a checkpoint; in training mode."""
    config = AutoConfig.for_model(**architecture)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if settings.lora is not None:
        add_lora(model, settings.lora, seed=0)
    return model.train()


def set_dropout(config: PreTrainedConfig, share: float | None) -> None:
    """The same dropout everywhere that an architecture has one, under whatever name; None leaves what was published."""
    if share is None:
        return
    names = [
        name for name, value in vars(config).items() if isinstance(value, int | float) and ("dropout" in name or name.endswith("pdrop"))
    ]
    for name in names:
        if not isinstance(getattr(config, name), bool):
            setattr(config, name, share)


def _with_dropout_of(model: PreTrainedModel, share: float | None) -> PreTrainedModel:
    """A run's model, built anew where another dropout is asked for: modules take it when they are made."""
    if share is None:
        return model
    set_dropout(model.config, share)
    again: PreTrainedModel = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype)
    again.load_state_dict(model.state_dict())
    return again


def check_pretrained(settings: PretrainedSettings, block_length: int) -> None:
    """Refuse, before any folder exists, what cannot be opened or is too short for the blocks.

    Raises:
        ModelSourceError: where the configuration cannot be had.
        SettingError: for blocks longer than the model's positions, or low-rank changes without peft.
    """
    if settings.lora is not None:
        check_peft()
    source = ModelSource.of(settings.source, settings.revision)
    if source.kind in ("run", "checkpoint"):
        return
    with source.explained("configuration"):
        config = _text_config(AutoConfig.from_pretrained(**source.arguments()))
    check_block_length(config, settings.source, block_length)


def check_block_length(config: PreTrainedConfig, source: str, block_length: int) -> None:
    """Refuse blocks that are longer than a model's positions.

    Raises:
        SettingError: naming both.
    """
    longest = next((getattr(config, name) for name in LONGEST_BLOCK if isinstance(getattr(config, name, None), int)), None)
    if longest is not None and block_length > longest:
        raise SettingError(f"data.block_length is {block_length}, and {source} has {longest} positions; expected at most so many.")


@contextmanager
def bars_on_terminals_alone() -> Iterator[None]:
    """Within, transformers shows no progress where nobody can see it move."""
    was_on = logging.is_progress_bar_enabled()
    try:
        if not sys.stderr.isatty():
            logging.disable_progress_bar()
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def _text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Of a model that reads pictures too, the part that reads text."""
    return config.get_text_config(decoder=True)
