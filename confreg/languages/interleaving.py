"""Several sequences read side by side in given proportions: which one comes next is a closed form of the place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

SHARE_BITS = 31  # shares are multiples of 2^-31: exact in whole numbers for the first 2^32 places


class Interleaving:
    """Places 0, 1, 2, … dealt out to parts by weight, so that any start of the sequence has the right proportions.

    The heaviest part takes its rounded share of the places, the next one its rounded share of those that are left, and so on. After any
    number of places a part is off its exact share by at most half a place for each part but one: 1/2 of two parts, 1 of three.

    Args:
        weights: positive, one for each part; only their ratios count.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.n_parts = len(weights)
        self._by_weight = sorted(range(self.n_parts), key=lambda part: -weights[part])
        left = [sum(weights[part] for part in self._by_weight[rank:]) for rank in range(self.n_parts)]
        self._shares = [round(weights[part] / rest * 2**SHARE_BITS) for part, rest in zip(self._by_weight, left, strict=True)]

    def counts(self, n_places: Int[NDArray, "n"]) -> Int[NDArray, "n part"]:
        """How many of the first ``n_places`` fall to each part."""
        left, counts = np.asarray(n_places, dtype=np.int64), np.empty((len(n_places), self.n_parts), dtype=np.int64)
        for part, share in zip(self._by_weight[:-1], self._shares, strict=False):
            counts[:, part] = (left * share + 2 ** (SHARE_BITS - 1)) >> SHARE_BITS
            left = left - counts[:, part]
        counts[:, self._by_weight[-1]] = left
        return counts

    def places(self, places: Sequence[int] | Int[NDArray, "place"]) -> tuple[Int[NDArray, "place"], Int[NDArray, "place"]]:
        """The part of each place, and how many places before it fell to the same part."""
        wanted = np.asarray(places, dtype=np.int64)
        before = self.counts(wanted)
        parts = (self.counts(wanted + 1) - before).argmax(axis=1)
        return parts, before[np.arange(len(wanted)), parts]
