"""Which classes a configuration may name: a configuration file must not be able to run just any code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

ALLOWED_PREFIXES = ("lightning.pytorch.callbacks.", "confreg.callbacks.")
INSTRUCTIONS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


def complaints_about_targets(node: Any, key: str) -> Iterator[str]:
    """Everything in a part of a configuration that names code outside the allow-list, or the way to call it.

    Args:
        node: mappings, lists and plain values, as they come from YAML.
        key: dotted key of the node, for the messages.

    Yields:
        One line for each complaint. Nothing is imported to find out.
    """
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _complaints_about_entry(name, value, f"{key}.{name}")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from complaints_about_targets(value, f"{key}[{index}]")


def complaints_about_callbacks(extra: Mapping[str, Any], key: str) -> Iterator[str]:
    """The same for the mapping of extra callbacks, in which every entry must also name its class."""
    for name, entry in extra.items():
        if not isinstance(entry, Mapping) or "_target_" not in entry:
            yield f"{key}.{name} is {entry!r}; expected a mapping with _target_, e.g. {{_target_: {ALLOWED_PREFIXES[0]}EarlyStopping, …}}."
    yield from complaints_about_targets(extra, key)


def _complaints_about_entry(name: Any, value: Any, key: str) -> Iterator[str]:
    if name == "_target_":
        if not is_allowed(value):
            yield f"{key} is {value!r}; expected a class below {' or '.join(ALLOWED_PREFIXES)} (a configuration may run nothing else)."
    elif name in INSTRUCTIONS:
        yield f"{key} is {value!r}; this instruction is not available here: name only _target_ and the arguments of its class."
    else:
        yield from complaints_about_targets(value, key)


def is_allowed(target: Any) -> bool:
    """Whether a target is the name of a class right below an allowed package: no detour through what its modules import."""
    if not isinstance(target, str):
        return False
    names = (target.removeprefix(prefix) for prefix in ALLOWED_PREFIXES if target.startswith(prefix))
    return any(name.isidentifier() and name.isascii() and name[0].isupper() for name in names)
