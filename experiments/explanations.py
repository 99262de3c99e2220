"""What Hydra and OmegaConf complain about, in a few lines: the key, what came, what was expected, the next move."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from confreg.experiments.commands import TRAIN, Command
from confreg.settings.mapping import KINDS, PART, as_listed

MOVES = {
    "data": "Choose other data with data=PRESET; a data preset of your own begins with defaults: [known_confidence, _self_], "
    "[text, _self_] or [/schema/data/mixture@_here_, _self_].",
    "model": "Choose another model with model=PRESET; a model preset of your own begins with defaults: [gpt2_tiny, _self_] or "
    "[pretrained, _self_].",
}
CLOSE = 0.6  # of 1: how alike two names must be to be suggested before farther ones
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
FULL_KEY = re.compile(r"full_key: (\S+)")
IN_FILE = re.compile(r"^In '([^']+)'")
VALUE = re.compile(r"Value (?:'(?P<text>.*?)'|(?P<number>\S+) \()", re.DOTALL)
NO_NAME = re.compile(r"Key (\S+) \(\w+\) is incompatible with \(str\)")
AMBIGUOUS = re.compile(r"Ambiguous value for argument '(.+)'")


def explain(error: Exception, overrides: Sequence[str], config_dir: Path | str | None, command: Command = TRAIN) -> str:
    """A message of a few lines for anything that composing the configuration of a command may raise."""
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override, str(error), command)
    if isinstance(error, MissingConfigException):
        return _missing_preset(error, overrides, config_dir, command)
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__ or error.__context__
    place = _place(str(error), config_dir)
    if isinstance(cause, OmegaConfBaseException):
        return _about_a_key(cause, str(error), overrides, place, command)
    ambiguous = AMBIGUOUS.search(str(error))
    if ambiguous:
        sweep = "For a sweep over them add -m; a list" if command is TRAIN else "A list"
        return f"{ambiguous[1]!r} holds several values; expected one. {sweep} is written in brackets, [a,b]."
    refused = re.search(r"Could not override '([^']+)'", str(error))
    if refused and as_listed(refused[1]) not in command.keys:
        return unknown_key(refused[1], place, command)
    if isinstance(error, AttributeError):  # OmegaConf, for a mapping in place of one that is null
        found = FULL_KEY.search(str(error))
        key = found[1] if found else "a key"
        return f"{key} (on the command line) is null and cannot take a mapping there; choose a preset that has one, such as model=lora."
    if "Unexpected type for root" in str(error):  # OmegaConf, for a key below one that is null
        return _below_nothing(overrides)
    return _shortened(str(error))


def unknown_key(key: str, place: str, command: Command = TRAIN) -> str:
    """The message for a key that does not exist, with the nearest one that does."""
    return f"{key} ({place}) is not a setting. Did you mean {nearest_key(key, command)}? All keys: confreg-{command.name} --cfg job"


def nearest_key(key: str, command: Command = TRAIN) -> str:
    """The existing key that looks most like a misspelt one: first among its siblings, then by its last part, then by initials."""
    listed = as_listed(key)
    if listed == key or not key.startswith("data.parts."):
        return _nearest(listed, list(command.keys))
    in_part, part = f"data.parts.{PART}", key.split(".")[2]
    found = _nearest(listed, sorted(command.keys, key=lambda each: not each.startswith(in_part)))
    return found.replace(in_part, f"data.parts.{part}")


def _nearest(key: str, keys: list[str]) -> str:
    parent, _, name = key.rpartition(".")
    siblings = {known.rpartition(".")[2]: known for known in keys if known.rpartition(".")[0] == parent}
    others = {known.rpartition(".")[2]: known for known in reversed(keys)}
    initials = {"".join(word[0] for word in last.split("_")): known for last, known in others.items() if "_" in last}
    if name in initials:  # lr, wd
        return initials[name]
    for names in (siblings, others):
        found = difflib.get_close_matches(name, names, n=1, cutoff=CLOSE)
        if found:
            return names[found[0]]
    return difflib.get_close_matches(key, siblings.values() if parent and siblings else keys, n=1, cutoff=0.0)[0]


def _about_a_key(cause: OmegaConfBaseException, message: str, overrides: Sequence[str], place: str, command: Command) -> str:
    named = re.search(r"(?:Could not override '|Error merging override [+~]*)([^'=\s]+)", message)
    key = max(named[1] if named else "", str(cause.full_key or ""), key=len)
    types = command.keys
    unknown_part = re.fullmatch(r"Key '(.+)' (is not in struct|not in 'dict')", _first_line(cause))
    if unknown_part and key.startswith("data.parts."):
        return _unknown_part(unknown_part[1], place)
    if not key or key.startswith("hydra."):
        return f"{_shortened(message, 1)} {_first_line(cause)}".replace("Could not override", "Hydra's own configuration: cannot override")
    is_part = key.startswith("data.parts.") and key.count(".") == 2
    if not is_part and as_listed(key) not in types:
        return unknown_key(key, place, command)
    return _wrong_value(key, dict if is_part else types[as_listed(key)], cause, overrides, place)


def _unknown_part(part: str, place: str) -> str:
    add = f"'+data.parts.{part}={{weight: 1, text: {{source: PATH}}}}'"
    return f"data.parts.{part} ({place}) is not a part of this mixture; to add one: {add}"


def _below_nothing(overrides: Sequence[str]) -> str:
    keys = [each.partition("=")[0] for each in overrides if each.startswith("data.parts.") and each.count(".") > 3]
    of_lora = [each.partition("=")[0] for each in overrides if each.startswith("model.lora.")]
    if of_lora and not keys:
        return f"{of_lora[0]} (on the command line) stands below one that is null; choose model=lora."
    shown = " or ".join(keys) or "a key"
    return f"{shown} (on the command line) stands below one that is null; a part of a mixture has either text or synthetic, not both."


def _wrong_value(key: str, annotation: Any, cause: OmegaConfBaseException, overrides: Sequence[str], place: str) -> str:
    reason = _first_line(cause)
    if "not in '" in reason:
        return of_other_kind(key, reason.rpartition("not in ")[2].strip("'"), place)
    if isinstance(cause, MissingMandatoryValue):
        return f"{key} is missing (???); expected {described(annotation)}."
    no_name = NO_NAME.match(reason)
    if no_name:
        return f"{key} ({place}): {no_name[1]} is no name; expected a letter, then letters, digits, _ or -."
    came = _came(key, overrides)
    if isinstance(cause, InterpolationResolutionError):
        return f"{key} is {came or 'an interpolation'}, which cannot be resolved: {reason}. Expected {described(annotation)}."
    found = VALUE.search(reason)
    if came is None or place != "on the command line":
        came = found["text"] or found["number"] if found else reason
    return f"{key} is {came!r} ({place}); expected {described(annotation)}."


def of_other_kind(key: str, chosen: str, place: str) -> str:
    """The message for a setting of a kind of data, or of model, that was not chosen."""
    part, name = key.split(".")[:2]
    owners = " and ".join(kind.__name__ for kind in KINDS[part].values() if name in {each.name for each in fields(kind)})
    return f"{key} ({place}) is a setting of {owners}, and the chosen {part} is {chosen}.\n{MOVES[part]}"


def described(annotation: Any) -> str:
    """A type in words."""
    arguments = get_args(annotation)
    if NoneType in arguments:
        return " or ".join(described(each) for each in arguments if each is not NoneType) + ", or null"
    if get_origin(annotation) is list:
        return f"a list, such as [a, b], each {described(arguments[0])}"
    if get_origin(annotation) is dict and get_origin(arguments[1]) is list:
        return "a mapping of names to lists, such as {confident: [3, 17]}"
    if annotation is dict or get_origin(annotation) is dict or is_dataclass(annotation):
        return "a mapping of settings, or the name of a preset"
    return WORDS.get(annotation, str(annotation))


def _came(key: str, overrides: Sequence[str]) -> str | None:
    """What the command line said for a key."""
    for override in reversed(overrides):
        name, _, value = override.lstrip("+~").partition("=")
        if name == key:
            return value
    return None


def _unreadable(override: str | None, message: str, command: Command) -> str:
    text = override or ""
    if "=" not in text:
        expected = f"expected KEY=VALUE or GROUP=PRESET, such as {command.example}"
        return f"{text!r} has no '='; {expected}. Nearest key: {nearest_key(text, command)}"
    return f"{text!r} cannot be read: {_shortened(message, 1)}\nQuote special characters twice, once for the shell: 'key=\"a, b\"'."


def _missing_preset(error: MissingConfigException, overrides: Sequence[str], config_dir: Path | str | None, command: Command) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    where = "" if any(each.startswith(f"{group}=") for each in overrides) else f" ({_place(str(error), config_dir)})"
    if not group:
        return f"{name}{where} does not exist as a primary configuration; expected {command.name}."
    presets = ", ".join(error.options or _packaged_presets(group)) or "none"
    own = f"A preset of your own is a file {group}/{name}.yaml below --config-dir FOLDER."
    return f"{group} is {name!r}{where}; expected one of {presets}.\n{own}"


def _packaged_presets(group: str) -> list[str]:
    """Hydra does not list them where several were asked for, callbacks=[ema,nope]."""
    folder = resources.files("confreg.conf") / group
    return sorted(each.name.removesuffix(".yaml") for each in folder.iterdir() if each.name.endswith(".yaml")) if folder.is_dir() else []


def _place(message: str, config_dir: Path | str | None) -> str:
    """Where a refused key stands: the file whose merging failed, or the command line."""
    found = IN_FILE.search(message)
    if not found:
        return "on the command line"
    own = Path(config_dir) / f"{found[1]}.yaml" if config_dir is not None else None
    return f"in the file {own}" if own is not None and own.exists() else f"in the file {found[1]}.yaml of confreg.conf"


def _first_line(error: OmegaConfBaseException) -> str:
    return str(error.msg or error).splitlines()[0]


def _shortened(message: str, n_lines: int = 2) -> str:
    lines = [line for line in message.splitlines() if line.strip() and "HYDRA_FULL_ERROR" not in line and "hydra.cc" not in line]
    return "\n".join(lines[:n_lines]) or "the configuration cannot be composed"
