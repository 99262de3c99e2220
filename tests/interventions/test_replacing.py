"""What an intervention replaces, and that it never silently does nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from confreg.interventions.replacing import Intervention, InterventionError, replaced, site_activations
from confreg.models.families import FAMILIES, attention_output, down_projection, output_rows

Maker = Callable[..., PreTrainedModel]
TOKENS = torch.randint(0, 19, (3, 10), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_head_replaced_by_zero_writes_nothing_as_if_its_rows_of_the_output_projection_were_zero(
    make_of_family: Maker, family: str
) -> None:
    model, without_rows = make_of_family(family), make_of_family(family)
    with torch.no_grad():
        output_rows(attention_output(without_rows, 0))[8:16] = 0.0  # of two heads, the second
        expected = without_rows(input_ids=TOKENS).logits
        with replaced(model, [Intervention(0, 0.0, heads=(1,))]):
            actual = model(input_ids=TOKENS).logits
        untouched = model(input_ids=TOKENS).logits
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert (untouched - expected).abs().max() > 1e-3


def test_each_intervention_acts_on_its_own_copy_of_the_batch(make_of_family: Maker) -> None:
    model, seen = make_of_family("gpt2"), list[Tensor]()
    values = torch.arange(2.0)
    with replaced(model, [Intervention(1, 5.0, neurons=(3,)), Intervention(1, values, neurons=(4, 0))]), torch.no_grad():
        handle = down_projection(model, 1).register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        model(input_ids=TOKENS.repeat(2, 1))
        handle.remove()
    own = site_activations(model, TOKENS, 1)
    first, second = own.clone(), own.clone()
    first[..., 3] = 5.0
    second[..., 4], second[..., 0] = 0.0, 1.0
    torch.testing.assert_close(seen[0], torch.cat([first, second]), atol=1e-6, rtol=0)


def test_what_differs_between_blocks_is_cut_along_with_them() -> None:
    values = torch.randn(4, 10, 1, generator=torch.Generator().manual_seed(0))
    cut = Intervention(0, values, neurons=(2,)).in_blocks(slice(1, 3)).replacement
    assert isinstance(cut, Tensor)
    assert torch.equal(cut, values[1:3])
    same = Intervention(0, values[0], neurons=(2,))
    assert same.in_blocks(slice(1, 3)) is same


class FusedMlp(nn.Module):
    """Takes the weights of its projections and leaves the modules out, as fused kernels do."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.c_fc, self.c_proj, self.act = mlp.c_fc, mlp.c_proj, mlp.act

    def forward(self, hidden: Tensor) -> Tensor:
        return self.act(self.c_fc(hidden)) @ self.c_proj.weight + self.c_proj.bias


def test_an_intervention_on_a_module_that_is_never_called_is_an_error_and_not_an_effect_of_zero(make_of_family: Maker) -> None:
    model: Any = make_of_family("gpt2")
    model.transformer.h[1].mlp = FusedMlp(model.transformer.h[1].mlp)
    with pytest.raises(InterventionError, match=r"down projection of layer 1 .* called 0 times .* fused"):  # noqa: SIM117
        with replaced(model, [Intervention(1, 0.0, neurons=(2,))]), torch.no_grad():
            model(input_ids=TOKENS)
    with pytest.raises(InterventionError, match=r"layer 1 .* called 0 times"):
        site_activations(model, TOKENS, 1)


def test_a_module_that_runs_more_than_once_is_an_error_since_only_a_part_would_be_replaced(make_of_family: Maker) -> None:
    model: Any = make_of_family("gpt2")
    model.transformer.h[1].mlp = model.transformer.h[0].mlp
    with pytest.raises(InterventionError, match=r"called 2 times .* shared"):  # noqa: SIM117
        with replaced(model, [Intervention(1, 0.0, neurons=(2,))]), torch.no_grad():
            model(input_ids=TOKENS)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, r"neurons=\(\) and heads=\(\); expected some of the one kind"),
        ({"neurons": (1,), "heads": (0,)}, "expected some of the one kind"),
        ({"neurons": (1, 1)}, "each once"),
    ],
)
def test_an_intervention_names_neurons_or_heads_and_each_of_them_once(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Intervention(0, 0.0, **arguments)


@pytest.mark.parametrize(
    ("intervention", "text"),
    [
        (Intervention(2, 0.0, neurons=(1,)), "layer=2; expected one of the model's layers 0 to 1"),
        (Intervention(-1, 0.0, neurons=(1,)), "layer=-1"),
        (Intervention(0, 0.0, neurons=(12,)), r"neurons=\(12,\) of layer 0; expected some of 0 to 11"),
        (Intervention(0, 0.0, heads=(0, 2)), r"heads=\(0, 2\) of layer 0; expected some of 0 to 1"),
        (Intervention(0, torch.zeros(3), neurons=(1, 2)), r"shape \(3,\); expected .* \(3, 10, 2\)"),
    ],
    ids=["layer", "negative layer", "neuron", "head", "shape"],
)
def test_what_does_not_fit_the_model_is_refused_by_name(make_of_family: Maker, intervention: Intervention, text: str) -> None:
    model = make_of_family("gpt2")
    with pytest.raises(ValueError, match=text):  # noqa: SIM117
        with replaced(model, [intervention]), torch.no_grad():
            model(input_ids=TOKENS)
    assert not any(module._forward_pre_hooks for module in model.modules())
