"""Send the records to the loggers: they are a mirror, the tables on disk are the truth."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_only

from confreg.callbacks.wandb_logger import ClockWandbLogger
from confreg.records.scalars import clock_scalars
from confreg.records.store import RecordStore


class LogRecords(Callback):
    """Log the scalars of every step that is complete in the store, once for each process and in order.

    Args:
        store: of the records; any process may have written them.

    A resumed run has loggers of its own, which get the earlier steps too: each mirror is whole. W&B gets the scalars on the axis
    ``clock/step`` (optimizer steps done); every other logger by its own ``log_metrics`` at that step.
    """

    def __init__(self, store: RecordStore) -> None:
        self.store = store
        self.last_logged = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Step 0."""
        self._log_new(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Whatever became complete."""
        if self.last_logged < trainer.global_step:
            self._log_new(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Records of the suite as a validation hook."""
        if not trainer.sanity_checking:
            self._log_new(trainer)

    @rank_zero_only
    def _log_new(self, trainer: pl.Trainer) -> None:
        for step in self.store.steps("model"):
            if self.last_logged < step <= trainer.global_step:
                self._log(trainer, step)
                self.last_logged = step

    def _log(self, trainer: pl.Trainer, step: int) -> None:
        scalars = clock_scalars(self.store, step)
        for logger in trainer.loggers:
            if isinstance(logger, ClockWandbLogger):
                logger.log_on_clock(scalars, step)
            else:
                logger.log_metrics(scalars, step)
