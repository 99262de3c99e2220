"""Settings as a plain mapping and back; what two runs must share to be the same; every key there is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from confreg.settings.data import DataSettings, SyntheticSettings, TextSettings
from confreg.settings.mixture import MixtureSettings
from confreg.settings.model import ModelChoice, ModelSettings, PretrainedSettings
from confreg.settings.ranges import SettingError, check_ranges
from confreg.settings.run import Settings

DATA_KINDS: dict[str, type[DataSettings]] = {"synthetic": SyntheticSettings, "text": TextSettings, "mixture": MixtureSettings}
MODEL_KINDS: dict[str, type[ModelChoice]] = {"scratch": ModelSettings, "pretrained": PretrainedSettings}
KINDS: dict[str, dict[str, type]] = {"data": {**DATA_KINDS}, "model": {**MODEL_KINDS}}  # parts of a run of which there are several kinds
PART = "NAME"  # stands for every name of a part, or of a group, in the list of keys
# Mappings with names of one's own, and how many names of a key below them are needed until it is that of a setting.
NAMED = {"data.parts": 2, "measure.request.groups": 1, "request.groups": 1}
NOT_IDENTITY = (
    *("run", "resume", "logger", "data.cache", f"data.parts.{PART}.text.cache"),
    *("trainer.progress_bar", "trainer.model_summary"),
)


def settings_to_mapping(settings: Settings) -> dict[str, Any]:
    """The settings as nested dictionaries of plain values, ready for YAML or JSON."""
    return asdict(settings)


def settings_from_mapping(mapping: Mapping[str, Any]) -> Settings:
    """The settings that a mapping of :func:`settings_to_mapping` came from; the kinds of data and model are known by their keys.

    Raises:
        SettingError: for a key that does not exist, a value of the wrong type or out of range.
    """
    schema = OmegaConf.structured(Settings(data=MISSING, model=MISSING))
    try:
        for part in KINDS:
            schema[part] = OmegaConf.structured(kind_of_part(part, mapping.get(part) or {}))
        settings = OmegaConf.to_object(OmegaConf.merge(schema, dict(mapping)))
    except OmegaConfBaseException as error:
        raise SettingError(f"{error.full_key or 'the configuration'}: {str(error.msg or error).splitlines()[0]}") from error
    assert isinstance(settings, Settings)
    check_ranges(settings)
    return settings


def kind_of_part(part: str, mapping: Mapping[str, Any]) -> type:
    """The kind of "data" or "model" that has the most of these keys."""
    return max(KINDS[part].values(), key=lambda kind: len(set(mapping) & {each.name for each in fields(kind)}))


def flattened(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a nested mapping; an empty mapping is a value."""
    for name, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def identity(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs must share to be the same run: dotted keys and values, without where it lives and what only looks on."""
    left_out = tuple(f"{each}." for each in NOT_IDENTITY)
    return {key: value for key, value in flattened(mapping) if not as_listed(f"{key}.").startswith(left_out)}


def as_listed(key: str) -> str:
    """A dotted key as :func:`setting_types` lists it, where one key stands for those of every part of a mixture, or for every group."""
    names = key.split(".")
    for mapping, n_below in NAMED.items():
        depth = mapping.count(".") + 1
        if names[:depth] == mapping.split(".") and len(names) >= depth + n_below:
            return ".".join([*names[:depth], PART, *names[depth + 1 :]])
    return key


def digest(mapping: Mapping[str, Any]) -> str:
    """8 hex digits of the SHA-256 of a configuration's identity: the name of a job in a sweep."""
    text = json.dumps(identity(mapping), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@cache
def setting_types(root: type = Settings) -> dict[str, Any]:
    """Every dotted key of a configuration, groups included, with its annotated type; of ``data`` and ``model`` the keys of every kind.

    Args:
        root: the dataclass of the whole configuration; default that of a training run.
    """
    table = dict(_types_below(root, ""))
    for part, kinds in KINDS.items():
        for kind in kinds.values() if part in table else ():
            table |= dict(_types_below(kind, f"{part}."))
    return table


def _types_below(kind: type, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, annotation in get_type_hints(kind).items():
        yield f"{prefix}{name}", annotation
        if get_origin(annotation) is dict and get_origin(get_args(annotation)[1]) is list:
            yield f"{prefix}{name}.{PART}", get_args(annotation)[1]
        below = f"{prefix}{name}.{PART}." if get_origin(annotation) is dict else f"{prefix}{name}."
        for each in (annotation, *get_args(annotation)):  # of dict[str, Part] and Part | None: the part
            if is_dataclass(each) and isinstance(each, type):
                yield from _types_below(each, below)
