"""Whether the loggers can be used on this machine, and Lightning's other ones, which ``logger.extra`` names."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.utils import get_class, instantiate
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger

from confreg.callbacks.wandb_account import check_account
from confreg.records.run_folder import RunFolder
from confreg.settings import SettingError, Settings

# Class -> the modules of which it needs one, those of which it needs all when it writes a database of its own, and confreg's extra.
NEEDED = {
    "TensorBoardLogger": (("tensorboard", "tensorboardX"), (), "tensorboard"),
    "MLFlowLogger": (("mlflow",), ("sqlalchemy", "alembic"), "mlflow"),
    "CometLogger": (("comet_ml",), (), None),
    "LitLogger": (("litlogger",), (), None),
}


def check_loggers(settings: Settings) -> None:
    """Refuse a logger that does not exist, whose package is not installed or whose account is missing, before any folder is made.

    Raises:
        SettingError: with what to install.
        WandbError: where W&B cannot be used online.
    """
    _check_extra_loggers(settings)
    if settings.logger.wandb.mode == "online":
        check_account()


def _check_extra_loggers(settings: Settings) -> None:
    for name, about in settings.logger.extra.items():
        key, target = f"logger.extra.{name}", str(about["_target_"])
        try:
            chosen = get_class(target)
        except ImportError as error:
            raise SettingError(f"{key}._target_ is {target!r}, which does not exist; expected a logger of Lightning.") from error
        if not issubclass(chosen, Logger) or inspect.isabstract(chosen):
            raise SettingError(f"{key}._target_ is {target!r}, which logs nothing itself; expected a logger such as CSVLogger.")
        parameters = inspect.signature(chosen).parameters
        unknown = [argument for argument in about if argument != "_target_" and argument not in parameters]
        if unknown and all(each.kind is not each.VAR_KEYWORD for each in parameters.values()):
            raise SettingError(f"{key}.{unknown[0]} is no argument of {target}; expected one of {', '.join(parameters)}.")
        for modules, extra in _missing(target, has_server="tracking_uri" in about):
            command = f"confreg[{extra}]" if extra else modules[0].replace("_", "-")
            raise SettingError(f"{key} needs the package {' or '.join(modules)}; install it with: pip install '{command}'.")


def _missing(target: str, has_server: bool) -> Iterator[tuple[tuple[str, ...], str | None]]:
    any_of, all_of, extra = NEEDED.get(target.rpartition(".")[2], ((), (), None))
    if any_of and not any(map(find_spec, any_of)):
        yield any_of, extra
    for module in () if has_server else all_of:
        if not find_spec(module):
            yield (module,), extra


def extra_loggers(settings: Settings, folder: RunFolder, run_name: str) -> list[Logger]:
    """The loggers, each writing into the folder of its own name in the run; in a process that writes nothing, ones that do nothing."""
    if not folder.is_writer:
        return [DummyLogger() for _ in settings.logger.extra]
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a run asks for no network that nobody asked for
    return [_logger(name, about, folder, run_name) for name, about in settings.logger.extra.items()]


def _logger(name: str, about: Mapping[str, Any], folder: RunFolder, run_name: str) -> Logger:
    place = folder.path.absolute() / name
    place.mkdir(exist_ok=True)
    parameters = inspect.signature(get_class(about["_target_"])).parameters
    offered = {"save_dir": str(place), "run_name": run_name, **_database(about, parameters, place, folder.target.absolute() / name)}
    taken = {key: value for key, value in offered.items() if key in parameters}
    logger: Logger = instantiate({**taken, **about}, _convert_="all")
    return logger


def _database(about: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter], place: Path, target: Path) -> dict[str, str]:
    """A file of MLflow's own, unless the configuration or the environment (read when Lightning was imported) names a server."""
    if "tracking_uri" in about or "tracking_uri" not in parameters or parameters["tracking_uri"].default is not None:
        return {}
    return {"tracking_uri": f"sqlite:///{place / 'mlflow.db'}", "artifact_location": (target / "artifacts").as_uri()}
