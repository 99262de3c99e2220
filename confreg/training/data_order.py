"""Data order as a function of the step: any start gives the rest of the same order, and no generator has a state to save."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from confreg.languages.blocks import Language
from confreg.languages.order import BlockOrder, seed_of

__all__ = ["StepIndexedBatches", "StepIndexedLoader", "TrainBlocks", "keep_batch", "seed_of", "train_loader", "validation_loader"]


class StepIndexedBatches(Sampler[list[int]]):
    """Indices of the blocks of every micro-batch of one long epoch, for one process.

    An endless language is read in the order of its indices; a finite one pass after pass, each shuffled by (seed, pass).

    Args:
        n_blocks: of the training part; None for an endless language.
        batch_size: blocks in a micro-batch of one process.
        n_batches: micro-batches of the whole training.
        seed: of the order.
        start: micro-batches that are done already.
        repeat: the first so many micro-batches again and again; 0 for all data.
        rank: of this process among ``world_size``; each global micro-batch is cut into one part for each.
    """

    def __init__(
        self,
        n_blocks: int | None,
        batch_size: int,
        n_batches: int,
        seed: int,
        start: int = 0,
        repeat: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.n_blocks, self.batch_size, self.n_batches, self.seed = n_blocks, batch_size, n_batches, seed
        self.start, self.repeat, self.rank, self.world_size = start, repeat, rank, world_size
        self._order = BlockOrder(n_blocks, seed)

    def __len__(self) -> int:
        return self.n_batches  # of the whole epoch: Lightning counts the batches before the start itself

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(self.start, self.n_batches):
            number = batch % self.repeat if self.repeat else batch
            first = (number * self.world_size + self.rank) * self.batch_size
            yield self._order.numbers(range(first, first + self.batch_size)).tolist()


class TrainBlocks(Dataset[Tensor]):
    """The training part; a whole batch is fetched at once."""

    def __init__(self, language: Language) -> None:
        self.language = language

    def __getitem__(self, index: int) -> Tensor:
        return self.language.train_blocks([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Tensor:
        return self.language.train_blocks(indices)


def keep_batch(batch: Any) -> Any:
    """The collation of blocks that come as one tensor already."""
    return batch


class StepIndexedLoader(DataLoader[Tensor]):
    """A loader whose place is a function of the step, so that its state is empty; saying so tells Lightning that it can be resumed."""

    def state_dict(self) -> dict[str, int]:
        """Nothing: the sampler is built for the step to start at."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Nothing to do."""


def train_loader(language: Language, batches: StepIndexedBatches, workers: int = 0) -> StepIndexedLoader:
    """Micro-batches [block, token] in the order of the steps."""
    return StepIndexedLoader(TrainBlocks(language), batch_sampler=batches, collate_fn=keep_batch, num_workers=workers)


def validation_loader(language: Language, batch_size: int, n_batches: int) -> DataLoader[Tensor]:
    """The first measured blocks, always the same; its iterator draws from no global generator."""
    blocks = language.measured[: batch_size * n_batches]
    return DataLoader(list(blocks.split(batch_size)), batch_size=None, generator=torch.Generator())  # type: ignore[arg-type]
