"""Which classes a configuration may name: a configuration file must not be able to run just any code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ALLOWED_PREFIXES = ("lightning.pytorch.callbacks.", "confreg.callbacks.")
LOGGER_PREFIXES = ("lightning.pytorch.loggers.",)
PARTS_OF_A_RUN = ("checkpoints", "csv", "records", "tokenizer", "wandb")  # folders in it that are somebody else's
INSTRUCTIONS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


def complaints_about_targets(node: Any, key: str, prefixes: Sequence[str] = ALLOWED_PREFIXES) -> Iterator[str]:
    """Everything in a part of a configuration that names code outside the allow-list, or the way to call it.

    Args:
        node: mappings, lists and plain values, as they come from YAML.
        key: dotted key of the node, for the messages.
        prefixes: of the packages whose classes may be named.

    Yields:
        One line for each complaint. Nothing is imported to find out.
    """
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _complaints_about_entry(name, value, f"{key}.{name}", prefixes)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from complaints_about_targets(value, f"{key}[{index}]", prefixes)


def complaints_about_callbacks(extra: Mapping[str, Any], key: str) -> Iterator[str]:
    """The same for the mapping of extra callbacks, in which every entry must also name its class."""
    yield from _complaints_about_missing_targets(extra, key, f"{ALLOWED_PREFIXES[0]}EarlyStopping")
    yield from complaints_about_targets(extra, key)
    for name, entry in extra.items():
        if isinstance(entry, Mapping) and str(entry.get("_target_")).endswith(".GradientAccumulationScheduler"):
            yield f"{key}.{name} changes how many batches make a step, by which data are counted; set trainer.accumulate_batches instead."


def complaints_about_loggers(extra: Mapping[str, Any], key: str) -> Iterator[str]:
    """The same for the mapping of extra loggers; W&B is not among them, because its axes are defined once."""
    yield from _complaints_about_missing_targets(extra, key, f"{LOGGER_PREFIXES[0]}TensorBoardLogger")
    yield from complaints_about_targets(extra, key, LOGGER_PREFIXES)
    for name, entry in extra.items():
        if not (isinstance(name, str) and name.isidentifier()):
            yield f"{key} has an entry {name!r}; expected a plain name, which is that of a folder in the run too."
        elif name in PARTS_OF_A_RUN:
            yield f"{key}.{name} would write into the run's own folder {name}; choose another name, such as {key}.my_{name}."
        if isinstance(entry, Mapping) and str(entry.get("_target_")).endswith(".WandbLogger"):
            yield f"{key}.{name} is a WandbLogger; W&B is a part of every run already: set logger.wandb instead."


def _complaints_about_missing_targets(extra: Mapping[str, Any], key: str, example: str) -> Iterator[str]:
    for name, entry in extra.items():
        if not isinstance(entry, Mapping) or "_target_" not in entry:
            yield f"{key}.{name} is {entry!r}; expected a mapping with _target_, e.g. {{_target_: {example}, …}}."


def _complaints_about_entry(name: Any, value: Any, key: str, prefixes: Sequence[str]) -> Iterator[str]:
    if name == "_target_":
        if not is_allowed(value, prefixes):
            yield f"{key} is {value!r}; expected a class below {' or '.join(prefixes)} (a configuration may run nothing else)."
    elif name in INSTRUCTIONS:
        yield f"{key} is {value!r}; this instruction is not available here: name only _target_ and the arguments of its class."
    else:
        yield from complaints_about_targets(value, key, prefixes)


def is_allowed(target: Any, prefixes: Sequence[str] = ALLOWED_PREFIXES) -> bool:
    """Whether a target is the name of a class right below an allowed package: no detour through what its modules import."""
    if not isinstance(target, str):
        return False
    names = (target.removeprefix(prefix) for prefix in prefixes if target.startswith(prefix))
    return any(name.isidentifier() and name.isascii() and name[0].isupper() for name in names)
