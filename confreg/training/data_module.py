"""The blocks of a run as Lightning asks for them: each process builds its own part of the order."""

from __future__ import annotations

import lightning.pytorch as pl
from torch import Tensor
from torch.utils.data import DataLoader

from confreg.languages.blocks import Language
from confreg.training.data_order import StepIndexedBatches, StepIndexedLoader, train_loader, validation_loader


class LanguageBlocks(pl.LightningDataModule):
    """Training and validation blocks of one language, from a given step on.

    Args:
        language: the source of text.
        batch_size: blocks in a micro-batch of one process.
        n_batches: micro-batches of the whole training.
        seed: of the order.
        start: micro-batches that are done already.
        repeat: the first so many micro-batches again and again; 0 for all data.
        workers: loader processes.
        validation_batches: of the measured part, always the same.
    """

    def __init__(
        self,
        language: Language,
        batch_size: int,
        n_batches: int,
        seed: int,
        start: int = 0,
        repeat: int = 0,
        workers: int = 0,
        validation_batches: int = 1,
    ) -> None:
        super().__init__()
        self.language, self.batch_size, self.n_batches, self.seed = language, batch_size, n_batches, seed
        self.start, self.repeat, self.workers, self.validation_batches = start, repeat, workers, validation_batches

    def train_dataloader(self) -> StepIndexedLoader:
        """Called in every process, so that the rank is the one that trains."""
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = StepIndexedBatches(
            self.language.n_train_blocks, self.batch_size, self.n_batches, self.seed, self.start, self.repeat, rank, world_size
        )
        return train_loader(self.language, batches, self.workers)

    def val_dataloader(self) -> DataLoader[Tensor]:
        """The first measured blocks, the same in every process."""
        return validation_loader(self.language, self.batch_size, max(1, self.validation_batches))
