"""The closed form against the paper's method, written the slow way: one neuron at a time, through the model's own modules in float64.

Of every family, norm and head; nothing here asks a readout what a model does.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from confreg.interventions.downstream import downstream_log_probs
from confreg.interventions.replacing import Intervention
from confreg.models.build import build_model
from confreg.models.families import BUILDABLE, FAMILIES, final_norm, last_down_projection
from confreg.models.norms import NORMS
from confreg.models.readout import Readout, capture
from confreg.neurons.ablation import EffectChanges, Wanted
from confreg.neurons.effects import effect_changes
from confreg.neurons.frequency import Frequency
from confreg.settings import ModelSettings

N_VOCAB, NEURONS = 19, (4, 11)
COUNTS = torch.randint(0, 500, (N_VOCAB,), generator=torch.Generator().manual_seed(1))
TOKENS = torch.randint(0, 15, (3, 8), generator=torch.Generator().manual_seed(2))
SCORED = torch.ones_like(TOKENS, dtype=torch.bool)
SCORED[:, -1] = False
EVERY = Wanted(every_variant=True)
INVISIBLE = 1e-12  # so small a residual's square is nothing beside the epsilon of a norm


@contextmanager
def hooked(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def divided_by_scale_of(norm: nn.Module, residual: Tensor, other: Tensor) -> Tensor:
    """What a norm gives for a residual if it divides by its scale for another one, from nothing but what it gives.

    A norm maps x to gain * (x, centred) / scale(x) + bias, and so close to zero its scale is a constant.
    """
    linear = copy.deepcopy(norm)
    bias = getattr(linear, "bias", None)
    if bias is not None:
        nn.init.zeros_(bias)

    def scale(x: Tensor) -> Tensor:  # in units of the scale at zero
        return linear(INVISIBLE * x).norm(dim=-1, keepdim=True) / INVISIBLE / linear(x).norm(dim=-1, keepdim=True)

    return linear(residual) * scale(residual) / scale(other) + (0.0 if bias is None else norm.bias)


@dataclass
class PaperMethod:
    """A model in float64, and its neurons replaced one at a time by their mean over all positions."""

    model: PreTrainedModel
    without_rounding: Callable
    n_vocabulary: int

    def __post_init__(self) -> None:
        self.model = copy.deepcopy(self.model).double().eval()
        self.norm, self.projection, self.seen = final_norm(self.model), last_down_projection(self.model), dict[str, Tensor]()
        for name, module in (("activations", self.projection), ("residual", self.norm)):
            module.register_forward_pre_hook(lambda _module, inputs, name=name: self.seen.update({name: inputs[0]}))
        self.before = self.logits()
        self.residual, self.activations = self.seen["residual"], self.seen["activations"]
        self.means = self.activations.flatten(0, -2).mean(0)

    def logits(self) -> Tensor:
        with torch.no_grad(), self.without_rounding():
            return self.model(input_ids=TOKENS, use_cache=False).logits[..., : self.n_vocabulary]

    def logits_behind(self, residual: Tensor, other: Tensor) -> Tensor:
        """With the final norm replaced by one that divides by the scale of another residual."""
        with torch.no_grad(), self.without_rounding():
            normed = divided_by_scale_of(self.norm, residual, other)
        with hooked(self.norm.register_forward_hook(lambda *_: normed)):
            return self.logits()

    def variants(self, neuron: int) -> dict[str, Tensor]:
        changed = self.activations.clone()
        changed[..., neuron] = self.means[neuron]
        with hooked(self.projection.register_forward_pre_hook(lambda *_: (changed,))):
            total = self.logits()
        ablated = self.seen["residual"]
        frozen, scale_only = self.logits_behind(ablated, self.residual), self.logits_behind(self.residual, ablated)
        return {"total": total, "frozen_norm": frozen, "scale_only": scale_only}


def log_frequencies(n_vocabulary: int) -> Tensor:
    smoothed = COUNTS[:n_vocabulary].double() + 1
    return (smoothed / smoothed.sum()).log()


def closed_form(model: PreTrainedModel, dtype: torch.dtype, without_rounding: Callable, n_vocabulary: int) -> EffectChanges:
    """Of the scored positions, from one pass in the given dtype."""
    model = copy.deepcopy(model).to(dtype).eval()
    with without_rounding():  # transformers' own, where it computes in fp32 whatever comes
        captured = capture(model, TOKENS, n_vocabulary)
    with torch.no_grad():
        readout, tokens = Readout.of(model, n_vocabulary), captured.at(SCORED, TOKENS, torch.arange(len(TOKENS)))
        baseline = readout.baseline(tokens, Frequency.of(COUNTS[:n_vocabulary], n_vocabulary, like=readout.unembedding))
        means = captured.activations.mean((0, 1)).expand_as(tokens.activations)
        return effect_changes(baseline, readout.ablation(tokens, means, readout.writes(readout.w_out)), wanted=EVERY)


@pytest.fixture
def assert_both_agree(without_rounding: Callable, by_definition: Callable) -> Callable[..., None]:
    def agree(model: PreTrainedModel, n_vocabulary: int = N_VOCAB) -> None:
        slow, targets = PaperMethod(model, without_rounding, n_vocabulary), TOKENS.roll(-1, 1)[SCORED]
        fast = {dtype: closed_form(model, dtype, without_rounding, n_vocabulary) for dtype in (torch.float64, torch.float32)}
        for neuron in slow.activations.flatten(0, -2).std(0).topk(2).indices.tolist():  # of a ReLU's neurons many never act
            variants = {name: logits[SCORED] for name, logits in slow.variants(neuron).items()}
            expected = by_definition(slow.before[SCORED], variants, targets, log_frequencies(n_vocabulary))
            assert set(expected) == set(EVERY.names())
            assert expected["loss"].abs().max() > 1e-4
            for name, values in expected.items():
                least = {torch.float64: 1e-7, torch.float32: 1e-5}  # a minimum that steps come close to
                for dtype, exact in {torch.float64: 1e-10, torch.float32: 1e-5}.items():
                    atol = least[dtype] if name == "divergence_from_temperature" else exact
                    found = getattr(fast[dtype], name)[:, neuron].double()
                    torch.testing.assert_close(found, values, atol=atol, rtol=atol, msg=lambda text, at=(name, dtype): f"{at}: {text}")

    return agree


def with_bias(model: PreTrainedModel) -> PreTrainedModel:
    model.lm_head.bias = nn.Parameter(torch.randn(N_VOCAB, generator=torch.Generator().manual_seed(3)))
    return model


def saved_and_opened(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """As a user's own folder of weights comes back."""
    model.save_pretrained(folder)
    opened: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return opened


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_effect_of_every_family_opened_from_a_folder_is_that_of_the_papers_method(
    make_of_family: Callable, assert_both_agree: Callable, tmp_path: Path, family: str
) -> None:
    assert_both_agree(saved_and_opened(make_of_family(family), tmp_path))


@pytest.mark.parametrize("architecture", ["biogpt", "gpt_bigcode", "persimmon"])
def test_so_it_is_of_architectures_without_a_row_whose_parts_are_found_by_structure(
    make_of_family: Callable, assert_both_agree: Callable, architecture: str
) -> None:
    assert architecture not in FAMILIES
    assert_both_agree(make_of_family(architecture))


HEADS: list[tuple[str, dict[str, Any]]] = [(family, {"tie_word_embeddings": True}) for family in ("gpt2", "gemma2", "olmo2", "stablelm")]
HEADS += [("gemma2", {"final_logit_softcapping": None}), ("cohere", {"logit_scale": 3.0}), ("granite", {"residual_multiplier": 2.0})]


@pytest.mark.parametrize(("family", "own"), HEADS, ids=str)
def test_tied_and_capped_and_multiplied_heads_too(
    make_of_family: Callable, assert_both_agree: Callable, family: str, own: dict[str, Any]
) -> None:
    assert_both_agree(make_of_family(family, **own))


@pytest.mark.parametrize("family", ["cohere", "gemma2", "gpt2", "granite", "llama"])
def test_a_bias_of_the_unembedding_too(make_of_family: Callable, assert_both_agree: Callable, family: str) -> None:
    assert_both_agree(with_bias(make_of_family(family)))


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "olmo2", "phi"])
def test_a_vocabulary_without_its_padding_too(make_of_family: Callable, assert_both_agree: Callable, family: str) -> None:
    assert_both_agree(make_of_family(family), n_vocabulary=15)


@pytest.mark.parametrize("family", sorted(BUILDABLE))
@pytest.mark.parametrize("norm", sorted(NORMS))
def test_every_norm_that_a_model_may_be_built_with_too(assert_both_agree: Callable, family: str, norm: str) -> None:
    settings = ModelSettings(family=family, n_layer=2, d_model=16, d_mlp=12, n_head=2, norm=norm, norm_scope="final", output_bias=True)
    model, generator = build_model(settings, N_VOCAB, TOKENS.shape[1], seed=0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        if norm == "frozen":
            final_norm(model).divisor.fill_(0.8)  # the weights above are much larger than a new model's
    assert_both_agree(model)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_running_the_layers_above_again_gives_the_same_effects(
    make_of_family: Callable, without_rounding: Callable, by_definition: Callable, family: str
) -> None:
    model, everything = make_of_family(family, torch.float64), log_frequencies(N_VOCAB)
    fast, activations = closed_form(model, torch.float64, without_rounding, N_VOCAB), capture_activations(model, without_rounding)
    for neuron in NEURONS:
        intervention = Intervention(layer=1, replacement=activations[..., neuron].mean().item(), neurons=(neuron,))
        with without_rounding():
            before = downstream_log_probs(model, TOKENS, Intervention(1, activations[..., [neuron]], (neuron,)))
            total, frozen = (downstream_log_probs(model, TOKENS, intervention, frozen_final_norm=each) for each in (False, True))
        variants = {"total": total[SCORED], "frozen_norm": frozen[SCORED]}
        expected = by_definition(before[SCORED], variants, TOKENS.roll(-1, 1)[SCORED], everything)
        for name in ("loss", "entropy", "kl_from_frequency", "loss_frozen_norm", "entropy_frozen_norm", "kl_to_frequency", "argmax"):
            torch.testing.assert_close(getattr(fast, name)[:, neuron], expected[name], atol=1e-10, rtol=1e-10)


def capture_activations(model: PreTrainedModel, without_rounding: Callable) -> Tensor:
    with without_rounding():
        return capture(model, TOKENS).activations
