"""Means pooled over positions, and their standard errors clustered over documents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from confreg.neurons.ratio_bounds import upper_bound_of_ratio

CONFIDENCE = 0.95  # of the one-sided lower bounds


@dataclass(frozen=True)
class ClusterSums:
    """Sums of per-position values within each cluster, and how many positions each has; float64."""

    sums: Float[Tensor, "cluster *series"]
    counts: Float[Tensor, "cluster"]

    @classmethod
    def of(cls, values: Float[Tensor, "position *series"], clusters: Int[Tensor, "position"], n_clusters: int) -> ClusterSums:
        """Sum the values of each cluster (0, 1, …, n_clusters - 1)."""
        sums = torch.zeros(n_clusters, *values.shape[1:], dtype=torch.float64, device=values.device)
        sums.index_add_(0, clusters, values.double())
        counts = torch.bincount(clusters, minlength=n_clusters).double()
        return cls(sums, counts)

    def __add__(self, other: ClusterSums) -> ClusterSums:
        return ClusterSums(self.sums + other.sums, self.counts + other.counts)

    @property
    def n_clusters(self) -> int:
        """Clusters that have a position."""
        return int((self.counts > 0).sum())

    def mean(self) -> Float[Tensor, "*series"]:
        """Mean over all positions: clusters weigh by their positions."""
        return self.sums.sum(0) / self.counts.sum()

    def stderr(self) -> Float[Tensor, "*series"]:
        """Standard error of the mean, clustered and linearised; nan below two clusters."""
        counts = self.counts.reshape(-1, *[1] * (self.sums.ndim - 1))
        return _standard_error(self.sums - self.mean() * counts, self.n_clusters) / self.counts.sum()


@dataclass(frozen=True)
class Share:
    """1 - part / whole of two means, with its standard error and its lower 95 % bound."""

    value: Float[Tensor, "*series"]
    stderr: Float[Tensor, "*series"]
    low: Float[Tensor, "*series"]


def share_not_in(part: ClusterSums, whole: ClusterSums, floor: float, clusters_min: int) -> Share:
    """One minus a ratio of means, e.g. the share of an effect that goes through the norm, from its frozen-norm part.

    Args:
        part: mean absolute effect with the path frozen.
        whole: mean absolute total effect.
        floor: below this mean of the whole, the share is nan.
        clusters_min: below so many clusters, stderr and bound are nan; the share never is for that.

    Returns:
        At most 1, negative where the frozen effect is the larger one. The standard error is linearised. The lower bound is to first order
        the share less t standard errors, and is made for few and unequal documents: see ``upper_bound_of_ratio``.
    """
    mean = whole.mean()
    ratio = torch.where(mean >= floor, part.mean() / mean, torch.nan)
    n_clusters = whole.n_clusters
    stderr = _standard_error(part.sums - ratio * whole.sums, n_clusters) / whole.sums.sum(0)
    if n_clusters < max(clusters_min, 3):
        undefined = torch.full_like(stderr, torch.nan)
        return Share(1 - ratio, undefined, undefined)
    kept = whole.counts > 0
    bound = 1 - upper_bound_of_ratio(part.sums[kept], whole.sums[kept], CONFIDENCE)
    return Share(1 - ratio, stderr, torch.where(ratio.isnan(), torch.nan, bound))


def _standard_error(residuals: Float[Tensor, "cluster *series"], n_clusters: int) -> Float[Tensor, "*series"]:
    """Root of the summed squares of cluster residuals, with the correction for few clusters."""
    if n_clusters < 2:
        return torch.full(residuals.shape[1:], torch.nan, dtype=residuals.dtype, device=residuals.device)
    return (residuals.square().sum(0) * (n_clusters / (n_clusters - 1))).sqrt()
