"""From changes at each position to the columns of a table: means, standard errors, shares."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from confreg.neurons.ablation import EffectChanges, Wanted
from confreg.neurons.selection import Evidence
from confreg.neurons.uncertainty import ClusterSums, share_not_in

# column -> the change that is averaged, in absolute value inside the mean unless the column is a signed change
AVERAGED = {
    "loss_effect": "loss",
    "loss_effect_scale_only": "loss_scale_only",
    "loss_effect_frozen_norm": "loss_frozen_norm",
    "loss_effect_frozen_frequency": "loss_frozen_frequency",
    "entropy_effect": "entropy",
    "entropy_effect_frozen_norm": "entropy_frozen_norm",
    "loss_change": "loss",
    "entropy_change": "entropy",
    "kl_from_frequency_change": "kl_from_frequency",
    "kl_from_frequency_effect": "kl_from_frequency",
    "kl_to_frequency_effect": "kl_to_frequency",
    "reciprocal_rank_effect": "reciprocal_rank",
}
SIGNED = ("loss_change", "entropy_change", "kl_from_frequency_change")
# summed for the shares alone
SUMMED = {"argmax": "argmax", "divergence": "divergence", "divergence_from_temperature": "divergence_from_temperature"}
# share -> (effect with the path frozen, total effect); arXiv 2406.16254, Eqs. 4 to 7
MEDIATED = {
    "norm_mediated_share": ("loss_effect_frozen_norm", "loss_effect"),
    "frequency_mediated_share": ("loss_effect_frozen_frequency", "loss_effect"),
    "entropy_norm_mediated_share": ("entropy_effect_frozen_norm", "entropy_effect"),
}


def columns_of(wanted: Wanted) -> list[str]:
    """The columns that are summed where these changes are computed."""
    names = wanted.names()
    return [column for column, name in {**AVERAGED, **SUMMED}.items() if name in names]


@dataclass(frozen=True)
class Floors:
    """Below them a share is undefined."""

    effect_nats: float
    divergence_nats: float
    clusters_min: int


@dataclass(frozen=True)
class EffectSums:
    """Cluster sums of every averaged change; sums of different positions add up."""

    of_column: dict[str, ClusterSums]

    @classmethod
    def of(cls, changes: EffectChanges, clusters: Int[Tensor, "position"], n_clusters: int) -> EffectSums:
        """Sum the changes of each document; of a change that is None there is no column."""
        sums = {}
        for column, name in {**AVERAGED, **SUMMED}.items():
            values: Float[Tensor, "position neuron"] | None = getattr(changes, name)
            if values is None:
                continue
            sums[column] = ClusterSums.of(values if column in SIGNED else values.abs(), clusters, n_clusters)
        return cls(sums)

    def __add__(self, other: EffectSums) -> EffectSums:
        return EffectSums({column: sums + other.of_column[column] for column, sums in self.of_column.items()})

    @property
    def n_clusters(self) -> int:
        """Documents with a scored position."""
        return self.of_column["loss_effect"].n_clusters

    def columns(self, floors: Floors, has_frequency_direction: bool = True) -> dict[str, Float[Tensor, "neuron"]]:
        """Means, standard errors and shares by their column names; nan where undefined.

        Where there is no frequency direction, nothing can pass through it: that share is undefined too.
        """
        columns = {}
        for name in AVERAGED:
            if name in self.of_column:
                columns[name], columns[f"{name}_stderr"] = self.of_column[name].mean(), self.of_column[name].stderr()
        for name, (part, whole, floor) in self._shares(floors).items():
            share = share_not_in(part, whole, floor, floors.clusters_min)
            values = {name: share.value, f"{name}_stderr": share.stderr, f"{name}_low": share.low}
            if name == "frequency_mediated_share" and not has_frequency_direction:
                values = {column: torch.full_like(each, torch.nan) for column, each in values.items()}
            columns |= values
        return columns

    def _shares(self, floors: Floors) -> dict[str, tuple[ClusterSums, ClusterSums, float]]:
        """For each share what is not in it, the whole, and the mean of the whole below which it is undefined."""
        sums = self.of_column
        shares = {name: (sums[frozen], sums[total], floors.effect_nats) for name, (frozen, total) in MEDIATED.items()}
        if "argmax" in sums:
            changed = sums["argmax"]
            positions = ClusterSums(changed.counts.unsqueeze(-1).expand_as(changed.sums), changed.counts)
            shares["argmax_change_share"] = ClusterSums(positions.sums - changed.sums, changed.counts), positions, 0.0
        if "divergence" in sums:
            shares["temperature_share"] = sums["divergence_from_temperature"], sums["divergence"], floors.divergence_nats
        return shares


def evidence_from(columns: dict[str, Float[Tensor, "neuron"]]) -> Evidence:
    """The columns that the naming rules look at."""
    return Evidence(**{name: columns[name] for name in Evidence.__annotations__})
