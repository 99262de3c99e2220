"""One W&B run with two step axes that do not compete."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from confreg.settings import WandbSettings

TRAINING_GROUPS = ("train", "val", "perf")  # follow Lightning's own step
CLOCK_GROUPS = ("model", "neurons", "ablation", "frequency")  # follow the optimizer steps done at the measurement


class ClockWandbLogger(WandbLogger):
    """A W&B logger that owns its ``wandb.init``: everything measured on the clock follows ``clock/step``.

    Lightning's logger defines the glob ``*`` itself, and overlapping globs are matched at random; here they are disjoint.

    Args:
        folder: of the run; W&B makes its ``wandb`` folder in it.
        settings: mode, project, group and tags.
        name: of the run as W&B shows it.
        config: of the run, as a plain mapping.
    """

    def __init__(self, folder: Path, settings: WandbSettings, name: str, config: Mapping[str, Any]) -> None:
        super().__init__(name=name, save_dir=str(folder), project=settings.project, offline=False)
        self._about: dict[str, Any] = {
            "dir": str(folder),
            "mode": settings.mode,
            "project": settings.project,
            "entity": settings.entity,
            "group": settings.group,
            "job_type": settings.job_type,
            "tags": settings.tags,
            "name": name,
            "config": dict(config),
        }

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, made at the first call; no login is ever asked for offline."""
        if self._experiment is None:
            quiet = wandb.Settings(
                console="off", silent=True, save_code=False, disable_git=True, x_save_requirements=False, x_disable_meta=True
            )
            with _cache_in(Path(self._about["dir"]) / "wandb" / "cache"):
                self._experiment = wandb.init(reinit="create_new", settings=quiet, **self._about)
            self._define_axes(self._experiment)
        return self._experiment

    @staticmethod
    def _define_axes(run: Any) -> None:
        run.define_metric("trainer/global_step")
        run.define_metric("clock/step")
        for group in TRAINING_GROUPS:
            run.define_metric(f"{group}/*", step_metric="trainer/global_step")
        for group in CLOCK_GROUPS:
            run.define_metric(f"{group}/*", step_metric="clock/step", step_sync=False)

    @rank_zero_only
    def log_on_clock(self, scalars: Mapping[str, float], step: int) -> None:
        """One row on the axis of the clock."""
        self.experiment.log({"clock/step": step, **scalars})

    @rank_zero_only
    def close(self, succeeded: bool) -> tuple[str, Path] | None:
        """Finish the run if it was begun; its id and its folder, or None."""
        if self._experiment is None:
            return None
        about = str(self._experiment.id), Path(self._experiment.dir).parent
        self._experiment.finish(exit_code=0 if succeeded else 1)
        self._experiment = None
        return about


@contextlib.contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    """W&B's service reads where its own logs go when it starts; a choice of the user's stays."""
    chosen = "WANDB_CACHE_DIR" in os.environ
    os.environ.setdefault("WANDB_CACHE_DIR", str(folder))
    try:
        yield
    finally:
        if not chosen:
            del os.environ["WANDB_CACHE_DIR"]
