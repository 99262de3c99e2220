"""The command line that trains a run again, found by composing it and comparing."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from confreg.experiments.composition import compose_settings
from confreg.figures.model_card.words import PLACES, began_on_hub, source_name
from confreg.settings import MixtureSettings, PretrainedSettings, SettingError, Settings, TextSettings, identity, settings_to_mapping

PRESETS = {TextSettings: "data=text", MixtureSettings: "data=mixture"}  # of the kinds of data that are not the default
ADDED = "callbacks.extra."  # below it names are the user's own


def command_of(settings: Settings, facts: Mapping[str, Any]) -> str | None:
    """``confreg-train`` with what differs from its defaults; of a text or a model on this machine the name only, not the path.

    None where no such command line composes the same configuration (a mixture or callbacks of one's own, say).
    """
    wanted = identity(settings_to_mapping(settings))
    needed: dict[str, Any] = {}
    kind = [PRESETS[type(settings.data)]] if type(settings.data) in PRESETS else []
    if isinstance(settings.model, PretrainedSettings):
        kind.append("model=pretrained" if settings.model.lora is None else "model=lora")
        needed = {"model.source": settings.model.source}  # without one nothing composes
    try:
        before = _identity_of([*kind, *_overrides(needed)])
        changed = needed | {key: value for key, value in wanted.items() if before.get(key, object) != value}
        if _identity_of([*kind, *_overrides(changed)]) != wanted:
            return None
    except SettingError:
        return None
    shown = {key: _shown(key, value) for key, value in changed.items()}
    if began_on_hub(facts):
        shown["model.source"] = changed["model.source"]
    return shlex.join(["confreg-train", *kind, *_overrides(shown)])


def _shown(key: str, value: Any) -> Any:
    return source_name(value) if isinstance(value, str) and key.rpartition(".")[2] in PLACES else value


def _identity_of(overrides: list[str]) -> dict[str, Any]:
    return identity(settings_to_mapping(compose_settings(overrides)))


def _overrides(values: Mapping[str, Any]) -> list[str]:
    return [f"{'++' if key.startswith(ADDED) else ''}{key}={_as_value(value)}" for key, value in values.items()]


def _as_value(value: Any) -> str:
    """As Hydra's grammar reads it back: quoted where a string could be taken for something else."""
    if isinstance(value, str) and value.replace("_", "").isalnum() and not value[0].isdigit() and value not in ("null", "true", "false"):
        return value
    return json.dumps(value, ensure_ascii=False)
