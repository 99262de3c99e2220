"""Every replacement through the whole measurement, against hooks on the real model that put the same values there by hand."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from confreg import Blocks, MeasurementRequest, measure
from confreg.models.build import build_model
from confreg.models.families import last_down_projection
from confreg.models.readout import capture
from confreg.neurons.replacements import drawn_reference_positions
from confreg.settings import ModelSettings

N_VOCAB, N_TOKENS, N_NEURONS, N_REFERENCE, N_MEASURED = 17, 9, 6, 5, 7
COUNTS = torch.randint(0, 500, (N_VOCAB,), generator=torch.Generator().manual_seed(1))
Columns = list[list[float]]  # neuron x reference position


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    model = build_model(ModelSettings(n_layer=1, d_model=12, d_mlp=N_NEURONS, n_head=2), N_VOCAB, N_TOKENS, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    return model.eval()


@pytest.fixture(scope="module")
def blocks() -> Blocks:
    generator = torch.Generator().manual_seed(2)
    parts = (torch.randint(0, N_VOCAB, (n, N_TOKENS), generator=generator) for n in (N_REFERENCE, N_MEASURED))
    scored = torch.rand(N_MEASURED, N_TOKENS, generator=generator) < 0.6  # another number in each block
    scored[:, -1] = False
    return Blocks(*parts, scored=scored)


def nats(model: PreTrainedModel, blocks: Blocks, neuron: int | None = None, values: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Loss and entropy at the scored positions in float64, one neuron's activations there replaced by hand."""

    def put(_module: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        activations = inputs[0].clone()
        if values is not None:
            activations[..., neuron][blocks.scored] = values
        return (activations,)

    handle = last_down_projection(model).register_forward_pre_hook(put)
    with torch.no_grad():
        log_probs = model(input_ids=blocks.measured).logits[blocks.scored].double().log_softmax(-1)
    handle.remove()
    targets = blocks.measured.roll(-1, dims=1)[blocks.scored]
    return -log_probs.gather(1, targets.unsqueeze(1)).squeeze(1), -(log_probs.exp() * log_probs).sum(-1)


# replacement with its number -> value from (activation, activations of the neuron over the reference, index of the scored position)
EXPECTED: dict[str, tuple[dict[str, Any], Callable[[float, list[float], int], float]]] = {
    "mean_over_reference_tokens": ({}, lambda n, reference, index: statistics.fmean(reference)),
    "median_over_reference_tokens": ({}, lambda n, reference, index: statistics.median(reference)),
    "zero": ({}, lambda n, reference, index: 0.0),
    "fixed_value(-2.5)": ({"replacement_value": -2.5}, lambda n, reference, index: -2.5),
    "scaled_by_factor(3.0)": ({"replacement_factor": 3.0}, lambda n, reference, index: 3 * n),
    "clipped_above_mean_over_reference_tokens": ({}, lambda n, reference, index: min(n, statistics.fmean(reference))),
    "clipped_below_mean_over_reference_tokens": ({}, lambda n, reference, index: max(n, statistics.fmean(reference))),
    "resampled_from_reference_tokens(11)": (
        {"replacement_seed": 11},
        lambda n, reference, index: reference[drawn_reference_positions(11, index + 1, len(reference))[index]],
    ),
}


@pytest.mark.parametrize("label", EXPECTED)
def test_the_effects_are_those_of_the_values_put_into_the_real_model_by_hand(model: PreTrainedModel, blocks: Blocks, label: str) -> None:
    keys, value = EXPECTED[label]
    request = MeasurementRequest(replacement=label.partition("(")[0], batch_blocks=2, **keys)
    rows = measure(model, blocks, COUNTS, request)["neurons"].to_pylist()
    reference = capture(model, blocks.reference).activations.reshape(-1, N_NEURONS).T.tolist()
    activations = capture(model, blocks.measured).activations[blocks.scored].T.tolist()
    before = nats(model, blocks)
    assert [row["replacement"] for row in rows] == N_NEURONS * [label]
    for neuron, row in enumerate(rows):
        values = [value(n, reference[neuron], index) for index, n in enumerate(activations[neuron])]
        loss, entropy = (new - old for new, old in zip(nats(model, blocks, neuron, torch.tensor(values)), before, strict=True))
        expected = {"loss_effect": loss.abs(), "loss_change": loss, "entropy_effect": entropy.abs(), "entropy_change": entropy}
        for name, each in expected.items():
            assert row[name] == pytest.approx(each.mean().item(), abs=1e-5), (neuron, name)


def test_a_factor_of_one_changes_nothing_and_leaves_the_shares_undefined(model: PreTrainedModel, blocks: Blocks) -> None:
    request = MeasurementRequest(replacement="scaled_by_factor", replacement_factor=1.0, control_draws=1)
    for row in measure(model, blocks, COUNTS, request)["neurons"].to_pylist():
        assert (row["loss_effect"], row["entropy_effect"], row["kl_from_frequency_effect"]) == (0.0, 0.0, 0.0)
        assert row["norm_mediated_share"] is None
        assert [row["is_entropy_neuron"], row["is_frequency_neuron"]] == [False, False]


def test_both_clips_together_do_what_the_mean_does(model: PreTrainedModel, blocks: Blocks) -> None:
    names = ("mean_over_reference_tokens", *(f"clipped_{side}_mean_over_reference_tokens" for side in ("above", "below")))
    whole, above, below = (measure(model, blocks, COUNTS, MeasurementRequest(replacement=name))["neurons"] for name in names)
    for name in ("loss_effect", "entropy_change", "kl_from_frequency_change"):
        parts = [sum(pair) for pair in zip(above[name].to_pylist(), below[name].to_pylist(), strict=True)]
        assert parts == pytest.approx(whole[name].to_pylist(), abs=1e-6)  # each position is on one side


def test_resampled_rows_do_not_depend_on_the_batches(model: PreTrainedModel, blocks: Blocks) -> None:
    request = MeasurementRequest(replacement="resampled_from_reference_tokens")
    one, other = (measure(model, blocks, COUNTS, replace(request, batch_blocks=n))["neurons"] for n in (1, 16))
    for name in ("loss_effect", "loss_effect_stderr", "entropy_change"):
        assert one[name].to_pylist() == pytest.approx(other[name].to_pylist(), abs=1e-6)


def test_the_draws_depend_on_their_seed_and_on_nothing_else(model: PreTrainedModel, blocks: Blocks) -> None:
    def effects(**keys: int) -> list[float]:
        request = MeasurementRequest(replacement="resampled_from_reference_tokens", **keys)
        return measure(model, blocks, COUNTS, request)["neurons"]["loss_effect"].to_pylist()

    torch.manual_seed(5)
    first = effects()
    torch.manual_seed(6)
    assert effects() == first == effects(control_draws=1, control_seed=9)
    assert effects(replacement_seed=1) != first


def test_the_median_within_a_small_memory_is_the_same(model: PreTrainedModel, blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    request = MeasurementRequest(replacement="median_over_reference_tokens")
    expected = measure(model, blocks, COUNTS, request)["neurons"]
    monkeypatch.setattr("confreg.neurons.replacements.MEBIBYTE", 1)  # 512 bytes: two neurons of 45 reference positions at a time
    assert measure(model, blocks, COUNTS, request)["neurons"].equals(expected)
