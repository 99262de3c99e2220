"""Newton's steps towards the temperature whose prediction is nearest to a changed one, from whole rows of logits."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vecdot

N_STEPS = {torch.float32: 12, torch.float64: 40}
SMALLEST_GAIN = {torch.float32: 1e-6, torch.float64: 1e-13}  # of another step, as a share of D(p || p')


def nearest_minimum(
    beta: Float[Tensor, "pair"],
    probability: Float[Tensor, "pair vocab"],
    logit: Float[Tensor, "pair vocab"],
    change: Float[Tensor, "pair vocab"],
    divergence: Float[Tensor, "pair"],
) -> Float[Tensor, "pair"]:
    """D(p_β || p') at the minimum that Newton's steps in β lead to, halved where they do not help; never above that at β = 1.

    Args:
        beta: to start from; in fp32 near 1.
        probability: p.
        logit: z - E z.
        change: Δ - E Δ.
        divergence: D(p || p').
    """
    added, step, gain = _above_unchanged(beta, probability, logit, change)
    enough = SMALLEST_GAIN[beta.dtype] * divergence
    least, active = added.clone(), torch.arange(len(beta), device=beta.device)
    for _ in range(N_STEPS[beta.dtype]):
        goes_on = gain > enough
        if not goes_on.any():
            break
        if not goes_on.all():  # pairs that have arrived cost nothing more
            left = goes_on.nonzero()[:, 0]
            parts = (each.index_select(0, left) for each in (active, enough, beta, added, step, gain, probability, logit, change))
            active, enough, beta, added, step, gain, probability, logit, change = parts
        tried, next_step, next_gain = _above_unchanged(beta + step, probability, logit, change)
        is_better = tried < added
        beta, added = torch.where(is_better, beta + step, beta), torch.where(is_better, tried, added)
        step, gain = torch.where(is_better, next_step, step / 2), torch.where(is_better, next_gain, gain / 2)
        least[active] = added
    return torch.fmin((divergence + least).clamp(min=0), divergence.clamp(min=0))


def _above_unchanged(
    beta: Float[Tensor, "pair"],
    probability: Float[Tensor, "pair vocab"],
    logit: Float[Tensor, "pair vocab"],
    change: Float[Tensor, "pair vocab"],
) -> tuple[Float[Tensor, "pair"], Float[Tensor, "pair"], Float[Tensor, "pair"]]:
    """D(p_β || p') - D(p || p'), Newton's step in β, and what it should gain.

    Where the step would climb, it is the one to where β - 1 = Cov_β(z, Δ) / Var_β(z).
    """
    theta = (beta - 1).unsqueeze(-1)
    tilted, log_mass, mean, mean_change = _tilted(theta, probability, logit, change)
    mean_rest = theta.squeeze(-1) * mean - mean_change
    around, rest = logit - mean.unsqueeze(-1), torch.addcmul(-change, theta, logit).sub_(mean_rest.unsqueeze(-1))
    weighted = tilted.mul_(around)
    variance, slope = vecdot(weighted, around), vecdot(weighted, rest)
    curvature = variance + vecdot(weighted.mul_(around), rest)
    curvature = torch.where(curvature > variance / 4, curvature, variance).clamp(min=torch.finfo(variance.dtype).tiny)
    step = torch.minimum(torch.maximum(-slope / curvature, -0.75 * beta), 3 * beta)
    return mean_rest - log_mass, step, curvature * step.square() / 2


def _tilted(
    theta: Float[Tensor, "pair 1"],
    probability: Float[Tensor, "pair vocab"],
    logit: Float[Tensor, "pair vocab"],
    change: Float[Tensor, "pair vocab"],
) -> tuple[Float[Tensor, "pair vocab"], Float[Tensor, "pair"], Float[Tensor, "pair"], Float[Tensor, "pair"]]:
    """p_β, log E_p exp θ(z - E z), and the means under p_β of z - E z and of the change.

    In fp32 from the difference of p_β and p alone, so that nothing of a small divergence is lost; in float64 for any θ.
    """
    if theta.dtype == torch.float64:
        log_tilted = logit.log_softmax(-1).addcmul_(theta, logit)
        log_mass = log_tilted.logsumexp(-1)
        tilted = log_tilted.sub_(log_mass.unsqueeze(-1)).exp_()
        return tilted, log_mass, vecdot(tilted, logit), vecdot(tilted, change)
    difference = torch.expm1(theta * logit).mul_(probability)
    growth = difference.sum(-1)
    means = (vecdot(difference, each) / (1 + growth) for each in (logit, change))
    return (difference + probability).div_((1 + growth).unsqueeze(-1)), torch.log1p(growth), *means
