"""Gradients of entropy and loss: against autograd, against finite differences, and where one of the two parts is known to be zero."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from confreg.neurons.attributions import (
    LOGIT_GRADIENTS,
    SplitGradient,
    last_layer_gradients,
    softcap_slope,
    split_at_final_norm,
)

STEP = 1e-5  # of an activation, for differences


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quantities(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Entropy and loss at each position by their definitions."""
    log_probs = logits.log_softmax(-1)
    return {"entropy": -(log_probs.exp() * log_probs).sum(-1), "loss": -log_probs[range(len(targets)), targets]}


@pytest.mark.parametrize("quantity", ["entropy", "loss"])
def test_logit_gradients_are_those_of_autograd(quantity: str) -> None:
    logits, targets = 3 * normal(6, 11), torch.randint(0, 11, (6,), generator=torch.Generator().manual_seed(1))
    logits.requires_grad_()
    expected = torch.autograd.grad(quantities(logits, targets)[quantity].sum(), logits)[0]
    found = LOGIT_GRADIENTS[quantity](logits.detach().log_softmax(-1), targets)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=1e-12)


def test_the_entropy_of_a_uniform_prediction_has_no_gradient_and_an_impossible_token_none() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, -torch.inf]], dtype=torch.float64)
    gradients = {name: of_logits(logits.log_softmax(-1), torch.tensor([1])) for name, of_logits in LOGIT_GRADIENTS.items()}
    torch.testing.assert_close(gradients["entropy"], torch.zeros(1, 4, dtype=torch.float64))
    torch.testing.assert_close(gradients["loss"], torch.tensor([[1 / 3, -2 / 3, 1 / 3, 0.0]], dtype=torch.float64))


def test_the_slope_of_a_softcap_is_that_of_autograd() -> None:
    logits = (20 * normal(3, 7)).requires_grad_()
    capped = 30 * torch.tanh(logits / 30)
    expected = torch.autograd.grad(capped.sum(), logits)[0]
    torch.testing.assert_close(softcap_slope(capped.detach(), 30.0), expected)


def closed_form(layer: Any, quantity: str) -> SplitGradient:
    norm, head = layer.model.transformer.ln_f, layer.model.lm_head.weight
    gained = head * norm.weight
    unembedding = gained - gained.mean(1, keepdim=True)
    centred = layer.residual - layer.residual.mean(-1, keepdim=True)
    w_out = layer.w_out - layer.w_out.mean(1, keepdim=True)
    of_logits = LOGIT_GRADIENTS[quantity](layer.logits(layer.residual).log_softmax(-1), layer.targets)
    return last_layer_gradients(of_logits, unembedding, centred, layer.scale(layer.residual), w_out)


@pytest.mark.parametrize("quantity", ["entropy", "loss"])
@pytest.mark.parametrize("part", ["total", "frozen_norm"])
def test_last_layer_gradients_are_the_finite_differences_of_the_real_final_norm_and_unembedding(
    quantity: str, part: str, make_last_layer: Callable
) -> None:
    layer = make_last_layer()
    found = getattr(closed_form(layer, quantity), part)
    scale = layer.scale(layer.residual).unsqueeze(-1) if part == "frozen_norm" else None
    for neuron, write in enumerate(layer.w_out):
        up, down = (quantities(layer_logits(layer, layer.residual + sign * STEP * write, scale), layer.targets) for sign in (1, -1))
        expected = (up[quantity] - down[quantity]) / (2 * STEP)
        torch.testing.assert_close(found[:, neuron], expected, atol=1e-8, rtol=1e-7)


def layer_logits(layer: Any, residual: Tensor, scale: Tensor | None) -> Tensor:
    """Through the real modules, or with a given scale at each position."""
    norm = layer.model.transformer.ln_f
    normed = norm(residual) if scale is None else norm.weight * (residual - residual.mean(-1, keepdim=True)) / scale + norm.bias
    return layer.model.lm_head(normed)


def test_the_two_parts_add_up_to_the_total() -> None:
    split = split_at_final_norm(normal(4, 8), normal(4, 8, seed=1), normal(4, seed=2).exp())
    assert torch.equal(split.total, split.frozen_norm + split.norm)
    along = split.along(normal(5, 8, seed=3))
    torch.testing.assert_close(along.total, split.total @ normal(5, 8, seed=3).T, atol=1e-14, rtol=1e-12)


def test_a_write_that_the_unembedding_cannot_see_acts_through_the_norm_alone(make_last_layer: Callable) -> None:
    layer = make_last_layer()
    layer.model.transformer.ln_f.weight[:2] = 0.0
    layer.model.transformer.h[-1].mlp.c_proj.weight[1] = 0.0
    layer.model.transformer.h[-1].mlp.c_proj.weight[1, :2] = torch.tensor([3.0, -3.0], dtype=torch.float64)
    for quantity in ("entropy", "loss"):
        gradient = closed_form(layer, quantity)
        assert gradient.frozen_norm[:, 1].abs().max() < 1e-14
        assert gradient.norm[:, 1].abs().min() > 1e-6


def test_a_write_orthogonal_to_the_residual_does_not_act_through_the_norm() -> None:
    residual = torch.tensor([[1.0, -1.0, 0.0, 0.0]], dtype=torch.float64)
    split = split_at_final_norm(normal(1, 4), residual, torch.tensor([0.7], dtype=torch.float64))
    assert split.along(torch.tensor([[1.0, 1.0, -1.0, -1.0]], dtype=torch.float64)).norm.item() == 0.0


def test_behind_a_constant_divisor_nothing_acts_through_the_norm() -> None:
    arguments = normal(3, 8), normal(3, 8, seed=1), torch.full((3,), 0.8, dtype=torch.float64)
    fixed, moving = (split_at_final_norm(*arguments, scale_is_fixed=each) for each in (True, False))
    assert not fixed.norm.any()
    assert moving.norm.abs().min() > 0
    assert torch.equal(fixed.frozen_norm, moving.frozen_norm)


def test_a_split_of_fp32_gradients_is_computed_in_float64() -> None:
    split = split_at_final_norm(normal(3, 8).float(), normal(3, 8, seed=1).float(), torch.ones(3))
    assert {split.frozen_norm.dtype, split.norm.dtype} == {torch.float64}
