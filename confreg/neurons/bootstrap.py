"""The bootstrap over documents: slower than the formulas of the columns and with fewer assumptions; the reference to check them against."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from confreg.neurons.uncertainty import CONFIDENCE, ClusterSums

BYTES_OF_A_SERIES = 8 * 8  # for each draw: float64, eight arrays at the same time
N_DRAWS = 1999  # so that the bound is one of the draws: (1999 + 1) x 0.95 is whole
MEMORY_BYTES = 2**28


@dataclass(frozen=True)
class BootstrapInterval:
    """What resampled documents say of an estimate, one value for each series."""

    stderr: Float[Tensor, "*series"]  # standard deviation over the draws
    low: Float[Tensor, "*series"]  # lower 95 % bound, studentised: every draw measures its distance in its own standard errors


def bootstrap_mean(values: ClusterSums, seed: int, n_draws: int = N_DRAWS, memory_bytes: int = MEMORY_BYTES) -> BootstrapInterval:
    """Standard error and lower bound of the mean over positions, from whole documents drawn with replacement.

    Args:
        values: sums within each document; one without a position is never drawn.
        seed: of the draws; every other generator stays as it is.
        n_draws: each of as many documents as there are.
        memory_bytes: of temporaries; the series are done in parts that fit.

    Returns:
        float64, on the device of the sums; nan below two documents.

    Source:
        Efron & Tibshirani, An Introduction to the Bootstrap (1993), section 12.5.
    """
    counts = values.counts.reshape(-1, *[1] * (values.sums.ndim - 1)).expand_as(values.sums)
    return _bootstrap_ratio(values.sums, counts, values.counts > 0, seed, n_draws, memory_bytes)


def bootstrap_share_not_in(
    part: ClusterSums, whole: ClusterSums, seed: int, n_draws: int = N_DRAWS, memory_bytes: int = MEMORY_BYTES
) -> BootstrapInterval:
    """The same of one minus a ratio of means, as ``share_not_in`` gives it; nan where the whole is zero, and without its floor."""
    return _bootstrap_ratio(whole.sums - part.sums, whole.sums, whole.counts > 0, seed, n_draws, memory_bytes)


def _bootstrap_ratio(part: Tensor, whole: Tensor, has_positions: Tensor, seed: int, n_draws: int, memory_bytes: int) -> BootstrapInterval:
    """Of a ratio of sums over clusters, [cluster, *series]."""
    series = part.shape[1:]
    weights = _resampled_documents(int(has_positions.sum()), seed, n_draws).to(part)
    at_once = max(1, memory_bytes // (BYTES_OF_A_SERIES * n_draws))
    rows = (each[has_positions].double().reshape(len(weights[0]), -1).split(at_once, dim=1) for each in (part, whole))
    intervals = [_interval(weights, some_part, some_whole) for some_part, some_whole in zip(*rows, strict=True)]
    return BootstrapInterval(*(torch.cat(each).reshape(series) for each in zip(*intervals, strict=True)))


def _resampled_documents(n_documents: int, seed: int, n_draws: int) -> Float[Tensor, "draw document"]:
    """How often each document is drawn."""
    drawn = torch.randint(n_documents, (n_draws, n_documents), generator=torch.Generator().manual_seed(seed))
    return torch.zeros(n_draws, n_documents, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(drawn.shape, dtype=torch.float64))


def _interval(
    weights: Float[Tensor, "draw document"], part: Float[Tensor, "document series"], whole: Float[Tensor, "document series"]
) -> tuple[Float[Tensor, "series"], Float[Tensor, "series"]]:
    """Standard deviation over the draws, and the studentised lower bound."""
    n_documents = len(part)
    if n_documents < 2:
        undefined = torch.full_like(part.sum(0), torch.nan)
        return undefined, undefined
    ratio = part.sum(0) / whole.sum(0)
    residuals = part - ratio * whole
    drawn_whole = weights @ whole
    distance = weights @ residuals / drawn_whole
    squares = weights @ residuals.square() - 2 * distance * (weights @ (residuals * whole)) + distance.square() * (weights @ whole.square())
    stderrs = squares.clamp(min=0).sqrt() / drawn_whole
    # where nothing varies every draw lies at distance 0 of 0; a nan of the estimate itself stays in the bound
    studentised = (distance / stderrs).nan_to_num(0.0, torch.inf, -torch.inf)
    rank = min(len(weights), math.ceil(CONFIDENCE * (len(weights) + 1)))
    upper = studentised.kthvalue(rank, dim=0).values
    return distance.std(0), ratio - upper * residuals.square().sum(0).sqrt() / whole.sum(0)
