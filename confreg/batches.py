"""How a measurement is cut into parts, so that its memory is bounded: blocks, scored positions and control draws at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedModel

from confreg.languages.blocks import Blocks
from confreg.models.readout import Readout
from confreg.neurons.effect_sums import columns_of
from confreg.neurons.writes import slices
from confreg.pass_sums import WANTED
from confreg.settings import MeasurementRequest

MEBIBYTE = 2**20
# Values that are alive at once, by what there is one of; each share of the memory below holds for one of them.
VALUES_OF_A_NEURON_IN_A_PASS = 6  # of one MLP at each token, while the model runs
VALUES_OF_A_DIMENSION_IN_A_PASS = 16
VALUES_OF_AN_ATTENTION_WEIGHT = 3  # where the model keeps them
VALUES_OF_A_LOGIT = 6  # at each scored position, while what the model predicts is read
VALUES_OF_A_PAIR = 40  # of position and neuron: its replacement and its changes
VALUES_OF_A_GROUP = 5  # in float64, at each position and dimension: what its neurons write together


@dataclass(frozen=True)
class Batch:
    """Scored positions that are measured together, and the blocks that they lie in."""

    blocks: slice
    scored: Bool[Tensor, "block token"]  # of these blocks
    first: int  # index of the first among all scored positions

    @property
    def n_positions(self) -> int:
        """Scored positions."""
        return int(self.scored.sum())


@dataclass(frozen=True)
class PartSizes:
    """How much is done at once."""

    blocks: int
    positions: int
    draws: int  # of the control, side by side
    draws_of_a_pass: int  # whose sums are kept at once: for more, the model runs again
    groups: int  # of neurons that are replaced together, side by side

    @classmethod
    def of(cls, model: PreTrainedModel, blocks: Blocks, request: MeasurementRequest, readout: Readout, n_processes: int = 1) -> PartSizes:
        """As many as ``memory_mib`` holds, one at least, and no more blocks than ``batch_blocks``.

        They do not depend on the number of processes, and so neither do the numbers, unless there are more of these than batches: then
        batches are cut smaller, and the rows agree to the rounding of fp32.
        """
        memory, size, n_neurons = request.memory_mib * MEBIBYTE, readout.unembedding.element_size(), len(readout.w_out)
        scored, n_clusters = blocks.scored_positions(), int(blocks.clusters().max()) + 1
        of_a_position = size * max(2 * VALUES_OF_A_LOGIT * len(readout.unembedding), 4 * VALUES_OF_A_PAIR * n_neurons)
        positions = max(1, min(int(scored.sum()), memory // of_a_position))
        of_a_block = 2 * size * blocks.measured.shape[1] * values_of_a_token(model, n_neurons, blocks.measured.shape[1])
        at_most = min(request.batch_blocks, memory // of_a_block, positions // max(1, int(scored.sum(1).max())))
        n_blocks = max(1, min(at_most, math.ceil(len(blocks.measured) / n_processes)))
        at_once = min(positions, n_blocks * int(scored.sum(1).max()))
        of_a_draw = 8 * len(columns_of(WANTED["control"])) * n_clusters * n_neurons
        draws = memory // (4 * size * VALUES_OF_A_PAIR * at_once * n_neurons)
        groups = memory // (4 * 8 * VALUES_OF_A_GROUP * at_once * readout.unembedding.shape[1])
        return cls(n_blocks, positions, max(1, draws), max(1, memory // (8 * of_a_draw)), max(1, groups))

    @staticmethod
    def values_of_a_position(n_vocabulary: int, n_neurons: int) -> int:
        """Alive at once for each scored position of a batch while its effects are computed, beside those of their own parts."""
        return 2 * n_vocabulary + VALUES_OF_A_PAIR * n_neurons

    def batches(self, scored: Bool[Tensor, "block token"]) -> Iterator[Batch]:
        """All scored positions in their order; a block with more of them than fit comes several times."""
        first = 0
        for blocks in slices(len(scored), self.blocks):
            places = scored[blocks].flatten().nonzero()[:, 0]
            for part in slices(len(places), self.positions):
                chosen = torch.zeros_like(scored[blocks])
                chosen.view(-1)[places[part]] = True
                yield Batch(blocks, chosen, first)
                first += part.stop - part.start


def values_of_a_token(model: PreTrainedModel, n_neurons: int, n_tokens: int) -> int:
    """Alive at once while a model runs, for each token of a block."""
    config = model.config
    values = VALUES_OF_A_NEURON_IN_A_PASS * n_neurons + VALUES_OF_A_DIMENSION_IN_A_PASS * config.hidden_size
    if config._attn_implementation == "eager":
        values += VALUES_OF_AN_ATTENTION_WEIGHT * config.num_attention_heads * n_tokens
    return values
