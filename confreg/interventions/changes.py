"""Effects of interventions in any layer at the scored positions, and their means with error bars clustered over documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from confreg.interventions.downstream import MEMORY_BYTES, CleanPass
from confreg.interventions.replacing import Intervention
from confreg.languages.blocks import Blocks
from confreg.neurons.frequency import frequency_log_probs
from confreg.neurons.predictions import entropy_nats, kl_from_frequency, kl_to_frequency, loss_nats
from confreg.neurons.uncertainty import ClusterSums, share_not_in
from confreg.settings import MeasurementRequest

# column -> the change that is averaged, and whether as it is or in absolute value
AVERAGED = {
    "loss_effect": ("loss", False),
    "loss_effect_frozen_norm": ("loss_frozen_norm", False),
    "loss_change": ("loss", True),
    "entropy_effect": ("entropy", False),
    "entropy_effect_frozen_norm": ("entropy_frozen_norm", False),
    "entropy_change": ("entropy", True),
    "kl_from_frequency_effect": ("kl_from_frequency", False),
    "kl_from_frequency_change": ("kl_from_frequency", True),
    "kl_to_frequency_effect": ("kl_to_frequency", False),
}
MEDIATED = {
    "norm_mediated_share": ("loss_effect_frozen_norm", "loss_effect"),
    "entropy_norm_mediated_share": ("entropy_effect_frozen_norm", "entropy_effect"),
}


@dataclass(frozen=True)
class DownstreamChanges:
    """Signed changes in nats at each scored position for each intervention: with it minus without."""

    loss: Float[Tensor, "position intervention"]
    loss_frozen_norm: Float[Tensor, "position intervention"]  # every position keeps its scale of the final norm
    entropy: Float[Tensor, "position intervention"]
    entropy_frozen_norm: Float[Tensor, "position intervention"]
    kl_from_frequency: Float[Tensor, "position intervention"]
    kl_to_frequency: Float[Tensor, "position intervention"]
    clusters: Int[Tensor, "position"]  # the document of each position: 0, 1, …

    def columns(self, request: MeasurementRequest | None = None) -> dict[str, Float[Tensor, "intervention"]]:
        """Means over positions, their standard errors, and what goes through the final norm, by the names of the neurons table.

        Args:
            request: its floor and its fewest clusters say where a share, its error and its bound are defined; nan elsewhere.
        """
        request, n_clusters = request or MeasurementRequest(), int(self.clusters.max()) + 1
        sums = {}
        for column, (name, is_signed) in AVERAGED.items():
            values: Tensor = getattr(self, name)
            sums[column] = ClusterSums.of(values if is_signed else values.abs(), self.clusters, n_clusters)
        columns = {}
        for column, each in sums.items():
            columns[column], columns[f"{column}_stderr"] = each.mean(), each.stderr()
        for column, (frozen, total) in MEDIATED.items():
            share = share_not_in(sums[frozen], sums[total], request.share_floor_nats, request.rules.clusters_min)
            columns |= {column: share.value, f"{column}_stderr": share.stderr, f"{column}_low": share.low}
        return columns


def downstream_changes(
    model: PreTrainedModel,
    blocks: Blocks,
    token_counts: Int[Tensor, "vocab"],
    interventions: Sequence[Intervention],
    vocabulary_size: int | None = None,
    batch_blocks: int = 16,
    memory_bytes: int = MEMORY_BYTES,
) -> DownstreamChanges:
    """What each intervention, in whatever layer, changes at the scored positions of the measured blocks.

    Args:
        model: a transformers causal language model, left as it was; the changes are differences of its predictions, so in fp32 they
            resolve about 1e-6 nats: give a copy in float64 for smaller ones.
        blocks: every measured block takes part; the reference is for the caller, who says what the replacements are.
        token_counts: one count for each vocabulary id.
        interventions: each alone; a replacement with one row for each measured block is cut along with them.
        vocabulary_size: token ids from here on are padding, outside of predictions and frequencies; None: there are none.
        batch_blocks: blocks in one pass.
        memory_bytes: bound on what the interventions that share a run need.

    Raises:
        ValueError: for an intervention that does not fit the model, no scored position, or none to make.
        InterventionError: where an intervention could not act.
    """
    if not interventions:
        raise ValueError("downstream_changes got no interventions; expected at least one.")
    scored, clusters = blocks.scored_positions().to(model.device), blocks.clusters().to(model.device)
    log_q = frequency_log_probs(token_counts[:vocabulary_size]).to(model.device, model.dtype)
    parts = []
    for start in range(0, len(blocks.measured), batch_blocks):
        part = slice(start, start + batch_blocks)
        clean = CleanPass.of(model, blocks.measured[part], vocabulary_size)
        here, positions = [each.in_blocks(part) for each in interventions], _Scored(clean.tokens, scored[part], log_q)
        before = positions.values(clean.log_probs, clean.log_probs)
        after = [positions.values(*each) for each in clean.predictions(here, with_frozen_final_norm=True, memory_bytes=memory_bytes)]
        changes = torch.stack(after, dim=-1) - before.unsqueeze(-1)
        parts.append((*changes, clusters[part].unsqueeze(1).expand_as(clean.tokens)[scored[part]]))
    return DownstreamChanges(*(torch.cat(each) for each in zip(*parts, strict=True)))


@dataclass(frozen=True)
class _Scored:
    """The scored positions of a batch, and what their predictions are compared with."""

    tokens: Int[Tensor, "block token"]
    scored: Bool[Tensor, "block token"]
    log_q: Float[Tensor, "vocab"]

    def values(self, total: Tensor, frozen: Tensor | None) -> Float[Tensor, "6 position"]:
        """Of log-probabilities with the norm's own scale and with the frozen one, in the order of ``DownstreamChanges``."""
        assert frozen is not None
        targets, with_own, with_frozen = self.tokens.roll(-1, dims=1)[self.scored], total[self.scored], frozen[self.scored]
        values = [loss_nats(with_own, targets), loss_nats(with_frozen, targets), entropy_nats(with_own), entropy_nats(with_frozen)]
        return torch.stack([*values, kl_from_frequency(with_own, self.log_q), kl_to_frequency(with_own, self.log_q)])
