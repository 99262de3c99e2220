"""What the neurons of every layer write, against the last layer's readout and against the model itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from confreg.models.families import FAMILIES, blocks_of, down_projection, family_of, n_layers
from confreg.models.layer_writes import layer_writes
from confreg.models.readout import Readout


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layers_writes_are_those_of_the_readout(
    make_of_family: Callable[..., PreTrainedModel], family: str, dtype: torch.dtype
) -> None:
    model = make_of_family(family, dtype)
    before = [each.clone() for each in model.parameters()]
    layers = list(layer_writes(model))
    assert len(layers) == n_layers(model) > 1
    assert layers[-1].equal(Readout.of(model).w_out)
    assert layers[-1].dtype == torch.promote_types(dtype, torch.float32)
    assert all(after.equal(each) for after, each in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "granite", "olmo2", "gemma2"])
def test_a_lower_layers_row_is_what_the_residual_gains_when_its_neuron_alone_is_active(
    make_of_family: Callable[..., PreTrainedModel], family: str
) -> None:
    model = make_of_family(family, torch.float64)
    d_model, behind = model.get_output_embeddings().weight.shape[1], family_of(model).post_mlp_norm
    projection, centres = down_projection(model, 0), Readout.of(model).residual_is_centred
    multiplier = family_of(model).residual_multiplier(model.config)
    with torch.no_grad():
        gained = projection(torch.eye(12, dtype=torch.float64)) - projection(torch.zeros(12, 12, dtype=torch.float64))
        if behind is not None:  # what the norm makes of the row, its scale taken out
            scale = (gained.square().mean(-1, keepdim=True) + 1e-12).sqrt()
            gained = blocks_of(model)[0].get_submodule(behind)(gained / scale * 1e6) * scale
        gained = multiplier * (gained - gained.mean(-1, keepdim=True) if centres else gained)
    assert gained.shape == (12, d_model)
    torch.testing.assert_close(next(iter(layer_writes(model))), gained, rtol=1e-5, atol=1e-7)
