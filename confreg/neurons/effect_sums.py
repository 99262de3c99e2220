"""From changes at each position to the columns of the neurons table: means, standard errors, mediated shares."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from confreg.neurons.ablation import EffectChanges
from confreg.neurons.selection import Evidence
from confreg.neurons.uncertainty import ClusterSums, share_not_in

# column -> the change that is averaged, in absolute value inside the mean unless the column is a signed change
AVERAGED = {
    "loss_effect": "loss",
    "loss_effect_frozen_norm": "loss_frozen_norm",
    "loss_effect_scale_only": "loss_scale_only",
    "loss_effect_frozen_frequency": "loss_frozen_frequency",
    "entropy_effect": "entropy",
    "entropy_effect_frozen_norm": "entropy_frozen_norm",
    "loss_change": "loss",
    "entropy_change": "entropy",
    "kl_from_frequency_change": "kl_from_frequency",
    "kl_from_frequency_effect": "kl_from_frequency",
    "kl_to_frequency_effect": "kl_to_frequency",
}
SIGNED = ("loss_change", "entropy_change", "kl_from_frequency_change")
# share -> (effect with the path frozen, total effect); arXiv 2406.16254, Eqs. 4 to 7
MEDIATED = {
    "norm_mediated_share": ("loss_effect_frozen_norm", "loss_effect"),
    "frequency_mediated_share": ("loss_effect_frozen_frequency", "loss_effect"),
    "entropy_norm_mediated_share": ("entropy_effect_frozen_norm", "entropy_effect"),
}


@dataclass(frozen=True)
class EffectSums:
    """Cluster sums of every averaged change; sums of different positions add up."""

    of_column: dict[str, ClusterSums]

    @classmethod
    def of(cls, changes: EffectChanges, clusters: Int[Tensor, "position"], n_clusters: int) -> EffectSums:
        """Sum the changes of each document; of a change that is None there is no column."""
        sums = {}
        for column, name in AVERAGED.items():
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

    def columns(
        self, share_floor_nats: float, clusters_min: int, has_frequency_direction: bool = True
    ) -> dict[str, Float[Tensor, "neuron"]]:
        """Means, standard errors and mediated shares by their column names; nan where undefined.

        Where there is no frequency direction, nothing can pass through it: that share is undefined too.
        """
        columns = {}
        for name, sums in self.of_column.items():
            columns[name], columns[f"{name}_stderr"] = sums.mean(), sums.stderr()
        for name, (frozen, total) in MEDIATED.items():
            share = share_not_in(self.of_column[frozen], self.of_column[total], share_floor_nats, clusters_min)
            values = {name: share.value, f"{name}_stderr": share.stderr, f"{name}_low": share.low}
            if name == "frequency_mediated_share" and not has_frequency_direction:
                values = {column: torch.full_like(each, torch.nan) for column, each in values.items()}
            columns |= values
        return columns


def evidence_from(columns: dict[str, Float[Tensor, "neuron"]]) -> Evidence:
    """The columns that the naming rules look at."""
    return Evidence(**{name: columns[name] for name in Evidence.__annotations__})
