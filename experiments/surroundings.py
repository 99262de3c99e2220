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
    accelerator = settings.trainer.accelerator
    if accelerator in ("cuda", "gpu", "mps"):
        import torch

        there = torch.backends.mps.is_available() if accelerator == "mps" else torch.cuda.is_available()
        if not there and not (accelerator == "gpu" and torch.backends.mps.is_available()):
            raise SettingError(f"trainer.accelerator is {accelerator!r}, which this machine does not have; expected auto or cpu.")
    if settings.logger.extra or settings.logger.wandb.mode == "online":
        from confreg.experiments.loggers import check_loggers

        check_loggers(settings)


def check_compiler(trainer: TrainerSettings) -> None:
    """Refuse ``trainer.compile`` where ``torch.compile`` cannot make code.

    Raises:
        SettingError: with the first line of what torch says.
    """
    if not trainer.compile:
        return
    import torch

    wants_gpu = trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    try:
        torch.compile(lambda x: (x * x).sum())(torch.ones(8, device="cuda" if wants_gpu else "cpu", requires_grad=True)).backward()
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
    import torch

    package, extra = NEEDS.get(entry["_target_"], (None, None))
    watches_cpu = entry.get("cpu_stats") or (entry.get("cpu_stats") is None and not _trains_on_gpu(trainer, torch.cuda.is_available()))
    if package and watches_cpu and find_spec(package) is None:
        raise SettingError(f"{key} needs the package {package}, which is not installed: pip install '{extra}'.")


def _trains_on_gpu(trainer: TrainerSettings, has_gpu: bool) -> bool:
    return trainer.accelerator in ("gpu", "cuda") or (trainer.accelerator == "auto" and has_gpu)


def _reason(error: InstantiationException) -> str:
    """What the class itself said, in one line, without Hydra's frame around it."""
    return " ".join(str(error.__cause__ or error).split())
