"""What a measurement will cost, before it starts: seconds, from a small piece of it, and memory, from the sizes of what it keeps."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from confreg.batches import MEBIBYTE, PartSizes, values_of_a_token
from confreg.languages.blocks import Blocks
from confreg.measurement import check_inputs, measured_form
from confreg.models.plain_model import causal_model
from confreg.models.readout import Readout, ScoredTokens, capture
from confreg.neurons.ablation import Ablation, Baseline, Wanted
from confreg.neurons.effect_sizes import TENSORS_OF_A_PAIR, TENSORS_OF_A_POSITION, EffectSizes
from confreg.neurons.effect_sums import EffectSums, Floors, columns_of
from confreg.neurons.effects import Effects
from confreg.neurons.frequency import Frequency
from confreg.neurons.moment_weights import tensors_of_series
from confreg.neurons.orders import ORDERS
from confreg.neurons.summaries import POSITION_VALUES
from confreg.neurons.weights import TokenMoments
from confreg.pass_sums import FOR_THE_RULES, WANTED
from confreg.scored_pass import ScoredPass
from confreg.settings import MeasurementRequest, check_ranges

ELEMENTS_OF_PROBE = 2**20  # position x neuron x vocabulary
NEURONS_OF_PROBE = 64
FEWEST_POSITIONS, MOST_PROBED = 8, 128
TOKENS_OF_PROBE = 64  # of a block, and tokens of the vocabulary for what goes over all of it
BYTES_OF_PROBE = 2**22
DIMENSIONS_OF_PROBE = 128
SHARE_OF_A_DRAW = 0.4  # of a control's directions: at most as many could be named by their direction in the default run, at step 64
GRAMS = 3  # products of the whole unembedding with itself: two of its moments, and its spectrum


@dataclass(frozen=True)
class Cost:
    """Of one measurement."""

    seconds: float
    memory_mib: float  # at its peak, above the model

    def __str__(self) -> str:
        return f"{described(self.seconds)} and {self.memory_mib:.0f} MiB above the model"


def described(seconds: float) -> str:
    """A time as one says it: an estimate has no more than two digits."""
    if seconds < 10:
        return f"about {seconds:.1f} s"
    return (
        f"about {seconds:.0f} s"
        if seconds < 100
        else f"about {seconds / 60:.0f} min"
        if seconds < 5400
        else f"about {seconds / 3600:.1f} h"
    )


def estimate_cost(model: nn.Module, blocks: Blocks, token_counts: Tensor, request: MeasurementRequest | None = None) -> Cost:
    """Time a few positions and neurons of a measurement, and scale up: control draws, blocks and the vocabulary are counted.

    Groups and the table of attributions are not in it. The model and the random state are left as they were.

    Args:
        model: as for ``measure``.
        blocks: what will be measured.
        token_counts: one count for each vocabulary id.
        request: default: that of ``measure``.

    Returns:
        Of one process that works alone. A guide to the order of magnitude: what else the machine does meanwhile is in it.
    """
    request = request or MeasurementRequest()
    check_ranges(request)
    plain = causal_model(model)
    check_inputs(blocks, token_counts, plain)
    with measured_form(plain) as measured:
        readout = Readout.of(measured, request.vocabulary_size)
        counts = token_counts[: request.vocabulary_size]
        frequency = Frequency.of(counts, len(readout.unembedding), like=readout.unembedding)
        probe = _Probe(ScoredPass(measured, blocks, request, readout, frequency))
        copied = 0 if measured is plain else sum(each.numel() * each.element_size() for each in measured.parameters())
        return Cost(probe.seconds(), (probe.memory_bytes() + copied) / MEBIBYTE)


@dataclass(frozen=True)
class _Law:
    """Seconds of the effects at some positions for some neurons: α + β positions + γ neurons + δ pairs, each part of which has an α."""

    start: float
    position: float
    neuron: float
    pair: float

    @classmethod
    def through(cls, positions: tuple[int, int], neurons: tuple[int, int], seconds: Callable[[int, int], float]) -> _Law:
        """The law that four timings follow; where noise would make a coefficient negative it is zero."""
        (few, many), (narrow, wide) = positions, neurons
        least, longer, wider, both = (seconds(p, n) for p, n in ((few, narrow), (many, narrow), (few, wide), (many, wide)))
        pair = max(0.0, (both - longer - wider + least) / max(1, (many - few) * (wide - narrow)))
        neuron = max(0.0, (wider - least) / max(1, wide - narrow) - pair * few)
        position = max(0.0, (longer - least) / max(1, many - few) - pair * narrow)
        return cls(max(0.0, least - position * few - neuron * narrow - pair * few * narrow), position, neuron, pair)


class _Probe:
    """A small piece of a measurement, timed."""

    def __init__(self, of: ScoredPass) -> None:
        self.of, self.model, self.readout, self.sizes = of, of.model, of.readout, of.sizes
        (self.n_vocabulary, self.d_model), self.n_neurons = self.readout.unembedding.shape, len(self.readout.w_out)
        self.size, self.n_positions = self.readout.unembedding.element_size(), of.n_positions
        self.wide = min(self.n_neurons, NEURONS_OF_PROBE)
        n_probed = min(MOST_PROBED, max(FEWEST_POSITIONS, ELEMENTS_OF_PROBE // (self.wide * self.n_vocabulary)))
        of_a_block = of.blocks.measured[:, :TOKENS_OF_PROBE]
        self.blocks = of_a_block[: math.ceil(n_probed / of_a_block.shape[1])].to(self.model.device)
        self.many = min(n_probed, self.blocks.numel())
        at_once = min(self.sizes.positions, self.sizes.blocks * int(of.scored.sum(1).max()))
        self.at_once = EffectSizes.of(of.memory_bytes // 2, at_once, self.n_vocabulary, self.size)  # as ScoredPass shares it out
        self.neurons_at_once = max(1, min(self.at_once.neurons, self.readout.writes(self.readout.w_out).most_at_once))

    def seconds(self) -> float:
        """Of the whole measurement."""
        tokens, draws = self._tokens(), self.of.request.control_draws
        law = _Law.through(
            (max(1, self.many // 4), self.many), (max(1, self.wide // 4), self.wide), lambda p, n: self._effects(tokens, p, n)
        )
        of_rules = self._effects(tokens, self.many, self.wide, FOR_THE_RULES) / max(1e-9, self._effects(tokens, self.many, self.wide))
        n_parts = math.ceil(self.n_positions / self.at_once.positions)
        n_cuts = math.ceil(self.n_neurons / self.neurons_at_once)
        of_neurons = law.neuron * self.n_neurons * n_parts + law.pair * self.n_neurons * self.n_positions
        effects = law.position * self.n_positions + (1 + SHARE_OF_A_DRAW * draws * of_rules) * (of_neurons + law.start * n_parts * n_cuts)
        return self._forward() + effects + (1 + SHARE_OF_A_DRAW * draws) * self._columns(tokens) + self._fixed()

    def memory_bytes(self) -> float:
        """At the peak: what is kept, and the largest of what comes and goes."""
        of, draws = self.of, min(self.of.request.control_draws, self.sizes.draws_of_a_pass)
        n_sums = len(columns_of(WANTED["layer"])) + draws * len(columns_of(WANTED["control"]))
        kept = 8 * n_sums * of.n_clusters * self.n_neurons + self.n_positions * (8 * len(POSITION_VALUES) + self.size * self.n_neurons)
        kept += self.size * self.n_vocabulary * self.d_model * (1 if self.readout.uncentred is None else 2)
        return kept + self.size * max(self._values_of_a_pass(), self._values_of_a_part())

    def _values_of_a_pass(self) -> int:
        n_tokens = self.of.blocks.measured.shape[1]
        return min(self.sizes.blocks, len(self.of.blocks.measured)) * n_tokens * values_of_a_token(self.model, self.n_neurons, n_tokens)

    def _values_of_a_part(self) -> float:
        at_once = min(self.sizes.positions, self.sizes.blocks * int(self.of.scored.sum(1).max()), self.n_positions)
        n_neurons = min(self.n_neurons, self.neurons_at_once)
        of_series = min(self.at_once.series, n_neurons * tensors_of_series(ORDERS[-1]))
        in_effects = self.at_once.positions * (TENSORS_OF_A_POSITION * self.n_vocabulary + TENSORS_OF_A_PAIR * n_neurons + of_series)
        draws = max(1, min(self.of.request.control_draws, self.sizes.draws))
        return at_once * (PartSizes.values_of_a_position(self.n_vocabulary, draws * self.n_neurons)) + in_effects

    def _tokens(self) -> ScoredTokens:
        """The first positions of the first blocks, whether they are scored or not."""
        everywhere = torch.ones_like(self.blocks, dtype=torch.bool)
        everywhere.view(-1)[self.many :] = False
        captured = capture(self.model, self.blocks, self.of.request.vocabulary_size, logits_at=everywhere)
        targets = self.blocks.clamp(max=self.n_vocabulary - 1)
        return captured.at(everywhere, targets, torch.arange(len(self.blocks), device=self.blocks.device))

    def _forward(self) -> float:
        """Of the model, over reference and measured blocks."""
        blocks, nowhere = self.of.blocks, torch.zeros_like(self.blocks, dtype=torch.bool)
        n_passes = max(1, math.ceil(self.of.request.control_draws / self.sizes.draws_of_a_pass))
        n_tokens = blocks.reference.numel() + n_passes * blocks.measured.numel()
        return self._timed(lambda: capture(self.model, self.blocks, logits_at=nowhere)) * n_tokens / self.blocks.numel()

    def _effects(self, tokens: ScoredTokens, n_positions: int, n_neurons: int, wanted: Wanted | None = None) -> float:
        """Of all effects at the first positions for the first neurons."""
        baseline, ablation = self._part(tokens, n_positions, n_neurons)
        return self._timed(lambda: Effects(baseline, self.of.memory_bytes // 2).of(ablation, wanted))

    def _part(self, tokens: ScoredTokens, n_positions: int, n_neurons: int) -> tuple[Baseline, Ablation]:
        mean = tokens.activations.double().mean(0).expand(tokens.activations.shape)  # stands for any replacement
        ablation = self.readout.ablation(tokens, mean, self.readout.writes(self.readout.w_out))
        part = slice(n_positions)
        return self.readout.baseline(tokens, self.of.frequency).part(part), ablation.part(part, slice(n_neurons))

    def _columns(self, tokens: ScoredTokens) -> float:
        """Of means, errors and shares of the layer or of one draw."""
        baseline, ablation = self._part(tokens, self.many, self.wide)
        clusters = torch.arange(self.many, device=self.blocks.device) % self.of.n_clusters
        changes = Effects(baseline, self.of.memory_bytes // 2).of(ablation, FOR_THE_RULES)
        sums, request = EffectSums.of(changes, clusters, self.of.n_clusters), self.of.request
        floors = Floors(request.share_floor_nats, request.divergence_floor_nats, 2)
        share = sums.n_clusters / self.of.n_clusters * self.wide / self.n_neurons
        return self._timed(lambda: sums.columns(floors)) / share

    def _fixed(self) -> float:
        """Of the weights' fingerprint, the unembedding's moments and its spectrum."""
        n_bytes = sum(each.numel() * each.element_size() for each in self.model.parameters())
        hashing = self._timed(lambda: hashlib.sha256(bytes(BYTES_OF_PROBE))) * n_bytes / BYTES_OF_PROBE
        some = self.readout.unembedding[:TOKENS_OF_PROBE]
        moments = self._timed(lambda: TokenMoments.of(some)) * GRAMS / 2 * self.n_vocabulary / len(some)
        width = min(self.d_model, DIMENSIONS_OF_PROBE)
        square = torch.eye(width, dtype=torch.float64, device=some.device) + torch.ones(
            width, width, dtype=torch.float64, device=some.device
        )
        return hashing + moments + self._timed(lambda: torch.linalg.eigh(square)) * (self.d_model / width) ** 3

    def _timed(self, work: Callable[[], object]) -> float:
        """Seconds."""
        start = time.perf_counter()
        work()
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter() - start
