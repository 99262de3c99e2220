"""How a run ends: what it says of that, and what it does when it is told to."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import lightning.pytorch as pl
from lightning.pytorch.plugins.environments import SLURMEnvironment
from torch import Tensor

from confreg.languages.blocks import Blocks
from confreg.languages.token_counts import SeenTokenCounts, frequency_facts
from confreg.models.runs import save_blocks
from confreg.records.run_folder import RunFolder
from confreg.training.language_module import LanguageModule

TERMINATED = 143  # exit code of a process that was told to end


class TerminatedError(SystemExit):
    """A run that was told to end (SIGTERM, or Slurm's USR1) and can go on from the full state that it left."""


@contextlib.contextmanager
def end_as_slurm_asks() -> Iterator[None]:
    """Within, the signal that Slurm can send before it takes the machine away (``--signal=USR1@90``) means the same as SIGTERM."""
    if not SLURMEnvironment.detect():
        yield
        return
    before = signal.signal(signal.SIGUSR1, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


class NoteEnd(pl.Callback):
    """Write into ``run.json`` at which step the training ended, and keep the counts of no later one.

    In the process that trained: after ``ddp_fork`` and ``ddp_spawn`` the first one does not know it.
    """

    def __init__(self, folder: RunFolder, blocks: Blocks, token_counts: Tensor | SeenTokenCounts, max_steps: int) -> None:
        self.folder, self.blocks, self.token_counts, self.max_steps = folder, blocks, token_counts, max_steps

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Behind the last step, whether it was foreseen or not."""
        assert isinstance(pl_module, LanguageModule)
        step, is_early = trainer.global_step, trainer.global_step < self.max_steps
        if not trainer.is_global_zero:
            return
        self.folder.update_run_json(steps=step, stopped_early=is_early, tokens_seen=pl_module.tokens_seen)
        if is_early and isinstance(self.token_counts, SeenTokenCounts):
            keep_counts(self.folder, self.blocks, self.token_counts.ended_at(step))


def keep_counts(folder: RunFolder, blocks: Blocks, token_counts: Tensor | SeenTokenCounts) -> None:
    """What is measured and which tokens are counted, for those who open the run without its text."""
    if folder.is_writer:
        save_blocks(folder.path, blocks, token_counts)
        folder.update_run_json(token_frequencies=frequency_facts(token_counts))
