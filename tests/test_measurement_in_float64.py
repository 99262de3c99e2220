"""A model in float64 is measured in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from confreg import Blocks, measure
from confreg.models.families import last_down_projection

COUNTS = torch.randint(0, 500, (19,), generator=torch.Generator().manual_seed(1))


def test_effects_of_a_float64_model_are_those_of_hooks_on_it_to_ten_digits(make_of_family: Callable[..., PreTrainedModel]) -> None:
    model, generator = make_of_family("gpt2", torch.float64), torch.Generator().manual_seed(2)
    blocks = Blocks(*(torch.randint(0, 19, (n, 10), generator=generator) for n in (5, 6)))
    rows = measure(model, blocks, COUNTS)["neurons"].to_pylist()
    down, scored = last_down_projection(model), blocks.scored_positions()
    targets, kept = blocks.measured.roll(-1, 1)[scored].unsqueeze(-1), dict[str, torch.Tensor]()

    def predictions(tokens: torch.Tensor, hook: Callable) -> torch.Tensor:
        handle = down.register_forward_pre_hook(hook)
        with torch.no_grad():
            log_probs = model(input_ids=tokens).logits.log_softmax(-1)
        handle.remove()
        return log_probs

    predictions(blocks.reference, lambda _, inputs: kept.update(reference=inputs[0]))
    mean = kept["reference"].flatten(0, 1).mean(0)
    before = predictions(blocks.measured, lambda _, inputs: None)[scored]

    def entropy(log_probs: torch.Tensor) -> torch.Tensor:
        return -(log_probs.exp() * log_probs).sum(-1)

    for neuron in range(3):

        def replace(_: object, inputs: tuple, neuron: int = neuron) -> torch.Tensor:
            activations = inputs[0].clone()
            activations[..., neuron] = mean[neuron]
            return activations

        after = predictions(blocks.measured, replace)[scored]
        loss = (before - after).gather(-1, targets)
        assert rows[neuron]["loss_change"] == pytest.approx(loss.mean().item(), abs=1e-10)
        assert rows[neuron]["loss_effect"] == pytest.approx(loss.abs().mean().item(), abs=1e-10)
        assert rows[neuron]["entropy_effect"] == pytest.approx((entropy(after) - entropy(before)).abs().mean().item(), abs=1e-10)
