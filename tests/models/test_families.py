"""Where an architecture keeps its parts."""

from collections.abc import Callable

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM, PreTrainedModel

from confreg.models.families import family_of, final_norm, last_down_projection, n_layers, norm_paths, output_rows


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


def test_an_architecture_without_a_row_is_refused_with_its_name_and_what_is_needed() -> None:
    sizes = {"vocab_size": 19, "hidden_size": 8, "num_hidden_layers": 1, "ffn_dim": 8, "num_attention_heads": 2, "word_embed_proj_dim": 8}
    with pytest.raises(ValueError, match=r"architecture 'opt' in confreg.models.families.*final norm"):
        family_of(OPTForCausalLM(OPTConfig(**sizes, max_position_embeddings=16)))
