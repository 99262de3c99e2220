"""What a run says of its end, noted by the process that trained: after ``ddp_fork`` and ``ddp_spawn`` the first one does not know it."""

from __future__ import annotations

import lightning.pytorch as pl
from torch import Tensor

from confreg.languages.blocks import Blocks
from confreg.languages.token_counts import SeenTokenCounts, frequency_facts
from confreg.models.runs import save_blocks
from confreg.records.run_folder import RunFolder
from confreg.training.language_module import LanguageModule


class NoteEnd(pl.Callback):
    """Write into ``run.json`` at which step the training ended, and keep the counts of no later one."""

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
