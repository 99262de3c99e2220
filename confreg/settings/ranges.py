"""Ranges of settings: declared beside the default, checked in one pass, refused by name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import field, fields, is_dataclass
from numbers import Integral, Real
from typing import Any

KINDS: dict[Any, tuple[type, str]] = {"int": (Integral, "a whole number"), "float": (Real, "a number"), "bool": (bool, "True or False")}


class SettingError(ValueError):
    """A setting that cannot be used; the message names its key, what came and what was expected."""


def setting(
    default: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    choices: Sequence[Any] | None = None,
) -> Any:
    """A dataclass field with its default and the range of values that make sense."""
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "below": below, "choices": choices}
    return field(default=default, metadata={name: limit for name, limit in limits.items() if limit is not None})


def check_ranges(settings: Any, path: str = "") -> None:
    """Check every field of a tree of dataclasses against its declared range.

    A dataclass may have a method ``complaints`` for what concerns several fields; its lines begin with the name of a field.

    Raises:
        SettingError: one line for each field out of range, with its dotted key.
    """
    if not is_dataclass(settings) or isinstance(settings, type):
        raise SettingError(
            f"{path or 'settings'} is a {type(settings).__name__}; expected settings such as MeasurementRequest(control_draws=3)."
        )
    complaints = list(_complaints(settings, path))
    if complaints:
        raise SettingError("\n".join(complaints))


def _complaints(settings: Any, path: str) -> Iterator[str]:
    for each in fields(settings):
        value, key = getattr(settings, each.name), f"{path}.{each.name}" if path else each.name
        if is_dataclass(value):
            yield from _complaints(value, key)
        elif isinstance(value, dict):
            yield from (text for name, entry in value.items() if is_dataclass(entry) for text in _complaints(entry, f"{key}.{name}"))
        elif value is not None or each.type in KINDS:
            wrong = _wrong_kind(key, value, str(each.type))
            yield from [wrong] if wrong else _complaints_about_value(key, value, dict(each.metadata))
    own_check = getattr(settings, "complaints", None)
    if own_check is not None:
        yield from (f"{path}.{text}" if path else text for text in own_check())


def _wrong_kind(key: str, value: Any, annotation: str) -> str | None:
    """What is wrong with a value that is not of its declared kind."""
    declared = annotation.split("|")[0].strip()
    if declared not in KINDS:
        return None
    kind, name = KINDS[declared]
    is_right = isinstance(value, kind) and (declared == "bool" or not isinstance(value, bool))
    return None if is_right else f"{key} is {value!r}; expected {name}."


def _complaints_about_value(key: str, value: Any, limits: dict[str, Any]) -> Iterator[str]:
    if "choices" in limits and value not in limits["choices"]:
        yield f"{key} is {value!r}; expected one of {', '.join(map(str, limits['choices']))}."
        return
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{key} is {value}; expected a finite number."
        return
    tests = {
        "at_least": lambda limit: value >= limit,
        "above": lambda limit: value > limit,
        "at_most": lambda limit: value <= limit,
        "below": lambda limit: value < limit,
    }
    for name, holds in tests.items():
        if name in limits and not holds(limits[name]):
            yield f"{key} is {value}; expected a value {name.replace('_', ' ')} {limits[name]}."
