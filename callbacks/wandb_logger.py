"""One W&B run with two step axes that do not compete."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from confreg.callbacks.wandb_account import WandbError, cache_in
from confreg.callbacks.wandb_media import clock_media, page_media
from confreg.records.redaction import redacted
from confreg.records.scalars import clock_scalars
from confreg.records.store import RecordStore
from confreg.settings import WandbSettings

DEVICE_GROUPS = tuple(f"DeviceStatsMonitor.on_{stage}_batch_{end}" for stage in ("train", "validation") for end in ("start", "end"))
TRAINING_GROUPS = ("train", "val", "perf", *DEVICE_GROUPS)  # follow Lightning's own step
# Follow the optimizer steps done at the measurement.
CLOCK_GROUPS = ("model", "neurons", "groups", "ablation", "frequency", "tables", "histograms", "page")


class ClockWandbLogger(WandbLogger):
    """A W&B logger that owns its ``wandb.init``: everything measured on the clock follows ``clock/step``.

    Lightning's logger defines the glob ``*`` itself, and overlapping globs are matched at random; here they are disjoint.

    Args:
        folder: of the run; W&B makes its ``wandb`` folder in it.
        settings: mode, project, group, tags, and what is sent beside scalars.
        name: of the run as W&B shows it.
        config: of the run, as a plain mapping; secrets are left out.
        on_begin: called once with the id and the folder of the W&B run, as soon as there is one.
    """

    def __init__(
        self,
        folder: Path,
        settings: WandbSettings,
        name: str,
        config: Mapping[str, Any],
        on_begin: Callable[[str, Path], None] | None = None,
    ) -> None:
        super().__init__(name=name, save_dir=str(folder), project=settings.project, offline=False)
        self.settings, self.on_begin = settings, on_begin
        self._made_in = os.getpid()
        self._about: dict[str, Any] = {
            "dir": str(Path(folder).absolute()),  # W&B's service keeps the working directory that it was started in, and says nothing
            "mode": settings.mode,
            "project": settings.project,
            "entity": settings.entity,
            "group": settings.group,
            "job_type": settings.job_type,
            **redacted({"tags": settings.tags, "notes": settings.notes, "name": name, "config": dict(config)}),
        }

    def __getstate__(self) -> dict[str, Any]:
        """For ``ddp_spawn``, whose first process begins the W&B run: Lightning would begin one here, in which nobody logs."""
        return {**self.__dict__, "_experiment": None}

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, made at the first call; no login is ever asked for.

        Raises:
            WandbError: where W&B refuses or does not answer (online only).
        """
        if self._experiment is None:
            with cache_in(Path(self._about["dir"]) / "wandb" / "cache"):
                self._experiment = self._begin()
            self._define_axes(self._experiment)
            if self.on_begin is not None:
                self.on_begin(*_place(self._experiment))
        return self._experiment

    def _begin(self) -> Any:
        quiet = wandb.Settings(
            console="off",
            silent=True,
            save_code=False,
            disable_git=True,
            x_save_requirements=False,
            x_disable_meta=True,
            init_timeout=self.settings.init_timeout_s,
            finish_timeout=self.settings.finish_timeout_s,
            finish_timeout_raises=True,
        )
        try:
            return wandb.init(reinit="create_new", settings=quiet, **self._about)
        except wandb.Error as error:
            raise WandbError(error) from error

    @staticmethod
    def _define_axes(run: Any) -> None:
        run.define_metric("trainer/global_step")
        run.define_metric("clock/step")
        run.define_metric("epoch", step_metric="trainer/global_step", hidden=True)  # Lightning's; there is only one
        for group in TRAINING_GROUPS:
            run.define_metric(f"{group}/*", step_metric="trainer/global_step")
        for group in CLOCK_GROUPS:
            run.define_metric(f"{group}/*", step_metric="clock/step", step_sync=False)

    @rank_zero_only
    def log_on_clock(self, store: RecordStore, step: int) -> None:
        """One row on the axis of the clock: the scalars of a step, its table and its histograms."""
        run = self.experiment
        run.log({"clock/step": step, **clock_scalars(store, step), **clock_media(run, store, step, self.settings)})

    @rank_zero_only
    def log_page(self, page: Path, step: int) -> None:
        """The page of the run, if the settings ask for it and the W&B run is open here (not after ``ddp_fork`` or ``ddp_spawn``)."""
        if self._experiment is not None and self.settings.page:
            self._experiment.log({"clock/step": step, **page_media(page)})

    def finalize(self, status: str) -> None:
        """Lightning's last word to a logger. A process that Lightning forked or spawned ends right after it, so the run is closed there."""
        super().finalize(status)
        if os.getpid() != self._made_in:
            self.close(succeeded=status == "success")

    @rank_zero_only
    def close(self, succeeded: bool) -> tuple[str, Path] | None:
        """Finish the run if it was begun; its id and its folder, or None. A server that does not answer loses nothing."""
        if self._experiment is None:
            return None
        run, self._experiment = self._experiment, None
        try:
            run.finish(exit_code=0 if succeeded else 1)
        except TimeoutError:
            rank_zero_warn(
                f"W&B did not take everything within {self.settings.finish_timeout_s:g} s. The rest: wandb sync {_place(run)[1]}"
            )
        return _place(run)


def _place(run: Any) -> tuple[str, Path]:
    return str(run.id), Path(run.dir).parent
