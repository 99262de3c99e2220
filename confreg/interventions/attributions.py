"""First-order estimates of every neuron's effect in every layer: the columns of the ``attributions`` table.

A neuron's activation is replaced at every position of its block; the estimate is the sum over the positions of (replacement - activation)
times the gradient, over the scored positions of the block. It needs no ablation: a few passes back for all neurons of all layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from confreg.interventions.gradients import LayerTensors, TracedPass, blocks_in_memory, differentiable, layer_activations, layer_widths
from confreg.languages.blocks import Blocks
from confreg.neurons.replacements import Replacement
from confreg.neurons.uncertainty import ClusterSums
from confreg.settings import MeasurementRequest

MEBIBYTE = 2**20
BlockSums = dict[str, Float[Tensor, "block neuron"]]  # neurons of all layers side by side, the lowest layer first


def attribution_columns(model: PreTrainedModel, blocks: Blocks, request: MeasurementRequest) -> dict[str, object]:
    """Attributions of entropy and loss to every neuron of every MLP, and what identifies the neurons.

    Args:
        model: measured in its own dtype and left as it was; gradients may be forbidden by the caller.
        blocks: replacements come from ``reference``, one reading for all layers; effects are those on the scored positions of ``measured``.
        request: the replacement, the memory, and ``batch_blocks`` as an upper bound.

    Returns:
        Columns of the table ``attributions``, one row for each neuron of each layer; float64, nats per scored position.

    Raises:
        ValueError: for an architecture whose parts are not known, or no scored position.
    """
    with differentiable(model) as traceable:
        return _Attributions(traceable, blocks, request).columns()


@dataclass
class _Attributions:
    """One measurement under way."""

    model: PreTrainedModel
    blocks: Blocks
    request: MeasurementRequest

    def columns(self) -> dict[str, object]:
        self.scored, self.widths = self.blocks.scored_positions(), layer_widths(self.model)
        self.replacement = self._replacement()
        sums = [self._sums(first, tokens) for first, tokens in self._parts(self.blocks.measured)]
        columns: dict[str, object] = {
            "layer": [layer for layer, width in enumerate(self.widths) for _ in range(width)],
            "neuron": [neuron for width in self.widths for neuron in range(width)],
            "replacement": self.request.replacement_label,
        }
        for name in sums[0]:
            clustered = self._clustered(torch.cat([part[name] for part in sums]))
            columns[name], columns[f"{name}_stderr"] = clustered.mean(), clustered.stderr()
        return columns

    def _parts(self, blocks: Int[Tensor, "block token"]) -> Iterator[tuple[int, Int[Tensor, "part token"]]]:
        """So many blocks at a time as fit the memory, each part with the number of its first block."""
        size = min(self.request.batch_blocks, blocks_in_memory(self.model, blocks.shape[1], self.request.memory_mib * MEBIBYTE))
        for first in range(0, len(blocks), size):
            yield first, blocks[first : first + size].to(self.model.device)

    def _replacement(self) -> Replacement:
        """Of all layers' neurons side by side: one reading of the reference serves them all."""

        def read_reference() -> Iterator[Float[Tensor, "block token neuron"]]:
            return (torch.cat(layer_activations(self.model, tokens), dim=-1) for _, tokens in self._parts(self.blocks.reference))

        return Replacement.of(self.request, read_reference, self.blocks.reference.numel(), self.blocks.measured.numel())

    def _sums(self, first: int, tokens: Int[Tensor, "block token"]) -> BlockSums:
        scored = self.scored[first : first + len(tokens)].to(tokens.device)
        traced = TracedPass(self.model, tokens, scored, self.request.vocabulary_size)
        changes = self._changes(traced.layer_activations(), first * tokens.shape[1])
        sums: BlockSums = {}
        for quantity, gradient in traced.of_final_residual():
            for path, carry in (("", traced.through_all_layers), ("_direct_path", traced.through_direct_path)):
                frozen, norm = (_over_positions(changes, carry(part)) for part in (gradient.frozen_norm, gradient.norm))
                name = f"{quantity}_attribution{path}"
                sums |= {name: frozen + norm, f"{name}_frozen_norm": frozen, f"{name}_norm": norm}
            direct = traced.through_direct_path(gradient.total)
            sums[f"{quantity}_attribution_direct_path_absolute"] = _over_positions(changes, direct, absolute=True)
        return sums

    def _changes(self, activations: LayerTensors, first_position: int) -> LayerTensors:
        """Replacement minus activation at every position: the difference in float64, kept in the activations' own dtype."""
        positions = torch.cat(activations, dim=-1).flatten(0, 1)
        replaced = self.replacement.applied(positions, first_position).split(self.widths, dim=-1)
        return [(after.view(before.shape) - before.double()).to(before.dtype) for after, before in zip(replaced, activations, strict=True)]

    def _clustered(self, sums: Float[Tensor, "block neuron"]) -> ClusterSums:
        """Per scored position, a document's blocks together."""
        clusters = self.blocks.clusters().to(sums.device)
        n_scored = self.scored.sum(1).to(sums)
        n_clusters = int(clusters.max()) + 1
        return ClusterSums(*(sums.new_zeros(n_clusters, *each.shape[1:]).index_add_(0, clusters, each) for each in (sums, n_scored)))


def _over_positions(
    changes: LayerTensors, gradients: Iterable[Float[Tensor, "block token neuron"]], absolute: bool = False
) -> Float[Tensor, "block all_neurons"]:
    """Sum of change times gradient over the positions of each block, layers side by side, in float64."""
    products = (change.double() * gradient.double() for change, gradient in zip(changes, gradients, strict=True))
    return torch.cat([(each.abs() if absolute else each).sum(1) for each in products], dim=-1)
