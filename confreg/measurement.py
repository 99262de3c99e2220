"""The conductor: a model, its blocks and a request become the rows of three tables."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from confreg.languages.blocks import Blocks
from confreg.models.checkpoints import weights_sha256
from confreg.models.readout import Readout, ScoredTokens, capture, undisturbed
from confreg.neurons.ablation import Ablation, Baseline, EffectChanges
from confreg.neurons.effect_sums import EffectSums, evidence_from
from confreg.neurons.effects import effect_changes
from confreg.neurons.frequency import Frequency
from confreg.neurons.replacements import mean_over_reference_tokens
from confreg.neurons.selection import (
    Evidence,
    Thresholds,
    entropy_neurons,
    frequency_neurons,
    random_directions,
    thresholds_of_layer,
)
from confreg.neurons.summaries import activation_columns, model_columns, position_values, weight_columns
from confreg.neurons.weights import default_null_dimensions, null_space_share_chance, singular_directions
from confreg.records.schema import table_of
from confreg.settings import MeasurementRequest, check_ranges

Records = dict[str, pa.Table]
MEBIBYTE = 2**20


def measure(
    model: nn.Module,
    blocks: Blocks,
    token_counts: Tensor,
    request: MeasurementRequest | None = None,
    *,
    step: int | None = None,
    tokens_seen: int | None = None,
) -> Records:
    """Measure every neuron of the last MLP, exactly as the request says, and leave the model as it was.

    Args:
        model: a transformers causal language model, or a module that keeps one as ``.model``.
        blocks: every block is used, and exactly the scored positions that are given.
        token_counts: one count for each vocabulary id.
        request: default: mean over reference tokens, no control.
        step: optimizer steps done, where known; goes into every row.
        tokens_seen: target tokens of training over all ranks, where known.

    Returns:
        ``"neurons"``, ``"model"`` and ``"spectrum"``; nats; undefined values are null.

    Raises:
        ValueError: for an architecture without a row in the families, counts of another vocabulary, or no scored position.
    """
    request = request or MeasurementRequest()
    check_ranges(request)
    plain = causal_model(model)
    identity = {"step": step, "tokens_seen": tokens_seen, "weights_sha256": weights_sha256(plain)}
    with undisturbed(plain), torch.no_grad(), torch.autocast(plain.device.type, enabled=False):
        return _Measurement(in_fp32(plain), blocks, token_counts, request).records(identity)


def in_fp32(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself where it is in fp32, else a copy that is."""
    return model if model.dtype == torch.float32 else copy.deepcopy(model).float()


def causal_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself.

    Raises:
        TypeError: where there is none.
    """
    found = _uncompiled(model)
    if not isinstance(found, PreTrainedModel):
        found = _uncompiled(getattr(found, "model", None))
    if not isinstance(found, PreTrainedModel):
        raise TypeError(
            f"measure got a {type(model).__name__}; expected a transformers causal language model, or a module with one as .model."
        )
    if found.get_output_embeddings() is None:
        raise TypeError(f"measure got a {type(found).__name__} without an unembedding; expected one with a language-model head.")
    return found


def _uncompiled(model: nn.Module | None) -> nn.Module | None:
    """What ``torch.compile(model)`` wraps; any other module is itself."""
    return getattr(model, "_orig_mod", model)


@dataclass
class _Measurement:
    """One measurement under way: the parts that several steps of it share."""

    model: PreTrainedModel
    blocks: Blocks
    token_counts: Tensor
    request: MeasurementRequest

    def records(self, identity: Mapping[str, object]) -> Records:
        self.readout = Readout.of(self.model)
        vocabulary_size, d_model = self.readout.unembedding.shape
        self._check_truth(vocabulary_size)
        self.frequency = Frequency.of(self.token_counts, vocabulary_size, like=self.readout.unembedding)
        values, directions = singular_directions(self.readout.unembedding, self.readout.residual_is_centred)
        default = default_null_dimensions(d_model, vocabulary_size, self.readout.residual_is_centred)
        self.null_directions = directions[:, -min(self.request.null_dimensions or default, len(values)) :]
        self._measure_positions()
        neurons, predictions = self._neuron_columns(), model_columns(self.values)
        model = {**predictions, **self._name_neurons(neurons, predictions["entropy_nats"])}
        return {
            "neurons": table_of("neurons", _on_cpu(neurons), len(self.readout.w_out), identity),
            "model": table_of("model", model, 1, identity),
            "spectrum": table_of("spectrum", {"index": range(len(values)), "singular_value": values.cpu()}, len(values), identity),
        }

    def _check_truth(self, vocabulary_size: int) -> None:
        truth = self.blocks.bayes_log_probs
        if truth is not None and truth.shape[-1] != vocabulary_size:
            raise ValueError(f"bayes_log_probs is over {truth.shape[-1]} tokens; expected the model's {vocabulary_size}.")

    def _measure_positions(self) -> None:
        """One pass over the measured blocks: values at each position, and effects of the layer and of every control draw."""
        replacement = mean_over_reference_tokens(capture(self.model, batch).activations for batch in self._batches(self.blocks.reference))
        replacement = replacement.to(self.readout.w_out)
        draws = range(self.request.control_draws)
        control = [random_directions(self.readout.w_out, self._control_seed(draw), self.readout.residual_is_centred) for draw in draws]
        self.directions = [self.readout.w_out, *control]
        sums: list[list[EffectSums]] = []
        activations, values = [], []
        for tokens, truth in self._scored_tokens():
            baseline = self.readout.baseline(tokens, self.frequency)
            values.append(position_values(tokens.log_probs, tokens.targets, baseline.scale, self.frequency.log_probs, truth))
            activations.append(tokens.activations)
            changes = (self._changes(baseline, self.readout.ablation(tokens, replacement, w_out), w_out) for w_out in self.directions)
            sums.append([EffectSums.of(each, tokens.clusters, self.n_clusters) for each in changes])
        self.effects = [sum(parts[1:], start=parts[0]) for parts in zip(*sums, strict=True)]
        self.activations = torch.cat(activations)
        self.values = {name: torch.cat([part[name] for part in values]) for name in values[0]}

    def _changes(self, baseline: Baseline, ablation: Ablation, w_out: Tensor) -> EffectChanges:
        """Of the layer every change; of a control draw what the naming rules look at."""
        memory_bytes = self.request.memory_mib * MEBIBYTE
        return effect_changes(baseline, ablation, memory_bytes, with_scale_only=w_out is self.readout.w_out)

    def _scored_tokens(self) -> Iterator[tuple[ScoredTokens, Float[Tensor, "position vocab"] | None]]:
        """The scored positions of each batch of measured blocks, with the language's own distribution there."""
        scored, clusters = self.blocks.scored_positions().to(self.model.device), self.blocks.clusters().to(self.model.device)
        self.n_clusters = int(clusters.max()) + 1
        truth = self.blocks.bayes_log_probs
        size = self.request.batch_blocks
        for start in range(0, len(self.blocks.measured), size):
            part = slice(start, start + size)
            batch = self.blocks.measured[part].to(self.model.device)
            tokens = capture(self.model, batch).at(scored[part], batch, clusters[part])
            if len(tokens.targets):
                yield tokens, None if truth is None else truth[part].to(self.model.device)[scored[part]]

    def _batches(self, blocks: Tensor) -> Iterator[Tensor]:
        return (part.to(self.model.device) for part in blocks.split(self.request.batch_blocks))

    def _control_seed(self, draw: int) -> int:
        return (self.request.control_seed * 1_000_003 + draw) % 2**63

    def _effect_columns(self, effects: EffectSums) -> dict[str, Tensor]:
        return effects.columns(self.request.share_floor_nats, self.request.rules.clusters_min, self.frequency.has_direction)

    def _weight_columns(self, w_out: Tensor) -> dict[str, Tensor]:
        return weight_columns(w_out, self.readout.unembedding, self.null_directions, self.frequency.direction)

    def _neuron_columns(self) -> dict[str, object]:
        n_neurons = len(self.readout.w_out)
        self.chance = null_space_share_chance(n_neurons, self.null_directions.shape[1], self.readout.usable_dimensions)
        return {
            "layer": self.readout.layer,
            "neuron": range(n_neurons),
            "replacement": self.request.replacement,
            "null_space_share_chance": self.chance,
            **self._weight_columns(self.readout.w_out),
            **activation_columns(self.activations, self.values["entropy"]),
            **self._effect_columns(self.effects[0]),
        }

    def _name_neurons(self, neurons: dict[str, object], entropy_nats: float) -> dict[str, object]:
        """Add the two flags to the neurons, and return the counts for the model's row, the control's beside the real ones."""
        evidence = [
            evidence_from({**self._weight_columns(w), **self._effect_columns(e)})
            for w, e in zip(self.directions, self.effects, strict=True)
        ]
        thresholds = thresholds_of_layer(evidence[0], entropy_nats, self.chance, self.request.rules)
        flags = [self._flags(each, thresholds) for each in evidence]
        neurons["is_entropy_neuron"], neurons["is_frequency_neuron"] = flags[0]
        n_clusters, rules = self.effects[0].n_clusters, self.request.rules
        columns: dict[str, object] = {
            "null_dimensions": self.null_directions.shape[1],
            "n_entropy_neurons": flags[0][0].sum().item(),
            "n_frequency_neurons": flags[0][1].sum().item(),
            "zero_count_share": self.frequency.zero_count_share,
            "n_positions": len(self.activations),
            "n_documents": n_clusters,
        }
        control = [[flag.sum().item() for flag in pair] for pair in flags[1:]]
        if control and n_clusters >= rules.clusters_min:
            means = [sum(counts) / len(control) for counts in zip(*control, strict=True)]
            columns["n_entropy_neurons_control"], columns["n_frequency_neurons_control"] = means
        return columns

    def _flags(self, evidence: Evidence, thresholds: Thresholds) -> tuple[Tensor, Tensor]:
        n_clusters, rules = self.effects[0].n_clusters, self.request.rules
        return (
            entropy_neurons(evidence, thresholds, n_clusters, rules),
            frequency_neurons(evidence, thresholds, n_clusters, self.frequency.zero_count_share, rules),
        )


def _on_cpu(columns: dict[str, object]) -> dict[str, object]:
    return {name: each.cpu() if isinstance(each, Tensor) else each for name, each in columns.items()}
