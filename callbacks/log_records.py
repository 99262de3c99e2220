"""Send the records to the loggers: they are a mirror, the tables on disk are the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from confreg.callbacks.wandb_logger import ClockWandbLogger
from confreg.records.scalars import clock_scalars
from confreg.records.store import RecordStore


class LogRecords(Callback):
    """Log the scalars of every step that is complete in the store, once for each process and in order.

    Args:
        store: of the records; any process may have written them.
        config: of the run, as a plain mapping without secrets; the loggers that are not told it otherwise get it as hyperparameters.

    A resumed run has loggers of its own, which get the earlier steps too: each mirror is whole. :class:`ClockWandbLogger` gets scalars,
    table and histograms on the axis ``clock/step`` (optimizer steps done); every other logger the scalars, by its own ``log_metrics``.
    """

    def __init__(self, store: RecordStore, config: Mapping[str, Any] | None = None) -> None:
        self.store, self.config = store, config
        self.last_logged = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What the run is; step 0."""
        self._log_config(trainer)
        self._log_new(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Whatever became complete; not before the training goes on, for a step that turns out to be the last is measured anew."""
        if self.last_logged < trainer.global_step:
            self._log_new(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Records of the suite under ``trainer.validate``."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._log_new(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last step."""
        self._log_new(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Everything, where Lightning found nothing left to train: a process that was killed right behind its last step is resumed so."""
        if self.last_logged < 0:
            self.on_train_start(trainer, pl_module)

    @rank_zero_only
    def _log_config(self, trainer: pl.Trainer) -> None:
        for logger in trainer.loggers:
            if self.config is not None and not isinstance(logger, ClockWandbLogger):
                logger.log_hyperparams(dict(self.config))

    @rank_zero_only
    def _log_new(self, trainer: pl.Trainer) -> None:
        is_training = trainer.state.fn == TrainerFn.FITTING  # else the trainer counts no steps, and the records are of loaded weights
        for step in self.store.steps("model"):
            if self.last_logged < step and (step <= trainer.global_step or not is_training):
                self._log(trainer, step)
                self.last_logged = step

    def _log(self, trainer: pl.Trainer, step: int) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, ClockWandbLogger):
                logger.log_on_clock(self.store, step)
            else:
                logger.log_metrics(clock_scalars(self.store, step), step)
