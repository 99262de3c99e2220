"""The conductor: a model, its blocks and a request become the rows of three tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from confreg.interventions.attributions import attribution_columns
from confreg.languages.blocks import Blocks
from confreg.models.adapters import without_adapters
from confreg.models.checkpoints import weights_sha256
from confreg.models.layer_writes import layer_writes
from confreg.models.plain_model import causal_model, in_fp32
from confreg.models.readout import Readout
from confreg.models.undisturbed import undisturbed
from confreg.neurons.controls import ControlDraw, control_directions
from confreg.neurons.effect_sums import EffectSums, Floors, evidence_from
from confreg.neurons.frequency import Frequency
from confreg.neurons.selection import (
    Evidence,
    Thresholds,
    entropy_neurons,
    frequency_neurons,
    may_be_entropy_neurons,
    may_be_frequency_neurons,
    thresholds_of_layer,
)
from confreg.neurons.summaries import activation_columns, model_columns, weight_columns
from confreg.neurons.universal import universal_columns
from confreg.neurons.weights import TokenMoments, default_null_dimensions, null_space_share_chance, singular_directions
from confreg.processes import ALONE, Processes
from confreg.progress import Told, progress_of
from confreg.records.schema import table_of
from confreg.scored_pass import ScoredPass
from confreg.settings import MeasurementRequest, check_ranges

Records = dict[str, pa.Table]
Columns = dict[str, object]


def measure(
    model: nn.Module,
    blocks: Blocks,
    token_counts: Tensor,
    request: MeasurementRequest | None = None,
    *,
    step: int | None = None,
    tokens_seen: int | None = None,
    over_processes: bool = False,
    progress: Told | bool = False,
) -> Records:
    """Measure every neuron of the last MLP, exactly as the request says, and leave the model as it was.

    Args:
        model: a transformers causal language model, or a module that keeps one as ``.model``.
        blocks: every block is used, and exactly the scored positions that are given.
        token_counts: one count for each vocabulary id.
        request: default: mean over reference tokens, no control.
        step: optimizer steps done, where known; goes into every row.
        tokens_seen: target tokens of training over all ranks, where known.
        over_processes: share the blocks among the processes of ``torch.distributed``, all of which call this with the same arguments and
            get the same rows.
        progress: a function that is told after each batch how many scored positions are done and of how many, or True for a bar on
            a terminal's standard error or in a notebook.

    Returns:
        ``"neurons"``, ``"model"`` and ``"spectrum"``, and what else the request asks for; nats; undefined values are null.

    Raises:
        ValueError: for an architecture without a row in the families, token ids or counts of another vocabulary, no scored position,
            weights that are not finite, or ``over_processes`` where there are no processes.
        RuntimeError: where another of the processes that share the work failed.
    """
    request = request or MeasurementRequest()
    check_ranges(request)
    plain = without_adapters(causal_model(model))
    check_inputs(blocks, token_counts, plain)
    identity = {"step": step, "tokens_seen": tokens_seen, "weights_sha256": weights_sha256(plain)}
    processes = Processes.all() if over_processes else ALONE
    with measured_form(plain) as measured, progress_of(progress, processes.rank) as told:
        measurement = _Measurement(measured, blocks, token_counts, request, processes, told)
        return {name: table_of(name, columns, n_rows, identity) for name, (columns, n_rows) in measurement.tables().items()}


@contextmanager
def measured_form(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Within, the model as it is measured: evaluating, without gradients, in full fp32, or in float64 if it is so; afterwards as before."""
    with undisturbed(model), torch.no_grad(), torch.autocast(model.device.type, enabled=False):
        yield model if model.dtype == torch.float64 else in_fp32(model)


def check_inputs(blocks: Blocks, token_counts: Tensor, model: PreTrainedModel) -> None:
    """Raise where there are no blocks of this model's tokens, or no counts."""
    if not isinstance(blocks, Blocks):
        raise TypeError(f"measure got a {type(blocks).__name__} as blocks; expected confreg.Blocks(reference=..., measured=...).")
    if not isinstance(token_counts, Tensor):
        raise TypeError(
            f"measure got a {type(token_counts).__name__} as token_counts; expected a tensor, one count for each vocabulary id."
        )
    blocks.check_vocabulary(int(model.get_input_embeddings().weight.shape[0]))  # type: ignore[index]


@dataclass
class _Measurement:
    """One measurement under way: the parts that several steps of it share."""

    model: PreTrainedModel
    blocks: Blocks
    token_counts: Tensor
    request: MeasurementRequest
    processes: Processes
    progress: Told | None

    def tables(self) -> dict[str, tuple[Columns, int]]:
        """Columns and number of rows of every table."""
        self.readout = Readout.of(self.model, self.request.vocabulary_size)
        vocabulary_size, d_model = self.readout.unembedding.shape
        self._check_truth(vocabulary_size)
        self.frequency = Frequency.of(self.token_counts[: self.request.vocabulary_size], vocabulary_size, like=self.readout.unembedding)
        self.tokens = TokenMoments.of(self.readout.unembedding, self.frequency.direction)
        values, directions = singular_directions(self.readout.unembedding, self.readout.residual_is_centred)
        default = default_null_dimensions(d_model, vocabulary_size, self.readout.residual_is_centred)
        self.null_directions = directions[:, -min(self.request.null_dimensions or default, len(values)) :]
        self.chance = null_space_share_chance(len(self.readout.w_out), self.null_directions.shape[1], self.readout.usable_dimensions)
        self._measure_positions()
        neurons, predictions = self._neuron_columns(), model_columns(self.values)
        model = {**predictions, **self._name_neurons(neurons, predictions["entropy_nats"])}
        tables: dict[str, tuple[Columns, int]] = {
            "neurons": _rows(neurons),
            "model": (model, 1),
            "spectrum": ({"index": range(len(values)), "singular_value": values.cpu()}, len(values)),
        }
        if self.request.groups:
            tables["groups"] = _rows(self._group_columns(), "group")
        if self.request.attributions:
            tables["attributions"] = _rows(attribution_columns(self.model, self.blocks, self.request))
        if self.request.universal:
            tables["universal"] = _rows(universal_columns(layer_writes(self.model), self.readout.unembedding, self.request.universal_rules))
        return tables

    def _check_truth(self, vocabulary_size: int) -> None:
        truth = self.blocks.bayes_log_probs
        if truth is not None and truth.shape[-1] != vocabulary_size:
            raise ValueError(f"bayes_log_probs is over {truth.shape[-1]} tokens; expected the model's {vocabulary_size}.")

    def _measure_positions(self) -> None:
        """Over the measured blocks: values at each position, and effects of the layer, of groups and of every control draw."""
        n_neurons, control = len(self.readout.w_out), [self._control(draw) for draw in range(self.request.control_draws)]
        self.groups = self.request.groups_within(n_neurons)
        groups = [torch.tensor(each, device=self.model.device) for each in self.groups.values()]
        scored_pass = ScoredPass(self.model, self.blocks, self.request, self.readout, self.frequency, self.processes)
        self.control_evidence = list[Evidence]()
        for sums, of_draws in scored_pass.sums(control, groups, self.progress):
            if sums.sizes.of_the_layer:
                self.effects, self.group_effects, self.activations = sums.effects("layer"), sums.effects("groups"), sums.activations
                self.values = sums.position_values(scored_pass.value_names)
            self.control_evidence += [self._evidence(draw.directions, effects) for draw, effects in of_draws]

    def _control(self, draw: int) -> ControlDraw:
        seed, readout = (self.request.control_seed * 1_000_003 + draw) % 2**63, self.readout
        directions = control_directions(self.request.control, readout.w_out, self.null_directions, seed, readout.residual_is_centred)
        of_weights = self._weight_columns(directions)
        may_be_named = may_be_entropy_neurons(of_weights["null_space_share"], self.chance)
        may_be_named |= may_be_frequency_neurons(of_weights["frequency_cosine"], self.frequency.zero_count_share, self.request.rules)
        [neurons] = may_be_named.nonzero(as_tuple=True)
        return ControlDraw(directions[neurons], neurons)

    def _effect_columns(self, effects: EffectSums) -> dict[str, Tensor]:
        floors = Floors(self.request.share_floor_nats, self.request.divergence_floor_nats, self.request.rules.clusters_min)
        return effects.columns(floors, self.frequency.has_direction)

    def _weight_columns(self, w_out: Tensor) -> dict[str, Tensor]:
        return weight_columns(w_out, self.tokens, self.null_directions)

    def _evidence(self, w_out: Tensor, effects: EffectSums) -> Evidence:
        return evidence_from({**self._weight_columns(w_out), **self._effect_columns(effects)})

    def _neuron_columns(self) -> Columns:
        n_neurons = len(self.readout.w_out)
        return {
            "layer": self.readout.layer,
            "neuron": range(n_neurons),
            "replacement": self.request.replacement_label,
            "null_space_share_chance": self.chance,
            **self._weight_columns(self.readout.w_out),
            **activation_columns(self.activations, self.values["entropy"]),
            **self._effect_columns(self.effects),
        }

    def _group_columns(self) -> Columns:
        return {
            "layer": self.readout.layer,
            "group": list(self.groups),
            "n_neurons": [len(each) for each in self.groups.values()],
            "replacement": self.request.replacement_label,
            **self._effect_columns(self.group_effects),
        }

    def _name_neurons(self, neurons: Columns, entropy_nats: float) -> Columns:
        """Add the two flags to the neurons, and return the counts for the model's row, the control's beside the real ones."""
        of_the_layer = evidence_from({name: each for name, each in neurons.items() if isinstance(each, Tensor)})
        thresholds = thresholds_of_layer(of_the_layer, entropy_nats, self.chance, self.request.rules)
        flags = [self._flags(each, thresholds) for each in (of_the_layer, *self.control_evidence)]
        neurons["is_entropy_neuron"], neurons["is_frequency_neuron"] = flags[0]
        n_clusters, rules = self.effects.n_clusters, self.request.rules
        columns: Columns = {
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
        n_clusters, rules = self.effects.n_clusters, self.request.rules
        return (
            entropy_neurons(evidence, thresholds, n_clusters, rules),
            frequency_neurons(evidence, thresholds, n_clusters, self.frequency.zero_count_share, rules),
        )


def _rows(columns: Columns, one_for_each: str = "neuron") -> tuple[Columns, int]:
    n_rows = len(columns[one_for_each])  # type: ignore[arg-type]
    return {name: each.cpu() if isinstance(each, Tensor) else each for name, each in columns.items()}, n_rows
