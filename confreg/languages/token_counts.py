"""How often each token id is read: over the whole training part, or before each optimizer step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from confreg.languages.blocks import Language
from confreg.languages.order import BlockOrder
from confreg.languages.plain_text import TextError
from confreg.settings import Settings

CHUNK_OF_BLOCKS = 8192  # bounds the memory of counting


def read_token_counts(language: Language, order: BlockOrder, first: int, last: int, period: int = 0) -> Int[Tensor, "vocab"]:
    """Counts over the training blocks that are read as samples ``first`` to ``last - 1``.

    Args:
        language: the source of the blocks; a block counts whole.
        order: which block each sample is.
        first: counted from 0 over the whole training.
        last: the sample after the last one.
        period: the first so many samples again and again; 0 for all data.
    """
    counts = torch.zeros(language.vocabulary_size, dtype=torch.int64)
    for start in range(first, last, CHUNK_OF_BLOCKS):
        samples = np.arange(start, min(start + CHUNK_OF_BLOCKS, last))
        numbers = order.numbers(samples % period if period else samples)
        counts += torch.bincount(language.train_blocks(numbers.tolist()).flatten(), minlength=language.vocabulary_size)
    return counts


class SeenTokenCounts:
    """Counts of all tokens that the training has read before an optimizer step, over all ranks and micro-batches.

    A function of the language and the step alone: it repeats the order in which the training reads its blocks. Asking for steps in
    rising order reads each block once. At step 0 nothing was read and every count is zero.

    Args:
        language: the source of the blocks.
        blocks_per_step: blocks that one optimizer step reads, over all processes and micro-batches.
        seed: the run's, of the order of a finite text.
        period: the first so many blocks are read again and again; 0 for all data.
        known: counts at steps that were counted before.
    """

    def __init__(
        self, language: Language, blocks_per_step: int, seed: int, period: int = 0, known: dict[int, Int[Tensor, "vocab"]] | None = None
    ) -> None:
        self.language, self.blocks_per_step, self.period = language, blocks_per_step, period
        self._order = BlockOrder(language.n_train_blocks, seed)
        self._known = {0: torch.zeros(language.vocabulary_size, dtype=torch.int64), **(known or {})}

    @classmethod
    def of(cls, settings: Settings, language: Language, known: dict[int, Int[Tensor, "vocab"]] | None = None) -> SeenTokenCounts:
        """The counts of a run with these settings."""
        period = settings.trainer.overfit_batches * settings.blocks_per_batch
        return cls(language, settings.trainer.accumulate_batches * settings.blocks_per_batch, settings.seed, period, known)

    def __call__(self, step: int) -> Int[Tensor, "vocab"]:
        """The counts before this optimizer step."""
        if step not in self._known:
            before = max(each for each in self._known if each <= step)
            first, last = before * self.blocks_per_step, step * self.blocks_per_step
            self._known[step] = self._known[before] + read_token_counts(self.language, self._order, first, last, self.period)
        return self._known[step]

    def at(self, steps: Sequence[int]) -> SeenTokenCounts:
        """Itself, with these steps counted in one pass."""
        for step in sorted(steps):
            self(step)
        return self

    def ended_at(self, step: int) -> SeenTokenCounts:
        """Itself, where the training ended at this step: it is counted, and steps that were expected after it are forgotten."""
        self(step)
        self._known = {each: counts for each, counts in self._known.items() if each <= step}
        return self

    def table(self) -> tuple[Int[Tensor, "step"], Int[Tensor, "step vocab"]]:
        """Every step that was counted, and its counts."""
        steps = sorted(self._known)
        return torch.tensor(steps), torch.stack([self._known[step] for step in steps])


def read_counts(path: str, n_ids: int) -> Int[Tensor, "vocab"]:
    """One count for each token id, from a file ``.npy``; ids that the file leaves out at the end count as zero.

    Args:
        path: of an array of whole numbers, [vocab].
        n_ids: of the model.

    Raises:
        TextError: where the file cannot be read, or is no such array of at most so many.
    """
    try:
        counts = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise TextError(
            f"counts is {path!r}: it cannot be read ({error}); expected an array of numpy.save, one count for each token id."
        ) from None
    is_right = isinstance(counts, np.ndarray) and counts.ndim == 1 and np.issubdtype(counts.dtype, np.integer)
    if not is_right or not 0 < len(counts) <= n_ids or counts.min() < 0 or not counts.any():
        shown = f"{counts.dtype} of shape {counts.shape}" if isinstance(counts, np.ndarray) else type(counts).__name__
        raise TextError(
            f"counts is {path!r}: {shown}; expected whole numbers, not below zero and not all zero, "
            f"one for each of the model's {n_ids} token ids."
        )
    return torch.from_numpy(np.pad(counts.astype(np.int64), (0, n_ids - len(counts))))


def frequency_facts(token_counts: Int[Tensor, "vocab"] | SeenTokenCounts) -> dict[str, object]:
    """What ``run.json`` says of the counted tokens; of counts that grow with the step, those of the last one counted."""
    if isinstance(token_counts, SeenTokenCounts):
        steps, counts = token_counts.table()
        return {"counted": "tokens read before each measured step", "last_step": int(steps[-1]), **_sizes(counts[-1])}
    return {"counted": "tokens of the training part", **_sizes(token_counts)}


def _sizes(counts: Int[Tensor, "vocab"]) -> dict[str, object]:
    return {"n_tokens": int(counts.sum()), "zero_count_share": (counts == 0).double().mean().item()}
