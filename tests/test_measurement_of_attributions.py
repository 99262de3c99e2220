"""The table of attributions as part of a measurement, beside the ablations of the same request."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from confreg import Blocks, MeasurementRequest, measure
from confreg.models.build import build_model
from confreg.models.families import BUILDABLE
from confreg.settings import ModelSettings

N_VOCAB, N_TOKENS, N_NEURONS = 19, 10, 12
COUNTS = torch.randint(0, 500, (N_VOCAB,), generator=torch.Generator().manual_seed(1))


def make_model(family: str, **settings: Any) -> PreTrainedModel:
    sizes = ModelSettings(family=family, n_layer=2, d_model=16, d_mlp=N_NEURONS, n_head=2, dropout=0.3, **settings)
    model, generator = build_model(sizes, N_VOCAB, N_TOKENS, seed=0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def blocks() -> Blocks:
    generator = torch.Generator().manual_seed(2)
    reference, measured = (torch.randint(0, N_VOCAB, (n, N_TOKENS), generator=generator) for n in (5, 20))
    return Blocks(reference, measured, excluded_ids=(2, 7))


def values(table: Any, name: str) -> np.ndarray:
    return table[name].to_numpy(zero_copy_only=False).astype(float)


def test_it_is_there_only_where_it_is_asked_for_and_changes_no_other_table(blocks: Blocks) -> None:
    model = make_model("gpt2")
    plain = measure(model, blocks, COUNTS, MeasurementRequest(control_draws=1), step=4, tokens_seen=99)
    asked = measure(model, blocks, COUNTS, MeasurementRequest(control_draws=1, attributions=True), step=4, tokens_seen=99)
    assert set(asked) == {*plain, "attributions"} == {"neurons", "model", "spectrum", "attributions"}
    assert all(asked[table].equals(rows) for table, rows in plain.items())
    rows = asked["attributions"]
    assert rows["layer"].to_pylist() == [0] * N_NEURONS + [1] * N_NEURONS
    assert set(rows["step"].to_pylist()) == {4}
    assert set(rows["tokens_seen"].to_pylist()) == {99}
    assert set(rows["weights_sha256"].to_pylist()) == set(plain["model"]["weights_sha256"].to_pylist())


@pytest.mark.parametrize("family", BUILDABLE)
def test_for_a_small_change_of_the_activation_the_last_layers_attributions_are_its_ablations(family: str, blocks: Blocks) -> None:
    request = MeasurementRequest(replacement="scaled_by_factor", replacement_factor=1.001, attributions=True)
    records = measure(make_model(family), blocks, COUNTS, request)
    last, ablated = records["attributions"].slice(N_NEURONS), records["neurons"]
    pairs = {"attribution": "change", "attribution_direct_path_absolute": "effect"}
    for quantity in ("entropy", "loss"):
        for attribution, effect in pairs.items():
            for suffix in ("", "_stderr"):
                found, expected = values(last, f"{quantity}_{attribution}{suffix}"), values(ablated, f"{quantity}_{effect}{suffix}")
                np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max(), rtol=0)


def test_the_weights_of_a_bf16_model_may_be_read_where_gradients_are_forbidden(blocks: Blocks) -> None:
    model, request = make_model("gpt2").bfloat16(), MeasurementRequest(attributions=True)
    expected = measure(model, blocks, COUNTS, request)["attributions"]
    with torch.inference_mode():  # as within Trainer.validate; the copy in fp32 is made there
        assert measure(model, blocks, COUNTS, request)["attributions"].equals(expected)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
