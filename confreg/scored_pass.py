"""Passes over the measured blocks: the model forward, and every replacement's effects at the scored positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from confreg.batches import MEBIBYTE, Batch, PartSizes
from confreg.languages.blocks import Blocks
from confreg.models.readout import Readout, ScoredTokens, capture
from confreg.neurons.ablation import Ablation, Baseline
from confreg.neurons.controls import ControlDraw
from confreg.neurons.effect_sums import EffectSums
from confreg.neurons.effects import Effects
from confreg.neurons.frequency import Frequency
from confreg.neurons.replacements import Replacement
from confreg.neurons.summaries import POSITION_VALUES, VALUES, position_values
from confreg.neurons.writes import NeuronWrites, slices
from confreg.pass_sums import WANTED, PassSizes, PassSums
from confreg.processes import ALONE, Processes
from confreg.progress import Told
from confreg.settings import MeasurementRequest


@dataclass
class ScoredPass:
    """What a pass needs, and what it does; effects are those of writing along given directions."""

    model: PreTrainedModel
    blocks: Blocks
    request: MeasurementRequest
    readout: Readout
    frequency: Frequency
    processes: Processes = ALONE  # that share the work

    def __post_init__(self) -> None:
        self.scored, self.clusters = self.blocks.scored_positions().to(self.model.device), self.blocks.clusters().to(self.model.device)
        self.memory_bytes = self.request.memory_mib * MEBIBYTE
        self.sizes = PartSizes.of(self.model, self.blocks, self.request, self.readout, self.processes.number)

    @property
    def n_positions(self) -> int:
        """Scored positions of all measured blocks."""
        return int(self.scored.sum())

    @property
    def n_clusters(self) -> int:
        """Documents, those without a scored position included."""
        return int(self.clusters.max()) + 1

    @property
    def value_names(self) -> tuple[str, ...]:
        """Of what is known at each position."""
        return VALUES if self.blocks.bayes_log_probs is None else POSITION_VALUES

    def replacement(self) -> Replacement:
        """What takes the activations' places, from the reference blocks."""

        def read_reference() -> Iterator[Tensor]:
            for part in self.blocks.reference.split(self.sizes.blocks):
                tokens = part.to(self.model.device)
                yield capture(self.model, tokens, logits_at=torch.zeros_like(tokens, dtype=torch.bool)).activations

        return Replacement.of(self.request, read_reference, self.blocks.reference.numel(), self.n_positions)

    def sums(
        self, control: Sequence[ControlDraw], groups: Sequence[Tensor] = (), progress: Told | None = None
    ) -> Iterator[tuple[PassSums, list[tuple[ControlDraw, EffectSums]]]]:
        """Go over all scored positions, once, or where not all control draws fit the memory several times.

        Args:
            control: the draws.
            groups: the neurons of each group.
            progress: told after each batch of this process.

        Yields:
            The first time the sums of the layer, the groups and the first draws; then those of the next draws alone, until all are done.
            Beside them each of these draws with the effects of its directions.

        Raises:
            RuntimeError: on every other process, where one of those that share the work fails.
        """
        passes, own = list(slices(len(control), self.sizes.draws_of_a_pass)) or [slice(0)], self._own_batches()
        told = _Progress(progress, len(passes) * sum(batch.n_positions for batch in own))
        with self.processes.together():
            replacement = self.replacement()
        for number, draws in enumerate(passes):
            sums = self._sums(_Work(self, replacement, control[draws], groups, is_first=number == 0), own, told)
            yield (
                sums,
                [
                    (draw, sums.effects("control", sums.places_in_control(number, draw.neurons)))
                    for number, draw in enumerate(control[draws])
                ],
            )

    def _sums(self, work: _Work, batches: Sequence[Batch], told: _Progress) -> PassSums:
        """One pass, for whose sums nobody but the caller keeps a place."""
        with self.processes.together():
            for batch in batches:
                work.add(batch)
                told.more(batch.n_positions)
        if self.processes.number > 1:
            work.sums.add_up()
        return work.sums

    def _own_batches(self) -> list[Batch]:
        """Of this process: batches are dealt out in turn."""
        return list(self.sizes.batches(self.scored))[self.processes.rank :: self.processes.number]

    def read(self, batch: Batch) -> tuple[ScoredTokens, Tensor | None]:
        """What is at the scored positions of a batch, and the language's truth there."""
        blocks, truth = self.blocks.measured[batch.blocks].to(self.model.device), self.blocks.bayes_log_probs
        captured = capture(self.model, blocks, self.request.vocabulary_size, logits_at=batch.scored)
        tokens = captured.at(batch.scored, blocks, self.clusters[batch.blocks])
        return tokens, None if truth is None else truth[batch.blocks][batch.scored.to(truth.device)].to(self.model.device)


class _Work:
    """Adds the effects at the positions of one batch after the other to the sums of a pass."""

    def __init__(
        self, of: ScoredPass, replacement: Replacement, control: Sequence[ControlDraw], groups: Sequence[Tensor], is_first: bool
    ) -> None:
        w_out = of.readout.w_out
        self.of, self.replacement, self.groups = of, replacement, groups if is_first else ()
        sizes = PassSizes(of.n_positions, of.n_clusters, len(w_out), len(control), len(self.groups), is_first)
        self.sums, self.layer = PassSums(sizes, w_out), of.readout.writes(w_out)
        self.control: list[tuple[Tensor, NeuronWrites]] = []  # places of the neurons among those of all draws, and what is written there
        for part in slices(len(control), of.sizes.draws):  # what their neurons share is then computed once
            places = torch.cat([self.sums.places_in_control(draw, control[draw].neurons) for draw in range(part.start, part.stop)])
            if len(places):
                self.control.append((places, of.readout.writes(torch.cat([each.directions for each in control[part]]))))

    def add(self, batch: Batch) -> None:
        """Values and effects at the positions of a batch."""
        frequency, (tokens, truth) = self.of.frequency, self.of.read(batch)
        baseline = self.of.readout.baseline(tokens, frequency)
        values = position_values(tokens.log_probs, tokens.targets, baseline.scale, frequency.log_probs, truth)
        self.sums.update(slice(batch.first, batch.first + len(tokens.targets)), tokens, values)
        self.ablate(tokens, baseline, self.replacement.applied(tokens.activations, batch.first))

    def ablate(self, tokens: ScoredTokens, baseline: Baseline, replaced: Float[Tensor, "position neuron"]) -> None:
        """The ablation suite: effects of the layer, of groups and of control draws."""
        readout, effects = self.of.readout, Effects(baseline, self.of.memory_bytes // 2)
        if self.sums.sizes.of_the_layer:
            self._add("layer", effects, readout.ablation(tokens, replaced, self.layer), tokens.clusters)
        for part in slices(len(self.groups), self.of.sizes.groups):
            self._add("groups", effects, readout.group_ablation(tokens, replaced, self.groups[part]), tokens.clusters, part)
        for places, writes in self.control:
            some = places % len(self.layer.w_out)
            self._add("control", effects, readout.ablation(tokens, replaced, writes, some), tokens.clusters, places)

    def _add(
        self, of: str, effects: Effects, ablation: Ablation, clusters: Int[Tensor, "position"], place: slice | Tensor = slice(None)
    ) -> None:
        changes = effects.of(ablation, WANTED[of])
        self.sums.add_effects(of, EffectSums.of(changes, clusters, len(self.sums.counts)), place)


class _Progress:
    """Whoever wants to know how far a measurement is."""

    def __init__(self, progress: Told | None, n_all: int) -> None:
        self.progress, self.n_all, self.n_done = progress, n_all, 0

    def more(self, n_positions: int) -> None:
        """So many more scored positions are done."""
        self.n_done += n_positions
        if self.progress is not None:
            self.progress(self.n_done, self.n_all)
