"""Save weights at given optimizer steps, and full states to go on from."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import Callback

from confreg.callbacks.averaged_weights import checkpointed_weights
from confreg.models.checkpoints import checkpoint_name, read_manifest
from confreg.records.durable import sha256_of, sync_path, write_text_durably


class SaveOnClock(Callback):
    """Write checkpoints that are complete or absent: beside the target, synced, renamed, their hashes in ``manifest.json``.

    Args:
        folder: of the checkpoints; full states go into its ``resume`` folder.
        steps: optimizer steps whose weights are kept.
        resume_every: optimizer steps between full states.
        keep: full states that stay.

    The weights are the averaged ones, where a callback of Lightning's averages them; the full states hold both. A step at which the
    training is stopped early is saved although it may not be on the clock.

    Put it behind the callbacks that measure, average or stop the training: then a step's records are durable before its checkpoint is
    there, and a state to go on from knows what the others have decided. Where a validation follows, that state is written after it:
    Lightning does not repeat a validation when it goes on, and early stopping would miss one.
    """

    def __init__(self, folder: Path, steps: Collection[int], resume_every: int = 500, keep: int = 2) -> None:
        if resume_every < 1 or keep < 1:
            raise ValueError(f"SaveOnClock got resume_every={resume_every} and keep={keep}; expected both at least 1.")
        self.folder, self.steps, self.resume_every, self.keep = Path(folder), frozenset(steps), resume_every, keep
        self._last_step: int | None = None
        self._state_is_due = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Step 0; a resumed run finds its own step saved."""
        (self.folder / "resume").mkdir(parents=True, exist_ok=True)
        if trainer.global_step == 0:
            self._save_weights_if_due(trainer, pl_module)
        self._last_step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Right behind an optimizer step, never in the middle of an accumulation.

        A process that was told to end (SIGTERM), behind whose batch Lightning stops, leaves a full state too. Of several processes not all
        may know of it, and a validation that follows is broken off: then the last regular state is what there is.
        """
        is_behind_a_step = trainer.global_step != self._last_step
        is_told_to_end = trainer.received_sigterm and trainer.world_size == 1
        self._state_is_due = is_behind_a_step and (is_told_to_end or trainer.global_step % self.resume_every == 0)
        if is_behind_a_step:
            self._last_step = trainer.global_step
            self._save_weights_if_due(trainer, pl_module)
        if self._state_is_due and not validation_follows(trainer):
            self._save_state(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A full state that was due at this step; a training that stops here needs none."""
        if self._state_is_due and not trainer.should_stop:
            self._save_state(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The weights of the step at which the training was stopped before the clock's last."""
        step = trainer.global_step
        if trainer.should_stop and step not in self.steps and step < max(self.steps, default=0):
            self._save_weights(trainer, pl_module)

    def _save_weights_if_due(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step in self.steps:
            self._save_weights(trainer, pl_module)

    def _save_weights(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with checkpointed_weights(trainer, pl_module):
            self._save(trainer, self.folder, trainer.global_step, weights_only=True)

    def _save_state(self, trainer: pl.Trainer) -> None:
        self._state_is_due = False
        self._save(trainer, self.folder / "resume", trainer.global_step, weights_only=False)
        self._drop_old_states(trainer)

    def _save(self, trainer: pl.Trainer, folder: Path, step: int, weights_only: bool) -> None:
        target = folder / checkpoint_name(step)
        temporary = folder / f".{target.name}.part"
        refuse_weights_that_are_no_numbers(trainer.lightning_module, step)
        try:
            trainer.save_checkpoint(temporary, weights_only=weights_only)  # every rank takes part
            if trainer.is_global_zero:
                self._publish(temporary, target)
        finally:
            if trainer.is_global_zero:
                temporary.unlink(missing_ok=True)

    def _publish(self, temporary: Path, target: Path) -> None:
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        digest = sha256_of(temporary)
        temporary.replace(target)
        sync_path(target.parent)
        manifest = read_manifest(self.folder) | {target.relative_to(self.folder).as_posix(): digest}
        self._write_manifest(manifest)

    def _drop_old_states(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        states = sorted((self.folder / "resume").glob("step=*.ckpt"))[: -self.keep]
        for old in states:
            old.unlink()
        if states:
            dropped = {old.relative_to(self.folder).as_posix() for old in states}
            self._write_manifest({name: digest for name, digest in read_manifest(self.folder).items() if name not in dropped})

    def _write_manifest(self, manifest: dict[str, str]) -> None:
        write_text_durably(self.folder / "manifest.json", json.dumps(manifest, indent=0, sort_keys=True) + "\n")


def refuse_weights_that_are_no_numbers(module: pl.LightningModule, step: int) -> None:
    """Raise where a gradient that was not finite has made the weights so, although the loss before it was: nobody can go on from them.

    Raises:
        FloatingPointError: naming the step and the first such weight.
    """
    broken = next((name for name, each in module.named_parameters() if not torch.isfinite(each).all()), None)
    if broken is not None:
        raise FloatingPointError(
            f"{broken} is not finite at optimizer step {step}: a gradient was not. Lower optimizer.learning_rate, or lengthen "
            "optimizer.warmup_steps; the checkpoints before this step are whole."
        )


def validation_follows(trainer: pl.Trainer) -> bool:
    """Whether Lightning will validate right after this training batch; its own answer, which depends on several of its arguments."""
    loop = trainer.fit_loop
    return loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
