"""Of every family: what the readout predicts is what the real model does, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from confreg.models.families import FAMILIES, last_down_projection
from confreg.models.readout import Readout, ScoredTokens, capture
from confreg.neurons.ablation import Ablation, Baseline
from confreg.neurons.frequency import Frequency

N_VOCAB, NEURON = 19, 4
families = pytest.mark.parametrize("family", sorted(FAMILIES))


class Read:
    """A model in float64 with its readout at all positions of some blocks."""

    def __init__(self, model: PreTrainedModel, tokens: Tensor, without_rounding: Callable, vocabulary_size: int | None = None) -> None:
        self.model, self.tokens, self.without_rounding = model, tokens, without_rounding
        self.readout = Readout.of(model, vocabulary_size)
        with without_rounding():
            self.captured = capture(model, tokens, vocabulary_size)
        self.everywhere = torch.ones_like(tokens, dtype=torch.bool)
        self.scored: ScoredTokens = self.captured.at(self.everywhere, tokens.clamp(max=(vocabulary_size or N_VOCAB) - 1), torch.arange(3))
        counts = torch.arange(vocabulary_size or N_VOCAB)
        self.baseline: Baseline = self.readout.baseline(self.scored, Frequency.of(counts, len(counts), like=self.scored.residual))

    def ablation(self, replacement: Tensor) -> Ablation:
        return self.readout.ablation(self.scored, replacement, self.readout.writes(self.readout.w_out))

    def new_log_probs(self, ablation: Ablation, index: int = NEURON) -> Tensor:
        """After one replacement, by the closed form."""
        baseline, new_scale, one = self.baseline, ablation.scale(self.baseline.scale), slice(index, index + 1)
        rest = 1 + ablation.shrink(baseline.scale, new_scale)[:, one]
        positions = torch.arange(len(new_scale))
        write = ablation.writes.rows(positions, torch.full_like(positions, index))
        logits = rest * baseline.scaled_logits + (ablation.write_change / new_scale)[:, one] * write
        if ablation.post is not None:
            logits = logits + rest * ablation.post.norm_change[:, one] * ablation.post.logits
        logits = logits + baseline.output_bias
        if baseline.softcap is not None:
            logits = baseline.softcap * torch.tanh(logits / baseline.softcap)
        return logits.log_softmax(-1)

    def ablated(self, replacement: Tensor, neurons: Sequence[int] = (NEURON,)) -> Any:
        """The model itself with some neurons replaced by a hook."""
        changed = self.captured.activations.clone()
        changed[..., list(neurons)] = replacement[list(neurons)]
        handle = last_down_projection(self.model).register_forward_pre_hook(lambda _module, inputs: (changed.view(inputs[0].shape),))
        try:
            with self.without_rounding():
                return capture(self.model, self.tokens)
        finally:
            handle.remove()


PLAIN: dict[str, Read] = {}  # nobody changes these


@pytest.fixture
def read(make_of_family: Callable, without_rounding: Callable, tokens: Tensor) -> Any:
    def plain(family: str) -> Read:
        if family not in PLAIN:
            PLAIN[family] = Read(make_of_family(family, torch.float64), tokens, without_rounding)
        return PLAIN[family]

    def make(
        family: str, change: Callable[[PreTrainedModel], object] | None = None, vocabulary_size: int | None = None, **own: Any
    ) -> Read:
        if change is vocabulary_size is None and not own:
            return plain(family)
        model = make_of_family(family, torch.float64, **own)
        if change is not None:
            with torch.no_grad():
                change(model)
        return Read(model, tokens, without_rounding, vocabulary_size)

    return make


@families
def test_the_models_own_log_probabilities_are_rebuilt_to_ten_digits(read: Callable, family: str) -> None:
    of_model = read(family)
    torch.testing.assert_close(of_model.baseline.log_probs(), of_model.scored.log_probs, atol=1e-10, rtol=0)
    spread = of_model.scored.log_probs.std(-1).mean()
    assert spread > 0.1  # else anything would agree


@families
def test_scale_and_logits_after_a_replacement_are_those_of_the_model_with_the_neuron_replaced(read: Callable, family: str) -> None:
    of_model = read(family)
    mean = of_model.captured.activations.mean((0, 1))
    direction = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    norm, everywhere = of_model.readout.norm, of_model.everywhere
    for size in (1e-4, 1.0, 1e3):
        replacement = mean + size * direction.double()
        ablation, after = of_model.ablation(replacement), of_model.ablated(replacement)
        new_scale = ablation.scale(of_model.baseline.scale)[:, NEURON]
        torch.testing.assert_close(new_scale, norm.scale(after.residual[everywhere]), atol=0, rtol=1e-10)
        torch.testing.assert_close(of_model.new_log_probs(ablation), after.logits[everywhere].log_softmax(-1), atol=1e-10, rtol=1e-10)
        assert (after.logits - of_model.captured.logits).abs().max() > 1e-6


@families
def test_scale_and_logits_after_replacing_a_group_are_those_of_the_model_with_its_neurons_replaced(read: Callable, family: str) -> None:
    of_model, groups = read(family), [[1, 4, 7], [0, 2]]
    replacement = of_model.captured.activations.mean((0, 1)) + 1
    ablation = of_model.readout.group_ablation(of_model.scored, replacement, [torch.tensor(group) for group in groups])
    new_scale = ablation.scale(of_model.baseline.scale)
    for index, group in enumerate(groups):
        after = of_model.ablated(replacement, group)
        residual, log_probs = after.residual[of_model.everywhere], after.logits[of_model.everywhere].log_softmax(-1)
        torch.testing.assert_close(new_scale[:, index], of_model.readout.norm.scale(residual), atol=0, rtol=1e-10)
        torch.testing.assert_close(of_model.new_log_probs(ablation, index), log_probs, atol=1e-10, rtol=1e-10)


@families
def test_a_replacement_by_the_activation_itself_changes_nothing_at_all(read: Callable, family: str) -> None:
    of_model = read(family)
    activations = of_model.scored.activations
    everywhere_the_same = replace(of_model.scored, activations=activations[:1].expand_as(activations))
    ablation = of_model.readout.ablation(everywhere_the_same, activations[0], of_model.readout.writes(of_model.readout.w_out))
    assert not ablation.shrink(of_model.baseline.scale, ablation.scale(of_model.baseline.scale)).any()
    assert not ablation.write_change.any()
    assert ablation.post is None or not ablation.post.norm_change.any()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["cohere", "gemma2", "olmo2", "stablelm"])
def test_tied_and_untied_unembeddings_are_read_alike(read: Callable, family: str, tied: bool) -> None:
    of_model = read(family, tie_word_embeddings=tied)
    embeddings = of_model.model.get_input_embeddings().weight
    assert (of_model.model.get_output_embeddings().weight is embeddings) == tied
    torch.testing.assert_close(of_model.baseline.log_probs(), of_model.scored.log_probs, atol=1e-10, rtol=0)


def add_bias(model: PreTrainedModel) -> None:
    model.lm_head.bias = torch.nn.Parameter(torch.randn(N_VOCAB, generator=torch.Generator().manual_seed(2), dtype=torch.float64))


@pytest.mark.parametrize("family", ["cohere", "gemma2", "granite", "phi", "vaultgemma"])
def test_a_bias_of_the_unembedding_goes_through_multiplier_and_soft_cap(read: Callable, family: str) -> None:
    of_model = read(family, change=add_bias)
    torch.testing.assert_close(of_model.baseline.log_probs(), of_model.scored.log_probs, atol=1e-10, rtol=0)
    replacement = of_model.captured.activations.mean((0, 1)) + 1
    ablation, after = of_model.ablation(replacement), of_model.ablated(replacement)
    torch.testing.assert_close(of_model.new_log_probs(ablation), after.logits[of_model.everywhere].log_softmax(-1), atol=1e-10, rtol=1e-10)


def layer_norm_behind_the_mlp(model: PreTrainedModel) -> None:
    norm = torch.nn.LayerNorm(16, eps=0.1).double()
    for parameter in norm.parameters():
        parameter.add_(torch.randn(16, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    model.model.layers[-1].post_feedforward_layernorm = norm


def nothing_behind_the_mlp(model: PreTrainedModel) -> None:
    model.model.layers[-1].post_feedforward_layernorm = torch.nn.Identity()


def layer_norm_without_bias_at_the_end(model: PreTrainedModel) -> None:
    model.model.norm = torch.nn.LayerNorm(16, bias=False).double()
    model.model.norm.weight.add_(torch.linspace(-1, 1, 16, dtype=torch.float64))


def rms_norm_of_torch_at_the_end(model: PreTrainedModel) -> None:
    model.model.norm = torch.nn.RMSNorm(16).double()
    model.model.norm.weight.add_(torch.linspace(-1, 1, 16, dtype=torch.float64))


@pytest.mark.parametrize(
    "change", [layer_norm_behind_the_mlp, nothing_behind_the_mlp, layer_norm_without_bias_at_the_end, rms_norm_of_torch_at_the_end]
)
def test_other_norms_in_those_places_are_handled_by_what_they_are(read: Callable, change: Callable) -> None:
    of_model = read("gemma2", change=change)
    torch.testing.assert_close(of_model.baseline.log_probs(), of_model.scored.log_probs, atol=1e-10, rtol=0)
    replacement = of_model.captured.activations.mean((0, 1)) + 1
    ablation, after = of_model.ablation(replacement), of_model.ablated(replacement)
    torch.testing.assert_close(of_model.new_log_probs(ablation), after.logits[of_model.everywhere].log_softmax(-1), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "phi"])
def test_padding_is_left_out_of_the_prediction_and_of_the_weights(read: Callable, family: str) -> None:
    of_model, whole = read(family, vocabulary_size=15), read(family)
    kept = whole.captured.logits[whole.everywhere][:, :15].log_softmax(-1)
    torch.testing.assert_close(of_model.scored.log_probs, kept, atol=1e-12, rtol=0)
    torch.testing.assert_close(of_model.baseline.log_probs(), kept, atol=1e-10, rtol=0)
    assert of_model.readout.unembedding.shape == (15, 16)
    assert of_model.readout.unembedding.mean(0).abs().max() < 1e-12  # the mean is that of the kept ids
    assert of_model.readout.output_bias.shape == (15,)


def test_a_target_beyond_the_vocabulary_is_refused_by_name(make_of_family: Callable, tokens: Tensor) -> None:
    model = make_of_family("phi")
    captured, scored = capture(model, tokens, 15), torch.zeros_like(tokens, dtype=torch.bool)
    position = (tokens.roll(-1, 1) >= 15).nonzero()[0]
    captured.at(scored, tokens, torch.arange(3))
    scored[tuple(position)] = True
    target = int(tokens.roll(-1, 1)[tuple(position)])
    with pytest.raises(ValueError, match=rf"Token {target} is to be predicted .* vocabulary_size is 15"):
        captured.at(scored, tokens, torch.arange(3))


def test_a_vocabulary_larger_than_the_models_is_refused(make_of_family: Callable) -> None:
    with pytest.raises(ValueError, match="vocabulary_size is 20; expected at most the 19 token ids"):
        Readout.of(make_of_family("gpt2"), 20)


def test_behind_a_soft_cap_the_weights_are_still_seen_without_the_vocabulary_mean(read: Callable) -> None:
    readout = read("gemma2").readout
    assert readout.unembedding.mean(0).abs().max() < 1e-12 < 1e-2 < readout.to_logits.mean(0).abs().max()
    torch.testing.assert_close(readout.to_logits - readout.to_logits.mean(0), readout.unembedding)
    without = read("gemma2", final_logit_softcapping=None).readout
    assert without.uncentred is None
    assert without.to_logits is without.unembedding
