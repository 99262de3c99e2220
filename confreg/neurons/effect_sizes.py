"""How many positions and neurons the effects take at once, so that what they need stays within a bound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

MOST_POSITIONS = 1024  # at once
TENSORS_OF_A_PAIR = 60  # changes, how far each pair goes, and bounds; beside them the series
TENSORS_OF_A_POSITION = 12  # of the vocabulary's size


@dataclass(frozen=True)
class EffectSizes:
    """What a bound on memory allows."""

    positions: int  # at once
    neurons: int  # at once
    series: int  # at once: neurons times the tensors that the series of each takes

    @classmethod
    def of(cls, memory_bytes: int, n_positions: int, n_vocabulary: int, element_size: int) -> EffectSizes:
        """At least one of everything.

        Args:
            memory_bytes: the bound.
            n_positions: of all.
            n_vocabulary: tokens of a row of logits.
            element_size: bytes of a logit.
        """
        of_a_position = TENSORS_OF_A_POSITION * element_size * n_vocabulary
        positions = max(1, min(MOST_POSITIONS, n_positions, memory_bytes // 2 // of_a_position))
        left = max(0, memory_bytes - positions * of_a_position) // 2 // (element_size * positions)
        return cls(positions, max(1, left // TENSORS_OF_A_PAIR), left)

    def batches(self, groups: Mapping[int, slice], tensors: Mapping[int, int]) -> Iterator[dict[int, slice]]:
        """Neurons of every order whose series are made at once.

        Args:
            groups: consecutive neurons, by the order of their series.
            tensors: that the series of one neuron takes, by the order.
        """
        batch: dict[int, slice] = {}
        left = self.series
        for order, neurons in groups.items():
            start = neurons.start
            while start < neurons.stop:
                if batch and left < tensors[order]:
                    yield batch
                    batch, left = {}, self.series
                stop = min(neurons.stop, start + max(1, left // tensors[order]))
                batch[order] = slice(start, stop)
                left, start = left - (stop - start) * tensors[order], stop
        if batch:
            yield batch
