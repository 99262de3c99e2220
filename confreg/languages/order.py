"""Which block is read when: functions of a seed and a number, so that no generator has a state to save."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray

LARGE_PRIME = 1_000_003  # keeps (seed, number) pairs of usual sizes apart


def seed_of(seed: int, number: int) -> int:
    """One seed for a pair of a run's seed and a step's or pass's number."""
    return (seed * LARGE_PRIME + number) % 2**63


class BlockOrder:
    """The block that is read as the n-th of all: an endless part in the order of its numbers, a finite one pass after pass, shuffled.

    Args:
        n_blocks: of the training part; None for an endless one.
        seed: of the shuffles, each by (seed, pass).
    """

    def __init__(self, n_blocks: int | None, seed: int) -> None:
        self.n_blocks, self.seed = n_blocks, seed
        self._pass_number, self._shuffled = -1, np.empty(0, dtype=np.int64)

    def numbers(self, samples: Sequence[int] | Int[NDArray, "sample"]) -> Int[NDArray, "sample"]:
        """The block's number for each of these samples, counted from 0 over the whole training."""
        samples = np.asarray(samples, dtype=np.int64)
        if self.n_blocks is None:
            return samples
        passes, places = np.divmod(samples, self.n_blocks)
        numbers = np.empty_like(samples)
        for number in np.unique(passes):
            numbers[passes == number] = self._pass(int(number))[places[passes == number]]
        return numbers

    def _pass(self, number: int) -> Int[NDArray, "block"]:
        """The order of one pass; the last one asked for is kept."""
        if number != self._pass_number:
            generator = torch.Generator().manual_seed(seed_of(self.seed, number))
            self._pass_number, self._shuffled = number, torch.randperm(self.n_blocks or 0, generator=generator).numpy()
        return self._shuffled
