"""Models that are as predicted pass; what is broken on purpose is named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from confreg.interventions.replacing import site_activations
from confreg.interventions.self_checks import check_interventions
from confreg.interventions.suspicions import SelfCheckError
from confreg.languages.blocks import Blocks
from confreg.models.build import build_model
from confreg.models.families import FAMILIES
from confreg.models.norms import NORMS, NormReading, read_norm
from confreg.settings import ModelSettings

Maker = Callable[..., PreTrainedModel]


@pytest.fixture
def blocks() -> Blocks:
    generator = torch.Generator().manual_seed(2)
    return Blocks(*(torch.randint(0, 19, (n, 10), generator=generator) for n in (5, 20)))


def new_model(family: str = "gpt2", **parts: Any) -> Any:
    """As a training begins: gains of one, biases of zero."""
    settings = ModelSettings(family=family, n_layer=2, d_model=16, d_mlp=12, n_head=2, dropout=0.3, **parts)
    return build_model(settings, 19, 10, seed=0)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_passes_as_a_folder_of_its_weights_opens_it(
    make_of_family: Maker, blocks: Blocks, tmp_path: Path, family: str
) -> None:
    model = make_of_family(family)
    model.save_pretrained(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(opened(input_ids=blocks.measured).logits, model(input_ids=blocks.measured).logits)
    check_interventions(opened, blocks)


FALCONS: list[dict[str, Any]] = [{"parallel_attn": False, "alibi": True}, {"new_decoder_architecture": True}]
FALCONS += [{"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1}]
VARIANTS = [("falcon", each) for each in FALCONS] + [
    ("stablelm", {"use_parallel_residual": True}),
    ("gpt_neox", {"use_parallel_residual": False}),
]
VARIANTS += [("mpt", {"attn_config": {"clip_qkv": 1.0}}), ("opt", {"enable_bias": False, "layer_norm_elementwise_affine": False})]


@pytest.mark.parametrize(("family", "own"), VARIANTS, ids=str)
def test_so_do_their_blocks_of_other_forms(make_of_family: Maker, blocks: Blocks, family: str, own: dict[str, Any]) -> None:
    check_interventions(make_of_family(family, **own), blocks)


@pytest.mark.parametrize("architecture", ["biogpt", "exaone4", "gpt_bigcode", "persimmon"])
def test_architectures_without_a_row_pass_where_their_structure_tells_their_parts(
    make_of_family: Maker, blocks: Blocks, architecture: str
) -> None:
    assert architecture not in FAMILIES
    check_interventions(make_of_family(architecture), blocks)


def test_heads_are_left_out_of_the_checks_where_the_attention_output_is_not_known(make_of_family: Maker, blocks: Blocks) -> None:
    model = make_of_family("lfm2", layer_types=["conv", "full_attention"])
    check_interventions(model, blocks)
    with pytest.raises(ValueError, match=r"attention output of this Lfm2ForCausalLM .* not known"):
        site_activations(model, blocks.measured, 1, heads=True)


@pytest.mark.parametrize("norm", sorted(NORMS))
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
def test_new_models_with_every_norm_of_ours_pass(blocks: Blocks, family: str, norm: str) -> None:
    check_interventions(new_model(family, norm=norm, output_bias=True, tied=True), blocks)


def test_a_model_is_left_as_it_was_to_the_bit_its_parameters_the_same_objects(blocks: Blocks) -> None:
    model = new_model()
    model.transformer.h[1].eval()

    def state() -> tuple[Any, ...]:
        modules = list(model.modules())
        hooks = [(*each._forward_hooks, *each._forward_pre_hooks, "forward" in vars(each)) for each in modules]
        return hooks, [each.training for each in modules], torch.get_rng_state().tolist(), list(map(id, model.parameters()))

    before, weights = state(), copy.deepcopy(model.state_dict())
    check_interventions(model, blocks)
    assert state() == before
    assert all(torch.equal(values, weights[name]) for name, values in model.state_dict().items())
    assert all(each.grad is None for each in model.parameters())


def misread(change: Callable[[NormReading], NormReading]) -> Callable[[Any], NormReading]:
    return lambda norm: change(read_norm(norm))


NORM_MISTAKES = {
    "gain": (
        lambda each: replace(each, gain=each.gain + 1.0),
        "final norm's gain is misread: it acts as 0.5 to 0.5 times .*one plus the weight",
    ),
    "gain left out": (lambda each: replace(each, gain=None), "final norm's gain is misread"),
    "bias left out": (lambda each: replace(each, bias=None), "final norm's bias is misread"),
    "epsilon": (lambda each: replace(each, epsilon=0.1), "final norm's scale is misread: its epsilon"),
    "centring": (lambda each: replace(each, centres=False), "final norm: what it centres"),
}


@pytest.mark.parametrize(("change", "suspicion"), NORM_MISTAKES.values(), ids=NORM_MISTAKES)
def test_a_final_norm_that_is_misread_is_named_in_a_model_that_has_learned_nothing_yet(
    blocks: Blocks, monkeypatch: pytest.MonkeyPatch, change: Callable[[NormReading], NormReading], suspicion: str
) -> None:
    monkeypatch.setattr("confreg.models.readout.read_norm", misread(change))
    with pytest.raises(SelfCheckError, match=rf"final norm does not do what was read of it .* Suspected: the {suspicion}"):
        check_interventions(new_model(), blocks)


def test_where_gains_are_still_one_the_message_says_that_they_were_moved_to_see_it(blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confreg.models.readout.read_norm", misread(lambda each: replace(each, gain=None)))
    with pytest.raises(SelfCheckError, match="failed: with its gains and biases moved, as training moves them, the final norm"):
        check_interventions(new_model(), blocks)


def with_head(model: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A model that does something with its logits that its row of the table does not know."""
    own = model.forward

    def forward(*inputs: Any, **more: Any) -> Any:
        output = own(*inputs, **more)
        output.logits = change(output.logits)
        return output

    model.forward = forward
    return model


HEAD_MISTAKES = {
    "multiplier": (lambda logits: 1.5 * logits, "multiplies its logits by 1.5 more than logit_multiplier"),
    "bias": (lambda logits: logits + torch.linspace(-1, 1, 19), "adds a bias that is not the unembedding's own"),
    "soft-cap": (lambda logits: 2 * torch.tanh(logits / 2), "soft-cap bends the logits"),
    "other matrix": (lambda logits: logits.roll(1, -1), "unembedding: get_output_embeddings"),
}


@pytest.mark.parametrize(("change", "suspicion"), HEAD_MISTAKES.values(), ids=HEAD_MISTAKES)
def test_a_head_that_does_more_than_its_row_says_is_named(
    make_of_family: Maker, blocks: Blocks, change: Callable[[Tensor], Tensor], suspicion: str
) -> None:
    with pytest.raises(SelfCheckError, match=rf"not what the unembedding makes of the normed residual .* Suspected: .*{suspicion}"):
        check_interventions(with_head(make_of_family("gpt2"), change), blocks)


class Followed(nn.Module):
    """An MLP whose output passes something before it joins the residual."""

    def __init__(self, mlp: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.c_fc, self.c_proj, self.act, self.change = mlp.c_fc, mlp.c_proj, mlp.act, change

    def forward(self, hidden: Tensor) -> Tensor:
        return self.change(self.c_proj(self.act(self.c_fc(hidden))))


MLP_MISTAKES = {
    "post-MLP norm": (lambda written: nn.functional.layer_norm(written, (16,)), "a post-MLP norm"),
    "multiplier": (lambda written: 0.25 * written, "multiplied by 0.25 more than residual_multiplier"),
    "another matrix": (lambda written: written * torch.linspace(0.5, 1.5, 16), "linear map behind it"),
    "no effect": (lambda written: 0.0 * written, "wrong down projection: what enters it does not reach the final residual"),
}


@pytest.mark.parametrize(("change", "suspicion"), MLP_MISTAKES.values(), ids=MLP_MISTAKES)
@pytest.mark.parametrize("is_new", [False, True])
def test_an_mlp_whose_down_projection_is_followed_by_something_is_named(
    make_of_family: Maker, blocks: Blocks, change: Callable[[Tensor], Tensor], suspicion: str, is_new: bool
) -> None:
    model: Any = new_model() if is_new else make_of_family("gpt2")
    model.transformer.h[1].mlp = Followed(model.transformer.h[1].mlp, change)
    with pytest.raises(SelfCheckError, match=rf"large write of neuron \d+ does not move the residual .* Suspected: .*{suspicion}"):
        check_interventions(model, blocks)


class Fused(Followed):
    """Takes the weights and leaves the module of the down projection out."""

    def forward(self, hidden: Tensor) -> Tensor:
        return self.act(self.c_fc(hidden)) @ self.c_proj.weight + self.c_proj.bias


def test_an_intervention_that_is_never_reached_is_named_a_fused_mlp(make_of_family: Maker, blocks: Blocks) -> None:
    model: Any = make_of_family("gpt2")
    model.transformer.h[1].mlp = Fused(model.transformer.h[1].mlp, lambda written: written)
    with pytest.raises(SelfCheckError, match=r"could not act .*layer 1 .* Suspected: a fused MLP"):
        check_interventions(model, blocks)


def test_a_prediction_that_differs_from_pass_to_pass_is_named(make_of_family: Maker, blocks: Blocks) -> None:
    calls: list[int] = []
    model = with_head(make_of_family("gpt2"), lambda logits: logits * (len(calls) + (calls.append(1) or 1)))
    with pytest.raises(SelfCheckError, match=r"neurons of layer 0, replaced by themselves, .* Suspected: passes that differ by themselves"):
        check_interventions(model, blocks)


def test_a_gate_that_is_not_all_of_the_neuron_is_named(make_of_family: Maker, blocks: Blocks) -> None:
    model: Any = make_of_family("llama")
    mlp = model.model.layers[1].mlp
    mlp.forward = lambda hidden: mlp.down_proj(mlp.act_fn(mlp.gate_proj(hidden)) * mlp.up_proj(hidden) * 2)
    with pytest.raises(SelfCheckError, match=r"not act\(gate\) \* up .* Suspected: the gated MLP"):
        check_interventions(model, blocks)


def test_a_model_whose_pass_changes_its_weights_is_named(make_of_family: Maker, blocks: Blocks) -> None:
    model: Any = make_of_family("gpt2")

    def nudge(module: Any, *_: Any) -> None:
        module.weight.data.mul_(1 + 1e-6)

    model.transformer.wpe.register_forward_hook(nudge)
    with pytest.raises(SelfCheckError, match="the weights are not what they were before the checks"):
        check_interventions(model, blocks)


def test_what_failed_by_how_much_and_what_to_do_next_stand_in_the_message(make_of_family: Maker, blocks: Blocks) -> None:
    with pytest.raises(SelfCheckError, match=r"relative error 0\.33, tolerance 1e-04.*confreg\.models\.families.*callbacks\.measure=false"):
        check_interventions(with_head(make_of_family("gpt2"), lambda logits: 1.5 * logits), blocks)


def test_a_training_that_diverged_has_nothing_to_compare_and_goes_on(make_of_family: Maker, blocks: Blocks) -> None:
    model: Any = make_of_family("gpt2")
    model.lm_head.weight.data[3] = float("nan")
    check_interventions(model, blocks)


def test_after_a_failed_check_the_models_own_gains_are_back(blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confreg.models.readout.read_norm", misread(lambda each: replace(each, gain=None)))
    model = new_model()
    before = list(map(id, model.parameters()))
    with pytest.raises(SelfCheckError, match="moved"):
        check_interventions(model, blocks)
    assert list(map(id, model.parameters())) == before
    assert (model.transformer.ln_f.weight == 1).all()
