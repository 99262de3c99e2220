"""An upper bound of a ratio of means that keeps its promise with few, unequal and skewed clusters."""

from __future__ import annotations

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor


def upper_bound_of_ratio(
    part: Float[Tensor, "cluster *series"], whole: Float[Tensor, "cluster *series"], confidence: float
) -> Float[Tensor, "*series"]:
    """One-sided upper bound of the ratio of two means, from the sums of each cluster.

    To first order this is the linearised bound, ratio + t stderr. Three things that one neglects count when clusters are few:

    - a large cluster draws the ratio towards itself: its residual is taken from the ratio of all others (the jackknife);
    - a draw with a small ratio comes with a small error too: the bound is the largest ratio θ that a t test of "part - θ whole has mean
      zero" would not refuse (Fieller's limit), where the scatter of the whole counts as well;
    - the rare cluster with a large part is missing in most draws: where the residuals lean to the right, the quantile of t is widened by
      Hall's transformation. It is never narrowed.

    Args:
        part: sums within each cluster, float64.
        whole: the same of the denominator; a row for every cluster that has a position, and no other.
        confidence: of the bound, e.g. 0.95.

    Returns:
        nan below three clusters, where the whole is not positive, and where one cluster is all of it.

    Source:
        Fieller, J. R. Stat. Soc. B 16 (1954) 175; Hall, J. R. Stat. Soc. B 54 (1992) 221. The three together are checked by simulation.
    """
    n_clusters, whole_sum = len(whole), whole.sum(0)
    if n_clusters < 3:
        return torch.full_like(whole_sum, torch.nan)
    ratio = torch.where(whole_sum > 0, part.sum(0) / whole_sum, torch.nan)
    quantile = float(stats.t.ppf(confidence, n_clusters - 1))
    residuals = (part - ratio * whole) / (1 - whole / whole_sum) * ((n_clusters - 1) / n_clusters)
    residuals *= _widened(quantile, _skewness(residuals) / n_clusters**0.5)
    scatter = quantile * (whole - whole_sum / n_clusters)
    # the larger root δ = θ - ratio of (whole_sum δ)² = inflation Σ (residual - δ scatter)²
    inflation = n_clusters / (n_clusters - 1)
    constant, half = inflation * residuals.square().sum(0), inflation * (residuals * scatter).sum(0)
    leading = whole_sum.square() - inflation * scatter.square().sum(0)
    root = (half.square() + leading * constant).clamp(min=0).sqrt()
    # a whole that scatters too much for the test excludes no ratio: there the widened jackknife alone has to do
    return ratio + torch.where(leading > 0, (root - half) / leading, constant.sqrt() / whole_sum)


def _skewness(residuals: Float[Tensor, "cluster *series"]) -> Float[Tensor, "*series"]:
    """Third central moment in units of the standard deviation, corrected for few clusters; 0 where nothing varies."""
    n_clusters = len(residuals)
    centred = residuals - residuals.mean(0)
    variance = centred.square().mean(0)
    skewness = centred.pow(3).mean(0) / variance.pow(1.5) * (n_clusters * (n_clusters - 1)) ** 0.5 / (n_clusters - 2)
    return torch.where(variance == 0, 0.0, skewness)


def _widened(quantile: float, skewness: Float[Tensor, "*series"]) -> Float[Tensor, "*series"]:
    """How far t falls with the probability that ``quantile`` stands for, where the values lean to the right.

    Args:
        skewness: of the values, over the root of their number: the skewness of their mean.
    """
    skewness = torch.where(skewness < 1e-6, 1e-6, skewness)  # one to the left narrows nothing; below this digits would cancel
    cube = 1 - skewness * (quantile + skewness / 6)
    return 3 * (1 - cube.sign() * cube.abs().pow(1 / 3)) / skewness
