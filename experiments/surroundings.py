"""What a configuration asks of this machine: a compiler, callbacks that can be made. Tried before any folder exists."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from confreg.languages.documents import check_source
from confreg.settings import SettingError, Settings, TrainerSettings, texts_of

NEEDS = {"lightning.pytorch.callbacks.DeviceStatsMonitor": ("psutil", "confreg[monitors]")}  # where it watches a CPU


def check_surroundings(settings: Settings) -> None:
    """Refuse what this machine does not have, before any folder exists: the text, the accelerator, a compiler, a package, an account.

    Raises:
        TextError: of a text that is not there; what is in it is checked when it is read.
        SettingError: naming the setting and the next move.
    """
    for key, text in texts_of(settings.data).items():
        check_source(text, f"{key}.source")
    check_compiler(settings.trainer)
    check_callbacks(settings)
    check_accelerator(settings.trainer)
    if settings.logger.extra or settings.logger.wandb.mode == "online":
        from confreg.experiments.loggers import check_loggers

        check_loggers(settings)


def check_accelerator(trainer: TrainerSettings) -> None:
    """Refuse a GPU that is not there, and processes that would be forked from one that uses it.

    Raises:
        SettingError: naming the setting and the next move.
    """
    if trainer.accelerator == "cpu":
        return
    import torch

    if trainer.accelerator in ("cuda", "gpu") and not torch.cuda.is_available():
        raise SettingError(f"trainer.accelerator is {trainer.accelerator!r}, which this machine does not have; expected auto or cpu.")
    if trainer.strategy == "ddp_fork" and trains_on_gpu(trainer):
        raise SettingError("trainer.strategy is ddp_fork on a GPU, which a forked process cannot use; expected ddp or ddp_spawn.")


def trains_on_gpu(trainer: TrainerSettings) -> bool:
    """Whether a run trains on a CUDA device here. Apple's MPS is never chosen: it has no float64, in which effects are summed."""
    import torch

    return trainer.accelerator in ("gpu", "cuda") or (trainer.accelerator == "auto" and torch.cuda.is_available())


def check_compiler(trainer: TrainerSettings) -> None:
    """Refuse ``trainer.compile`` where ``torch.compile`` cannot make code.

    Raises:
        SettingError: with the first line of what torch says.
    """
    if not trainer.compile:
        return
    import torch

    device = "cuda" if trains_on_gpu(trainer) and torch.cuda.is_available() else "cpu"
    try:
        torch.compile(lambda x: (x * x).sum())(torch.ones(8, device=device, requires_grad=True)).backward()
    except Exception as error:  # whatever is missing (a C++ compiler, Python's headers, Triton), torch words it in many ways
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise SettingError(
            f"trainer.compile is true, and torch.compile does not work on this machine: {reason[:200]}\n"
            "Install a C++ compiler (g++ or clang; on Debian: apt-get install g++ python3-dev), or set trainer.compile=false."
        ) from error


def check_callbacks(settings: Settings) -> None:
    """Refuse extra callbacks that cannot be made: an unknown class, wrong arguments, a package that is missing.

    Raises:
        SettingError: naming the callback and the reason.
    """
    for name, entry in settings.callbacks.extra.items():
        key = f"callbacks.extra.{name}"
        _check_package(key, entry, settings.trainer)
        try:
            instantiate(entry)
        except InstantiationException as error:
            raise SettingError(f"{key} cannot be made: {_reason(error)}") from error


def _check_package(key: str, entry: dict[str, Any], trainer: TrainerSettings) -> None:
    package, extra = NEEDS.get(entry["_target_"], (None, None))
    watches_cpu = entry.get("cpu_stats") or (entry.get("cpu_stats") is None and not trains_on_gpu(trainer))
    if package and watches_cpu and find_spec(package) is None:
        raise SettingError(f"{key} needs the package {package}, which is not installed: pip install '{extra}'.")


def _reason(error: InstantiationException) -> str:
    """What the class itself said, in one line, without Hydra's frame around it."""
    return " ".join(str(error.__cause__ or error).split())
