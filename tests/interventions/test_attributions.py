"""The attributions table: first-order estimates against ablations of the real model that are small enough, and their error bars."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from confreg import Blocks, MeasurementRequest
from confreg.interventions.attributions import attribution_columns
from confreg.models.build import build_model
from confreg.models.families import down_projection, last_down_projection, output_rows
from confreg.models.norms import FrozenNorm
from confreg.records.schema import ATTRIBUTIONS, table_of
from confreg.settings import ModelSettings

N_VOCAB, N_TOKENS, N_NEURONS = 19, 10, 12
STEP = 1e-3  # of the way from the activation to its replacement


def make_model(family: str = "gpt2", **settings: Any) -> PreTrainedModel:
    """In float64, but for a Llama, whose norms compute in fp32."""
    sizes = ModelSettings(family=family, n_layer=2, d_model=16, d_mlp=N_NEURONS, n_head=2, dropout=0.2, **settings)
    model, generator = build_model(sizes, N_VOCAB, N_TOKENS, seed=0).double(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for module in model.modules():
            if isinstance(module, FrozenNorm):
                module.divisor.fill_(0.8)
    return model


@pytest.fixture
def model() -> PreTrainedModel:
    return make_model()


@pytest.fixture
def blocks() -> Blocks:
    """Seven measured blocks from five documents."""
    generator = torch.Generator().manual_seed(2)
    reference, measured = (torch.randint(0, N_VOCAB, (n, N_TOKENS), generator=generator) for n in (4, 7))
    return Blocks(reference, measured, documents=torch.tensor([8, 8, 3, 5, 3, 1, 0]), excluded_ids=(2, 7))


def ablated(model: PreTrainedModel, blocks: Blocks, layer: int, neuron: int, size: float) -> dict[str, Tensor]:
    """Entropy and loss at the scored positions with the neuron moved part of the way to its mean over the reference; by hooks."""
    seen: list[Tensor] = []
    projection = down_projection(model.eval(), layer)
    with torch.no_grad(), ExitStack() as hooks:
        hooks.callback(projection.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0])).remove)
        model(input_ids=blocks.reference)
        mean = seen[0][..., neuron].mean()

        def move(_module: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
            changed = inputs[0].clone()
            changed[..., neuron] += size * (mean - changed[..., neuron])
            return (changed,)

        hooks.callback(projection.register_forward_pre_hook(move).remove)
        log_probs = model(input_ids=blocks.measured).logits.log_softmax(-1)
    scored, targets = blocks.scored_positions(), blocks.measured.roll(-1, 1).unsqueeze(-1)
    return {"entropy": -(log_probs.exp() * log_probs).sum(-1)[scored], "loss": -log_probs.gather(-1, targets).squeeze(-1)[scored]}


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_an_attribution_is_what_a_small_enough_ablation_changes_with_its_error_over_documents(family: str, blocks: Blocks) -> None:
    model = make_model(family)
    columns = attribution_columns(model, blocks, MeasurementRequest())
    documents = blocks.clusters().unsqueeze(1).expand_as(blocks.measured)[blocks.scored_positions()]
    for row in range(0, 2 * N_NEURONS, 3):
        layer, neuron = divmod(row, N_NEURONS)
        assert (columns["layer"][row], columns["neuron"][row]) == (layer, neuron)
        up, down = (ablated(model, blocks, layer, neuron, size) for size in (STEP, -STEP))
        for quantity in ("entropy", "loss"):
            change = ((up[quantity] - down[quantity]) / (2 * STEP)).numpy()
            residual = [(change[documents == each] - change.mean()).sum() for each in range(5)]
            expected = change.mean(), math.sqrt(5 / 4 * np.square(residual).sum()) / len(change)
            found = columns[f"{quantity}_attribution"][row], columns[f"{quantity}_attribution_stderr"][row]
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("quantity", ["entropy", "loss"])
def test_in_the_last_layer_the_direct_path_is_the_whole_and_its_absolute_value_bounds_it(
    quantity: str, model: PreTrainedModel, blocks: Blocks
) -> None:
    columns = attribution_columns(model, blocks, MeasurementRequest())
    last = slice(N_NEURONS, None)
    for part in ("", "_frozen_norm", "_norm"):
        whole, direct = columns[f"{quantity}_attribution{part}"], columns[f"{quantity}_attribution_direct_path{part}"]
        torch.testing.assert_close(whole[last], direct[last], atol=1e-14, rtol=1e-10)
        assert (whole[:N_NEURONS] - direct[:N_NEURONS]).abs().min() > 1e-8
    absolute = columns[f"{quantity}_attribution_direct_path_absolute"]
    assert (absolute >= columns[f"{quantity}_attribution_direct_path"].abs()).all()
    changes = []
    for neuron in range(0, N_NEURONS, 4):
        up, down = (ablated(model, blocks, 1, neuron, size)[quantity] for size in (STEP, -STEP))
        changes.append(((up - down) / (2 * STEP)).abs().mean())
    torch.testing.assert_close(absolute[last][::4], torch.stack(changes), atol=1e-8, rtol=1e-5)


def test_the_parts_past_the_norm_and_through_it_add_up(model: PreTrainedModel, blocks: Blocks) -> None:
    columns = attribution_columns(model, blocks, MeasurementRequest())
    for name in ("entropy_attribution", "loss_attribution", "entropy_attribution_direct_path", "loss_attribution_direct_path"):
        torch.testing.assert_close(columns[name], columns[f"{name}_frozen_norm"] + columns[f"{name}_norm"], atol=1e-15, rtol=1e-12)
        assert columns[f"{name}_norm"].abs().min() > 1e-8


@pytest.mark.parametrize("norm", ["frozen", "none"])
def test_without_a_scale_of_its_own_the_part_through_the_norm_is_exactly_zero(norm: str, blocks: Blocks) -> None:
    columns = attribution_columns(make_model(norm=norm, norm_scope="final"), blocks, MeasurementRequest())
    for name in (each for each in columns if each.endswith(("_norm", "_norm_stderr")) and "frozen_norm" not in each):
        assert not columns[name].any()
    for name in ("entropy_attribution", "loss_attribution_direct_path"):
        assert torch.equal(columns[name], columns[f"{name}_frozen_norm"])
        assert columns[name].abs().min() > 0


def test_a_last_layer_write_that_the_unembedding_cannot_see_acts_through_the_norm_alone(model: PreTrainedModel, blocks: Blocks) -> None:
    with torch.no_grad():
        model.transformer.ln_f.weight[:2] = 0.0
        rows = output_rows(last_down_projection(model))
        rows[3] = 0.0
        rows[3, :2] = torch.tensor([5.0, -5.0])
    columns = attribution_columns(model, blocks, MeasurementRequest())
    unseen = N_NEURONS + 3
    for quantity in ("entropy", "loss"):
        assert abs(columns[f"{quantity}_attribution_frozen_norm"][unseen]) < 1e-14
        assert abs(columns[f"{quantity}_attribution_norm"][unseen]) > 1e-5


def test_an_activation_replaced_by_itself_is_attributed_nothing_and_twice_the_change_twice_as_much(
    model: PreTrainedModel, blocks: Blocks
) -> None:
    none, once, twice = (
        attribution_columns(model, blocks, MeasurementRequest(replacement="scaled_by_factor", replacement_factor=factor))
        for factor in (1.0, 1.25, 1.5)
    )
    for name in ATTRIBUTIONS:
        assert not none[name].any()
        torch.testing.assert_close(2 * once[name], twice[name])
    assert none["replacement"] == "scaled_by_factor(1.0)"


def test_a_drawn_replacement_does_not_depend_on_batches(model: PreTrainedModel, blocks: Blocks) -> None:
    drawn = MeasurementRequest(replacement="resampled_from_reference_tokens")
    whole, parts = (attribution_columns(model, blocks, replace(drawn, batch_blocks=size)) for size in (16, 2))
    for name in ATTRIBUTIONS:
        torch.testing.assert_close(whole[name], parts[name], atol=1e-14, rtol=1e-9)
    other = attribution_columns(model, blocks, replace(drawn, replacement_seed=1))
    assert (other["loss_attribution"] - whole["loss_attribution"]).abs().min() > 1e-8


def test_a_second_call_is_equal_to_the_bit_and_batches_change_only_rounding(model: PreTrainedModel, blocks: Blocks) -> None:
    first, again, parts = (attribution_columns(model, blocks, MeasurementRequest(batch_blocks=size)) for size in (16, 16, 3))
    for name in ATTRIBUTIONS:
        assert torch.equal(first[name], again[name])
        torch.testing.assert_close(first[name], parts[name], atol=1e-14, rtol=1e-9)


def test_fp32_keeps_the_digits_that_a_table_shows(model: PreTrainedModel, blocks: Blocks) -> None:
    exact = attribution_columns(model, blocks, MeasurementRequest())
    rounded = attribution_columns(model.float(), blocks, MeasurementRequest())
    for name in ATTRIBUTIONS:
        assert rounded[name].dtype == torch.float64
        torch.testing.assert_close(rounded[name], exact[name], atol=1e-6, rtol=1e-4)


def test_the_columns_fill_the_table_and_one_document_has_no_error(model: PreTrainedModel, blocks: Blocks) -> None:
    columns = attribution_columns(model, replace(blocks, documents=torch.zeros(7, dtype=torch.long)), MeasurementRequest())
    table = table_of("attributions", columns, 2 * N_NEURONS, {"step": 4, "tokens_seen": None, "weights_sha256": "ab"})
    assert table["neuron"].to_pylist() == [*range(N_NEURONS)] * 2
    assert table["replacement"].to_pylist() == ["mean_over_reference_tokens"] * 2 * N_NEURONS
    for name in ATTRIBUTIONS:
        assert (table[name].null_count, table[f"{name}_stderr"].null_count) == (0, 2 * N_NEURONS)
