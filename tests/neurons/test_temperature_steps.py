"""Steps towards the nearest temperature, from near and from far, of large changes and of very small ones."""

import pytest
import torch
from torch import Tensor

from confreg.neurons.temperature_steps import nearest_minimum


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """D(first || second) of log-probabilities."""
    return (first.exp() * (first - second)).sum(-1)


@pytest.mark.parametrize("beta", [0.04, 0.7, 1.0, 1.3, 8.0])
def test_steps_lead_to_a_pure_temperature_from_near_and_from_far(beta: float) -> None:
    logit = torch.randn(4, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logit = logit - (logit.softmax(-1) * logit).sum(-1, keepdim=True)
    of_p, of_new = logit.log_softmax(-1), (beta * logit).log_softmax(-1)
    for start in (0.2, 1.0, 5.0):
        change, whole = (beta - 1) * logit, divergence(of_p, of_new)
        least = nearest_minimum(torch.full((4,), start, dtype=torch.float64), of_p.exp(), logit, change, whole)
        assert least.max() < 1e-12


@pytest.mark.parametrize("confidence", [2.0, 8.0, 14.0])
def test_of_a_small_divergence_under_a_confident_prediction_no_digit_is_lost_in_fp32(confidence: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logit, change = (torch.randn(30, 400, generator=generator, dtype=torch.float64) for _ in range(2))
    logit[:, 0] += confidence
    p = logit.softmax(-1)
    logit, change = logit - (p * logit).sum(-1, keepdim=True), 0.03 * (change - (p * change).sum(-1, keepdim=True))
    whole = (p * torch.expm1(change)).sum(-1).log1p()
    exact = nearest_minimum(torch.ones(30, dtype=torch.float64), p, logit, change, whole)
    rounded = nearest_minimum(torch.ones(30), *(each.float() for each in (p, logit, change, whole)))
    assert ((rounded - exact).abs() <= 1e-5 * whole).all()
    assert (exact < whole).all()
