"""A model from the settings."""

import pytest
import torch

from confreg.models.build import build_model
from confreg.settings import ModelSettings, SettingError

SMALL = {"n_layer": 2, "d_model": 16, "d_mlp": 12, "n_head": 2}


def test_the_model_has_the_sizes_of_its_settings() -> None:
    model = build_model(ModelSettings(**SMALL, dropout=0.25, norm_epsilon=1e-3), vocabulary_size=19, block_length=10, seed=0)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes["transformer.wte.weight"] == (19, 16)
    assert shapes["transformer.wpe.weight"] == (10, 16)
    assert shapes["transformer.h.1.mlp.c_proj.weight"] == (12, 16)
    assert "transformer.h.2.mlp.c_proj.weight" not in shapes
    assert model.transformer.ln_f.eps == 1e-3
    assert model.transformer.h[0].mlp.dropout.p == 0.25
    assert model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("tied", [True, False])
def test_the_unembedding_is_the_embedding_where_the_settings_say_so(tied: bool) -> None:
    model = build_model(ModelSettings(**SMALL, tied=tied), 19, 10, seed=0)
    assert (model.lm_head.weight is model.transformer.wte.weight) == tied


def test_the_seed_alone_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    first = build_model(ModelSettings(**SMALL), 19, 10, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    second, other = (build_model(ModelSettings(**SMALL), 19, 10, seed=seed) for seed in (3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"family": "gpt3"}, r"model.family is 'gpt3'; expected one of .*gpt2"),
        ({"family": "gemma2"}, r"model.family is 'gemma2'; expected one of gpt2, gpt_neox, llama\."),  # measured, not trained from scratch
        ({"activation": "gulu"}, "model.activation is 'gulu'"),
    ],
)
def test_a_family_or_activation_that_does_not_exist_is_refused_by_name(wrong: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        build_model(ModelSettings(**SMALL, **wrong), 19, 10, seed=0)


@pytest.mark.parametrize(
    ("family", "head_size", "expected"),
    [
        ("llama", 1, "enough for one pair"),
        ("llama", 3, "heads of 3 dimensions"),
        ("gpt_neox", 2, "turns 25% with"),
        ("gpt_neox", 3, "n_head is 4"),
    ],
)
def test_heads_that_cannot_turn_with_the_position_are_refused(family: str, head_size: int, expected: str) -> None:
    settings = ModelSettings(family=family, n_layer=1, d_model=4 * head_size, d_mlp=8, n_head=4)
    with pytest.raises(SettingError, match=expected):
        build_model(settings, 19, 10, seed=0)


@pytest.mark.parametrize(("family", "head_size"), [("llama", 2), ("llama", 6), ("gpt_neox", 4), ("gpt_neox", 9), ("gpt2", 1)])
def test_other_heads_tell_the_order_of_the_tokens(family: str, head_size: int) -> None:
    settings = ModelSettings(family=family, n_layer=1, d_model=3 * head_size, d_mlp=8, n_head=3)
    model = build_model(settings, 19, 10, seed=0).double().eval()
    forth = torch.arange(10)
    back = torch.cat([forth[:9].flip(0), forth[9:]])
    with torch.no_grad():
        last = [model(input_ids=tokens.unsqueeze(0)).logits[0, -1] for tokens in (forth, back)]
    assert (last[0] - last[1]).abs().max() > 1e-9  # with one layer, only the positions tell the two apart
