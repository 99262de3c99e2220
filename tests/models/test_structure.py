"""Parts found by looking at a pass: those that the table says, and by name what is missing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2Model, PreTrainedModel, T5Config, T5ForConditionalGeneration

from confreg.models.families import FAMILIES, blocks_of, family_of, last_down_projection
from confreg.models.structure import PartNotFoundError, find_family

Maker = Callable[..., PreTrainedModel]
# without what a pass does not show
PLAIN: dict[str, dict[str, Any]] = {
    **{family: {"logit_scale": 1.0} for family in ("cohere", "cohere2")},
    **{family: {"final_logit_softcapping": None} for family in ("gemma2", "gemma3_text", "vaultgemma")},
    "granite": {"residual_multiplier": 1.0, "logits_scaling": 1.0},
}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_structure_tells_what_the_row_of_every_family_says(make_of_family: Maker, family: str) -> None:
    model, row = make_of_family(family, **PLAIN.get(family, {})), FAMILIES[family]
    found = find_family(model)
    for name in ("blocks", "down_projection", "attention_output", "final_norm", "post_mlp_norm"):
        assert getattr(found, name) == getattr(row, name), name
    block = blocks_of(model)[-1]
    assert sorted(found.block_norms) == sorted(name for name in row.block_norms if getattr(block, name, None) is not None)


HIDDEN = {family: (family, {}, "the readout does not rebuild the logits, .* multiplier, a soft-cap") for family in PLAIN}
HIDDEN |= {"residual multiplier": ("granite", {"logits_scaling": 1.0}, r"adds to the residual is not what mlp\.down_proj, .* a multiplier")}
HIDDEN |= {"soft-cap far above the logits": ("gemma2", {"final_logit_softcapping": 250.0}, "soft-cap")}


@pytest.mark.parametrize(("family", "own", "text"), HIDDEN.values(), ids=HIDDEN)
def test_what_a_pass_does_not_show_is_seen_to_be_there_and_refused(
    make_of_family: Maker, family: str, own: dict[str, Any], text: str
) -> None:
    with pytest.raises(PartNotFoundError, match=text):
        find_family(make_of_family(family, **own))


@pytest.mark.parametrize("n_neurons", [16, 40])
def test_a_down_projection_is_found_whatever_its_width(make_of_family: Maker, n_neurons: int) -> None:
    for family in ("gpt2", "llama"):
        model = make_of_family(family, n_inner=n_neurons, intermediate_size=n_neurons)
        assert find_family(model).down_projection == FAMILIES[family].down_projection


class MlpFirst(nn.Module):
    """A GPT-J's block, in which attention has the last word."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.ln_1, self.attn, self.mlp = block.ln_1, block.attn, block.mlp

    def forward(self, residual: Tensor, **more: Any) -> tuple[Tensor]:
        normed = self.ln_1(residual)
        written, attended = self.mlp(normed), self.attn(hidden_states=normed, **more)[0]
        return (residual + written + attended,)


@pytest.mark.parametrize("n_neurons", [12, 16])
def test_an_attention_that_runs_behind_the_mlp_is_not_taken_for_it(make_of_family: Maker, n_neurons: int) -> None:
    model: Any = make_of_family("gptj", n_inner=n_neurons)
    model.transformer.h = nn.ModuleList(MlpFirst(block) for block in model.transformer.h)
    found = find_family(model)
    assert (found.down_projection, found.attention_output) == ("mlp.fc_out", "attn.out_proj")


def test_an_attention_output_that_is_not_in_every_block_is_not_known(make_of_family: Maker) -> None:
    found = find_family(make_of_family("lfm2", layer_types=["conv", "full_attention"]))
    assert (found.down_projection, found.attention_output) == ("feed_forward.w2", None)


TINY = {"vocab_size": 19, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
UNKNOWN: dict[str, tuple[Callable[[Maker], PreTrainedModel], str]] = {
    "mixture of experts": (lambda make: make("mixtral"), r"'mixtral' .* no linear layer to d_model .* \(a mixture of experts has none\)"),
    "with a shared expert": (lambda make: make("qwen2_moe", shared_expert_intermediate_size=12), "last block adds .* a mixture of experts"),
    "encoder-decoder": (
        lambda make: T5ForConditionalGeneration(T5Config(vocab_size=19, d_model=16, d_kv=8, d_ff=12, num_layers=1, num_heads=2)),
        "'t5' .* encoder-decoder",
    ),
    "norms behind the sum": (lambda make: BertLMHeadModel(BertConfig(**TINY, intermediate_size=12, is_decoder=True)), "no list of blocks"),
    "soft-cap of its own": (lambda make: make("nanochat"), "'nanochat' .* does not rebuild the logits"),
}


@pytest.mark.parametrize(("make", "text"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_architecture_that_is_not_understood_is_refused_with_its_name_and_what_is_missing(
    make_of_family: Maker, make: Callable[[Maker], PreTrainedModel], text: str
) -> None:
    with pytest.raises(ValueError, match=rf"(?s)No row for the architecture .*{text}.* needs to know .* final norm"):
        family_of(make(make_of_family))


def without_final_norm(model: Any) -> None:
    model.transformer.ln_f = nn.Linear(16, 16)


def with_odd_final_norm(model: Any) -> None:
    model.transformer.ln_f = nn.Softsign()


def without_first_projection(model: Any) -> None:
    mlp = model.transformer.h[0].mlp
    mlp.c_proj = nn.Sequential(mlp.c_proj)


def norm_of_the_residual(model: Any) -> None:
    own = model.transformer.h[1].forward
    model.transformer.h[1].forward = lambda hidden, *rest, **more: own(nn.functional.layer_norm(hidden, (16,)), *rest, **more)


BROKEN = {
    "final norm": (without_final_norm, "no readable final norm before the unembedding: Linear"),
    "readable norm": (with_odd_final_norm, "no readable final norm before the unembedding: Softsign"),
    "block": (without_first_projection, r"no linear layer mlp\.c_proj in block 0, as the last block has it"),
    "residual": (norm_of_the_residual, "last block adds to the residual is not what .* a norm of the residual itself"),
}


@pytest.mark.parametrize(("change", "text"), BROKEN.values(), ids=BROKEN)
def test_the_missing_part_is_named(make_of_family: Maker, change: Callable[[Any], None], text: str) -> None:
    model = make_of_family("gpt2")
    change(model)
    with pytest.raises(PartNotFoundError, match=text):
        find_family(model)


def test_a_model_without_an_unembedding_is_refused() -> None:
    with pytest.raises(PartNotFoundError, match="no output embedding"):
        find_family(GPT2Model(GPT2Config(vocab_size=19, n_embd=16, n_layer=1, n_head=2)))


def test_a_search_leaves_the_model_as_it_was_to_the_bit_and_is_made_once(make_of_family: Maker) -> None:
    model = make_of_family("persimmon", attention_dropout=0.3, hidden_dropout=0.3).train()
    model.model.layers[0].eval()

    def state() -> tuple[Any, ...]:
        modules = list(model.modules())
        hooks = [(*each._forward_hooks, *each._forward_pre_hooks, *vars(each)) for each in modules]
        return hooks, [each.training for each in modules], torch.get_rng_state().tolist(), list(map(id, model.parameters()))

    before, weights, passes = state(), copy.deepcopy(model.state_dict()), list[int]()
    found = family_of(model)
    assert state() == before
    assert all(torch.equal(values, weights[name]) for name, values in model.state_dict().items())
    model.register_forward_hook(lambda *_: passes.append(1))
    assert family_of(model) is found
    assert last_down_projection(model) is model.model.layers[1].mlp.dense_4h_to_h
    assert passes == []
    assert family_of(copy.deepcopy(model)) == found
    assert passes != []
