"""How fast a run trains, in wall time."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.throughput import Throughput
from lightning.pytorch import Callback


class TokenThroughput(Callback):
    """Log ``perf/steps_per_second`` and ``perf/tokens_per_second`` beside the loss; everything that watches counts as time too.

    Lightning's ``ThroughputMonitor`` wants functions as arguments, which a configuration cannot give, and names its keys by stages;
    this one keeps Lightning's arithmetic and takes its tokens from ``tokens_seen`` of the module (target tokens over all ranks).

    Args:
        window_steps: optimizer steps that a rate is taken over; none is logged before so many are done.
    """

    def __init__(self, window_steps: int = 50) -> None:
        if window_steps < 2:
            raise ValueError(f"TokenThroughput got window_steps={window_steps}; expected at least 2: a rate is a difference.")
        self.window_steps = window_steps
        self._throughput = Throughput(window_size=window_steps)
        self._last_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed training begins with an empty window: the time between two processes is nobody's."""
        self._throughput.reset()
        self._last_step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Behind every optimizer step; Lightning decides when a row is due."""
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        tokens_seen = getattr(pl_module, "tokens_seen", None)
        self._throughput.update(time=time.perf_counter(), batches=step, samples=step, lengths=tokens_seen)
        rates = self._throughput.compute()
        names = {"device/batches_per_sec": "perf/steps_per_second", "device/items_per_sec": "perf/tokens_per_second"}
        pl_module.log_dict({name: rates[rate] for rate, name in names.items() if rate in rates})
