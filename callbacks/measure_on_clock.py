"""Measure the model at given optimizer steps, or after every validation."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from confreg.callbacks.averaged_weights import checkpointed_weights
from confreg.interventions.self_checks import check_interventions
from confreg.languages.blocks import Blocks
from confreg.measurement import Records, measure
from confreg.models.checkpoints import weights_sha256
from confreg.models.plain_model import effective_model
from confreg.records.schema import tables_asked_for
from confreg.records.store import RecordStore
from confreg.settings import MeasurementRequest

MOMENTS = ("clock", "validation")


class MeasureOnClock(Callback):
    """Run one measurement at each due step and keep its records. Training goes on as if it had not been there, to the bit.

    Args:
        blocks: what is measured.
        token_counts: one count for each vocabulary id, the same at all steps, or a function of the step.
        steps: optimizer steps to measure at, with ``when="clock"``; 0 is before the first update.
        request: one request for all steps, or a function of the step.
        store: where the records go durably, a step that is complete there with the same
            weights is not measured again; None keeps the latest only.
        when: "clock" for the given steps; "validation" after every validation, also under ``trainer.validate``.
        last_request: a function of the step for the one at which the training is stopped before its last (early stopping, a
            time limit). That step is measured although it may not be on the clock; default: as any other.

    What is measured is what a checkpoint of the step holds: the averaged weights, where a callback of Lightning's averages them.
    Such callbacks, and those that stop the training, come before this one. The module may be any that ``confreg.measure`` takes;
    ``tokens_seen`` of the module, if there is one, goes into the rows.
    ``latest`` holds the records of the last measurement. Several processes share the blocks, get the same rows as one, and the first of
    them stores these. Before the first one ``check_interventions`` compares what is predicted of the
    model with what it does; a ``SelfCheckError`` stops the run.
    """

    def __init__(
        self,
        blocks: Blocks,
        token_counts: Tensor | Callable[[int], Tensor],
        steps: Collection[int] = (),
        request: MeasurementRequest | Callable[[int], MeasurementRequest] | None = None,
        store: RecordStore | None = None,
        when: str = "clock",
        last_request: Callable[[int], MeasurementRequest] | None = None,
    ) -> None:
        if when not in MOMENTS:
            raise ValueError(f"MeasureOnClock got when={when!r}; expected one of {', '.join(MOMENTS)}.")
        if when == "clock" and not steps:
            raise ValueError("MeasureOnClock got no steps to measure at; expected at least one, e.g. [0], or when='validation'.")
        self.blocks, self.token_counts, self.steps, self.request = blocks, token_counts, frozenset(steps), request
        self.store, self.when, self.last_request = store, when, last_request
        self.latest: Records | None = None
        self._last_step: int | None = None
        self._is_checked = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The self-checks; then step 0, before the first update, or the step of a resumed run if its records are missing."""
        self._check_once(pl_module)
        self._measure_if_due(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """A due step, once, however many micro-batches it takes."""
        self._measure_if_due(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After every validation but the sanity check."""
        if self.when == "validation" and not trainer.sanity_checking:
            self._measure(trainer, pl_module, trainer.global_step or getattr(pl_module, "loaded_step", None))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The step at which the training was stopped before the clock's last: it is the last one now."""
        step = trainer.global_step
        if self.when == "clock" and trainer.should_stop and step < max(self.steps):
            if self.last_request is not None and self.store is not None and trainer.is_global_zero:
                self.store.remove(step)  # measured as any other, before it was known to be the last
            self._measure(trainer, pl_module, step)

    def _measure_if_due(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        step = trainer.global_step
        if self.when == "clock" and step in self.steps and step != self._last_step:
            self._measure(trainer, pl_module, step)

    def _check_once(self, pl_module: pl.LightningModule) -> None:
        """On every process, so that all of them stop where a check fails."""
        if not self._is_checked:
            check_interventions(effective_model(pl_module), self.blocks)
            self._is_checked = True

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule, step: int | None) -> None:
        self._last_step = step
        self._check_once(pl_module)
        with checkpointed_weights(trainer, pl_module):
            request = self._request_at(step or 0, trainer.should_stop)
            # the first process alone looks at the store: all must measure, or none
            if not trainer.strategy.broadcast(trainer.is_global_zero and self._is_stored(step, request, pl_module)):
                token_counts = self.token_counts(step or 0) if callable(self.token_counts) else self.token_counts
                tokens_seen, is_shared = getattr(pl_module, "tokens_seen", None), trainer.world_size > 1
                model = effective_model(pl_module)  # as open_run gives it, so that the rows and their hash are the same there
                counted = self.blocks, token_counts, request
                self.latest = measure(model, *counted, step=step, tokens_seen=tokens_seen, over_processes=is_shared)
                if trainer.is_global_zero:
                    self._store(step)
        trainer.strategy.barrier("confreg measurement")

    def _request_at(self, step: int, is_stopped: bool) -> MeasurementRequest | None:
        if is_stopped and self.last_request is not None:
            return self.last_request(step)
        return self.request(step) if callable(self.request) else self.request

    def _is_stored(self, step: int | None, request: MeasurementRequest | None, pl_module: pl.LightningModule) -> bool:
        """Whether these very weights were measured in every table; rows of other weights give way, since the checkpoints do so too."""
        if self.store is None or step is None or not all(self.store.has(table, step) for table in tables_asked_for(request)):
            return False
        measured = self.store.read("model", step)["weights_sha256"][0].as_py()
        if measured == weights_sha256(effective_model(pl_module)):
            return True
        rank_zero_warn(
            f"The records of step {step} describe other weights than those that this process has at that step; they are measured anew. "
            "It does not repeat the earlier process to the bit: compare its threads, versions and machine in run.json."
        )
        self.store.remove(step)
        return False

    def _store(self, step: int | None) -> None:
        if self.store is not None and step is not None and self.latest is not None:
            for table, rows in self.latest.items():
                self.store.write(table, step, rows)
