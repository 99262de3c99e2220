"""Where an architecture keeps its parts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from confreg.models.families import (
    FAMILIES,
    attention_output,
    blocks_of,
    family_of,
    final_norm,
    last_down_projection,
    n_layers,
    norm_paths,
    output_rows,
)
from confreg.models.norms import read_norm
from confreg.models.readout import capture


def test_the_parts_of_a_gpt2_are_those_of_its_last_layer(make_model: Callable[..., PreTrainedModel]) -> None:
    model = make_model()
    assert last_down_projection(model) is model.transformer.h[1].mlp.c_proj
    assert final_norm(model) is model.transformer.ln_f
    assert n_layers(model) == 2
    assert family_of(model).norm == "layernorm"
    norms = [model.get_submodule(path) for path in norm_paths(model)]
    assert norms == [model.transformer.h[0].ln_1, model.transformer.h[0].ln_2, *norms[2:4], model.transformer.ln_f]


def test_output_rows_are_what_one_unit_of_activation_adds_to_the_output(make_model: Callable[..., PreTrainedModel]) -> None:
    for projection in (last_down_projection(make_model()), torch.nn.Linear(12, 16)):
        rows = output_rows(projection)
        assert rows.shape == (12, 16)
        for neuron in (0, 7):
            unit = torch.zeros(1, 12)
            unit[0, neuron] = 1.0
            with torch.no_grad():
                write = projection(unit) - projection(torch.zeros(1, 12))
            torch.testing.assert_close(rows[neuron], write[0], atol=1e-6, rtol=0)


LACKING = {
    "norms behind the sum": (
        "opt",
        {"do_layer_norm_before": False},
        r"OPTForCausalLM .*: it lacks a final norm \(do_layer_norm_before=False",
    ),
    "projected embeddings": (
        "opt",
        {"word_embed_proj_dim": 8},
        r"OPTForCausalLM .*: it lacks an unembedding of the normed residual: project_out",
    ),
    "normed residual": ("bloom", {"apply_residual_connection_post_layernorm": True}, "BloomForCausalLM .* lacks a residual that its norms"),
}


@pytest.mark.parametrize(("family", "own", "text"), LACKING.values(), ids=LACKING)
def test_a_configuration_that_leaves_out_what_a_measurement_needs_is_refused_with_what_it_is(
    make_of_family: Callable, family: str, own: dict, text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        family_of(make_of_family(family, **own))


FALCONS = {
    "one norm": ({}, ["input_layernorm"]),
    "one after the other": ({"parallel_attn": False, "alibi": True}, ["input_layernorm", "post_attention_layernorm"]),
    "two norms": ({"new_decoder_architecture": True}, ["ln_attn", "ln_mlp"]),
    "one norm of the later kind": ({"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1}, ["input_layernorm"]),
}


@pytest.mark.parametrize(("own", "names"), FALCONS.values(), ids=FALCONS)
def test_the_norms_of_a_falcons_blocks_are_those_of_its_configuration(make_of_family: Callable, own: dict, names: list[str]) -> None:
    paths = norm_paths(make_of_family("falcon", **own))
    assert paths == [*(f"transformer.h.{layer}.{name}" for layer in (0, 1) for name in names), "transformer.ln_f"]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_places_of_a_row_are_there_in_every_block(make_of_family: Callable, family: str) -> None:
    model = make_of_family(family)
    assert len(blocks_of(model)) == 2
    assert attention_output(model, 0)(torch.zeros(1, 16)).shape[-1] == output_rows(last_down_projection(model)).shape[-1] == 16
    norms = [model.get_submodule(path) for path in norm_paths(model)]
    assert norms[-1] is final_norm(model)
    for norm in norms:
        read_norm(norm)
    inside = [module for module in blocks_of(model)[0].children() if "Norm" in type(module).__name__]
    assert {*map(id, inside)} == {*map(id, norms[: len(inside)])}


GATED = {
    family: "gate_up_proj" if family in ("phi3", "glm4") else "gate_proj"
    for family, row in FAMILIES.items()
    if row.gate is not None or family in ("phi3", "glm4")
}


@pytest.mark.parametrize("family", sorted(GATED))
def test_the_neuron_of_a_gated_mlp_is_the_product_of_the_gate_and_the_other_half(
    make_of_family: Callable, tokens: Tensor, family: str
) -> None:
    model, seen = make_of_family(family), {}
    mlp = blocks_of(model)[-1].mlp
    mlp.register_forward_pre_hook(lambda _module, inputs: seen.update(into=inputs[0]))
    captured = capture(model, tokens)
    with torch.no_grad():
        both = getattr(mlp, GATED[family])(seen["into"])
        gate, up = both.chunk(2, dim=-1) if GATED[family] == "gate_up_proj" else (both, mlp.up_proj(seen["into"]))
        activation = getattr(mlp, "act_fn", None) or mlp.activation_fn
        torch.testing.assert_close(captured.activations, activation(gate) * up, atol=1e-6, rtol=1e-5)
