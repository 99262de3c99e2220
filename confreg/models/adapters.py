"""Low-rank changes of a model's projections (LoRA, package peft): put in place, and added up to the weights that they make effective."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from confreg.models.families import family_of
from confreg.settings import LoraSettings, SettingError


def add_lora(model: PreTrainedModel, settings: LoraSettings, seed: int) -> None:
    """Put low-rank changes, zero at the start, beside the projections; all other weights are frozen.

    Args:
        model: changed in place; its class stays what it is.
        settings: rank, size, dropout and which projections.
        seed: of the changes' first factors; the global generator is left as it was.

    Raises:
        SettingError: where peft is not installed, or a target is no projection of the blocks.
    """
    check_peft()
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a factor, whole or not
        lora_dropout=settings.dropout,
        target_modules=lora_targets(model, settings.targets),
        fan_in_fan_out=any(isinstance(each, Conv1D) for each in model.modules()),
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        inject_adapter_in_model(config, model)


def lora_targets(model: PreTrainedModel, wanted: list[str]) -> list[str]:
    """Paths of the projections in the blocks whose last part is wanted; of all where none is.

    Raises:
        SettingError: for a name that none of them has.
    """
    blocks = family_of(model).blocks
    inside = model.get_submodule(blocks)
    found = [f"{blocks}.{name}" for name, module in inside.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    names = {path.rpartition(".")[2] for path in found}
    for each in wanted:
        if each not in names:
            raise SettingError(f"model.lora.targets has {each!r}; expected some of {', '.join(sorted(names))}, or [] for all of them.")
    return [path for path in found if not wanted or path.rpartition(".")[2] in wanted]


def check_peft() -> None:
    """Refuse low-rank changes where the package is missing."""
    if find_spec("peft") is None:
        raise SettingError("model.lora needs the package peft, which is not installed: pip install 'confreg[peft]'.")


def has_adapters(model: nn.Module) -> bool:
    """Whether any module carries changes of its own weights, of peft's kinds."""
    return any(_is_adapted(each) for each in model.modules())


def without_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its effective weights: itself where nothing changes them, else a copy into which all changes are added.

    The copy of a model in half precision is in fp32: rounded again, weights would lose what a small change adds to them.
    """
    if not has_adapters(model):
        return model
    merged = copy.deepcopy(model)
    if merged.dtype in (torch.bfloat16, torch.float16):
        merged.float()
    for path, module in list(merged.named_modules()):
        if _is_adapted(module):
            adapted: Any = module
            adapted.merge()
            merged.set_submodule(path, adapted.get_base_layer())
    return merged


def _is_adapted(module: nn.Module) -> bool:
    """Known by what it can do: without peft there is no such module."""
    return callable(getattr(module, "merge", None)) and callable(getattr(module, "get_base_layer", None))
