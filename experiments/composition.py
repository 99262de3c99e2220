"""From overrides to typed settings: composed by Hydra, closed by the schema, checked against the ranges."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any

import yaml
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from confreg.experiments.commands import TRAIN, Command
from confreg.experiments.explanations import explain, of_other_kind, unknown_key
from confreg.experiments.schemas import register_schemas
from confreg.records.run_folder import load_settings
from confreg.settings import (
    ModelSettings,
    PretrainedSettings,
    SettingError,
    Settings,
    check_ranges,
    settings_from_mapping,
    settings_to_mapping,
)
from confreg.settings.mapping import KINDS, as_listed, flattened

CONFIG_MODULE = "confreg.conf"
PATH_WITH_EQUALS = re.compile(r"^([^=\-][^=]*)=([^=,'\"()\[\]{}$][^,'\"()\[\]{}$]*=[^,'\"()\[\]{}$]*)$")
ADDED_PART = re.compile(r"^\+data\.parts\.([^=]+)=(.+)$", re.DOTALL)
OF_GROUPS = re.compile(r"^(?=(measure\.)?request\.groups[.=])")
DELETABLE = (  # below these, names are the user's own
    *("callbacks.extra.", "logger.extra.", "data.parts.", "measure.request.groups.", "request.groups."),
    "hydra",
)
COMBINED_GROUPS = ("callbacks", "logger")  # may take several presets, callbacks=[ema,monitors]: each adds its own entries
HYDRA_TARGETS = ("hydra._internal.", "hydra_plugins.")  # what Hydra's own configuration may name
REFUSALS = (
    HydraException,
    OmegaConfBaseException,
    yaml.YAMLError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    AssertionError,
)  # Hydra's and OmegaConf's
WITH_RESUME = ("trainer.progress_bar", "logger.", "hydra.", "hydra/")  # what may be said beside resume=RUN


def compose_settings(overrides: Sequence[str], config_dir: Path | str | None = None, config_name: str = "train") -> Settings:
    """The settings of one run; no file or folder is made.

    Args:
        overrides: as on the command line, e.g. ``["data=text", "trainer.max_steps=20"]``; with ``resume=RUN`` the run's own settings.
        config_dir: a folder with presets of one's own, ``GROUP/NAME.yaml``.
        config_name: the primary configuration, a file of ``conf``.

    Raises:
        SettingError: for anything that cannot be used: names the key, what came, what was expected.
    """
    overrides = with_quoted_paths(overrides)
    run = _resumed_run(overrides)
    if run is not None:
        return _resumed_settings(run, overrides)
    with composing(overrides, config_dir) as all_overrides:
        refuse_by_grammar(overrides)
        config = compose(config_name, all_overrides, return_hydra_config=True)
        return settings_of(config, overrides)


def with_quoted_paths(arguments: Sequence[str]) -> list[str]:
    """Arguments as Hydra can read them.

    Quotes come around values that hold an equals sign (``run.name=default/seed=0``), and a part that is added to a mixture into a
    mapping: ``+data.parts.more.weight=2`` becomes ``+data.parts={more: {weight: 2}}``, for OmegaConf cannot add to a typed mapping.
    Groups of neurons are always added or changed: ``request.groups.confident=[3]`` becomes ``++request.groups.confident=[3]``.
    """
    return [OF_GROUPS.sub("++", _with_nested_part(PATH_WITH_EQUALS.sub(r"\1='\2'", each))) for each in arguments]


def _with_nested_part(argument: str) -> str:
    found = ADDED_PART.match(argument)
    if not found:
        return argument
    names, value = found[1].split("."), found[2]
    return f"+data.parts={''.join(f'{{{name}: ' for name in names)}{value}{'}' * len(names)}"


@contextlib.contextmanager
def composing(overrides: Sequence[str], config_dir: Path | str | None, command: Command = TRAIN) -> Iterator[list[str]]:
    """Hydra initialised on ``conf`` and a folder of one's own; every way in which it may complain ends as a SettingError."""
    register_schemas()
    try:
        all_overrides = [*overrides, *_search_path(overrides, config_dir)]
        with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
            yield all_overrides
    except SettingError:
        raise
    except REFUSALS as error:
        raise SettingError(explain(error, overrides, config_dir, command)) from error


def _search_path(overrides: Sequence[str], config_dir: Path | str | None) -> list[str]:
    if config_dir is None:
        return []
    folder = Path(config_dir).absolute()
    if not folder.is_dir():
        raise SettingError(f"--config-dir is {str(config_dir)!r}; expected a folder with presets, such as {folder.name}/model/mine.yaml.")
    if any(each.startswith("hydra.searchpath=") for each in overrides):
        raise SettingError("hydra.searchpath came together with --config-dir; give one of the two.")
    quoted = f"file://{folder}".replace("'", "\\'")
    return [f"hydra.searchpath=['{quoted}']"]


def refuse_by_grammar(overrides: Sequence[str], command: Command = TRAIN) -> None:
    """Refuse what Hydra reads but confreg has no use for: no key, a deletion, a number as a preset's name.

    Raises:
        SettingError: for the first such override.
    """
    groups = GlobalHydra.instance().config_loader().list_groups("")
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, value = override.key_or_group, override.value()
        if not key:
            raise SettingError(f"{override.input_line!r} has no key; expected KEY=VALUE or GROUP=PRESET, such as {command.example}.")
        if override.is_delete() and not key.startswith(DELETABLE):
            raise SettingError(
                f"{override.input_line!r}: nothing can be left out of the configuration; choose a value or a preset, {key}=…"
            )
        names = value if key in COMBINED_GROUPS and isinstance(value, list) else [value]
        if key in groups and not all(isinstance(each, str | dict | NoneType) for each in names) and not override.is_sweep_override():
            raise SettingError(f"{key} is {value!r}; expected the name of a preset (confreg-{command.name} --help lists them).")


def settings_of(config: DictConfig, overrides: Sequence[str] = ()) -> Settings:
    """The typed settings of a training run in a composed configuration, checked; errors as :func:`command_settings`."""
    settings = command_settings(config, overrides, TRAIN)
    assert isinstance(settings, Settings)
    return settings


def command_settings(config: DictConfig, overrides: Sequence[str], command: Command) -> Any:
    """The typed settings of a command in a composed configuration, checked.

    Raises:
        SettingError: for keys outside the schema, values out of range, code outside the allow-list.
    """
    with open_dict(config):
        hydra = config.pop("hydra", None)
    if hydra is not None:
        _refuse_foreign_targets(OmegaConf.to_container(hydra, resolve=False), "hydra")
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    chosen = {part: kind for part in KINDS if part in config and (kind := OmegaConf.get_type(config, part)) is not None}
    _refuse_unknown_keys(plain, chosen, command)
    try:
        settings = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise SettingError(explain(error, overrides, None, command)) from error
    assert isinstance(settings, command.settings)
    check_ranges(settings)
    return settings


def check_model_names(settings: Settings) -> None:
    """Refuse what no model can be built from, before any folder exists; the default names need no heavy imports.

    Raises:
        SettingError: with the names there are.
        ModelSourceError: where pretrained weights cannot be had.
    """
    default, model = ModelSettings(), settings.model
    if isinstance(model, PretrainedSettings):
        from confreg.models.pretrained import check_pretrained

        check_pretrained(model, settings.data.block_length)
    elif isinstance(model, ModelSettings) and (model.family, model.activation) != (default.family, default.activation):
        from confreg.models.build import check_architecture

        check_architecture(model)


def _refuse_unknown_keys(plain: dict[Any, Any], chosen: dict[str, type[Any]], command: Command) -> None:
    """A plus sign on the command line can add keys to a closed configuration; they would be ignored."""
    known = command.keys
    for key, _ in flattened(plain):
        if as_listed(key) not in known and not key.startswith(("callbacks.extra.", "logger.extra.")):
            raise SettingError(unknown_key(key, "on the command line", command))
        part, _, below = key.partition(".")
        if part in chosen and below.split(".")[0] not in {each.name for each in fields(chosen[part])}:
            raise SettingError(of_other_kind(key, chosen[part].__name__, "on the command line"))


def _refuse_foreign_targets(node: Any, key: str) -> None:
    """Hydra builds whatever its own configuration names, before any job: only its own classes and its plugins' may stand there."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return
    target = node.get("_target_")
    if target is not None and not str(target).startswith(HYDRA_TARGETS):
        raise SettingError(
            f"{key}._target_ is {target!r}; expected a class of Hydra or of its plugins (a configuration may run nothing else)."
        )
    for name, value in node.items():
        _refuse_foreign_targets(value, f"{key}.{name}")


def _resumed_run(overrides: Sequence[str]) -> str | None:
    runs = [each.partition("=")[2] for each in overrides if each.startswith("resume=")]
    value = runs[-1].strip("'\"") if runs else "null"
    return None if value in ("", "null", "None") else value


def _resumed_settings(run: str, overrides: Sequence[str]) -> Settings:
    others = [each for each in overrides if not each.startswith(("resume=", *WITH_RESUME))]
    if others:
        raise SettingError(
            f"{others[0]} came together with resume={run}; a run goes on with its own settings ({run}/config.yaml).\n"
            "Leave it out (only trainer.progress_bar and logger.* may change), or start a new run with another run.name."
        )
    allowed = [each for each in overrides if not each.startswith(("resume=", "hydra"))]
    parsed = OverridesParser.create().parse_overrides(allowed)
    mapping = settings_to_mapping(load_settings(run))
    config = OmegaConf.merge(mapping, *({} for _ in parsed))
    for override in parsed:
        OmegaConf.update(config, override.key_or_group, override.value())
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    settings = settings_from_mapping({str(name): value for name, value in plain.items()})
    settings.resume = run
    return settings
