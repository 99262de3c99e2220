"""What a prediction is worth: loss, entropy, divergences from the token frequencies, calibration. All in nats."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

N_CALIBRATION_BINS = 15  # of equal mass


def loss_nats(log_probs: Float[Tensor, "*position vocab"], targets: Int[Tensor, "*position"]) -> Float[Tensor, "*position"]:
    """Minus the log-probability of the target at each position."""
    return -log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def entropy_nats(log_probs: Float[Tensor, "*position vocab"]) -> Float[Tensor, "*position"]:
    """Entropy of the prediction at each position; an impossible token adds nothing."""
    return -_expected(log_probs, log_probs)


def kl_from_frequency(
    log_probs: Float[Tensor, "*position vocab"], frequency_log_probs: Float[Tensor, "vocab"]
) -> Float[Tensor, "*position"]:
    """D(P_freq || P_model) at each position: the direction that the paper plots.

    Source:
        arXiv 2406.16254, section on token-frequency neurons; the axis labels of its figures name the other direction.
    """
    frequency = frequency_log_probs.exp()
    return (frequency * frequency_log_probs).sum() - log_probs @ frequency


def kl_to_frequency(log_probs: Float[Tensor, "*position vocab"], frequency_log_probs: Float[Tensor, "vocab"]) -> Float[Tensor, "*position"]:
    """D(P_model || P_freq) at each position."""
    return _expected(log_probs, log_probs) - log_probs.exp() @ frequency_log_probs


def kl_from_truth(
    truth_log_probs: Float[Tensor, "*position vocab"], log_probs: Float[Tensor, "*position vocab"]
) -> Float[Tensor, "*position"]:
    """D(P_truth || P_model) at each position; what the truth rules out adds nothing."""
    return _expected(truth_log_probs, truth_log_probs) - _expected(truth_log_probs, log_probs)


def _expected(log_probs: Float[Tensor, "*position vocab"], values: Float[Tensor, "*position vocab"]) -> Float[Tensor, "*position"]:
    """Mean of ``values`` under the prediction, where 0 x infinity is 0."""
    probs = log_probs.exp()
    return (probs * values.masked_fill(probs == 0, 0.0)).sum(-1)


def calibration_error(
    top_probability: Float[Tensor, "position"], top_is_target: Bool[Tensor, "position"], n_bins: int = N_CALIBRATION_BINS
) -> Float[Tensor, ""]:
    """Mean absolute difference between the probability of the most likely token and how often it is right.

    Positions are sorted by probability and cut into bins of equal mass (to within one position); bins weigh by their positions.

    Returns:
        A scalar in [0, 1], float64.
    """
    order = top_probability.argsort(stable=True)
    confidence, accuracy = top_probability.double()[order], top_is_target.double()[order]
    bins = torch.arange(len(order), device=order.device) * n_bins // len(order)
    gaps = torch.zeros(n_bins, dtype=torch.float64, device=order.device).index_add_(0, bins, confidence - accuracy)
    return gaps.abs().sum() / len(order)


def pearson(first: Float[Tensor, "position *series"], second: Float[Tensor, "position"]) -> Float[Tensor, "*series"]:
    """Pearson correlation of each series with ``second`` over positions, in float64; nan where one is constant."""
    second = second.double().reshape(-1, *[1] * (first.ndim - 1))
    is_constant = (first.amin(0) == first.amax(0)) | (second.amin(0) == second.amax(0))  # whose mean may be rounded away from its value
    first, second = first.double() - first.double().mean(0), second - second.mean(0)
    correlation = (first * second).sum(0) / (first.square().sum(0) * second.square().sum(0)).sqrt()
    return correlation.masked_fill(is_constant, torch.nan)
