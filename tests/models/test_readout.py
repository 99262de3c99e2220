"""What measurements see of a model is the model's own, and the model is left as it was."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from confreg.models.build import build_model
from confreg.models.families import BUILDABLE, last_down_projection
from confreg.models.norms import NORMS
from confreg.models.readout import Captured, Readout, capture
from confreg.models.undisturbed import undisturbed
from confreg.neurons.frequency import Frequency
from confreg.settings import ModelSettings

Maker = Callable[..., PreTrainedModel]
EVERYWHERE = torch.ones(3, 10, dtype=torch.bool)
FREQUENCY = Frequency.of(torch.arange(19), 19, like=torch.zeros(1))


def state_of(model: PreTrainedModel) -> tuple[dict[str, Tensor], list[bool], list[int], Tensor]:
    """Weights, modes, number of hooks of every module, random state."""
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    weights = {name: parameter.detach().clone() for name, parameter in model.state_dict().items()}
    return weights, [module.training for module in model.modules()], hooks, torch.get_rng_state()


def assert_same_state(before: tuple, after: tuple) -> None:
    assert all(torch.equal(values, after[0][name]) for name, values in before[0].items())
    assert before[1:3] == after[1:3]
    assert torch.equal(before[3], after[3])


@pytest.mark.parametrize("tied", [False, True])
def test_the_models_own_logits_are_rebuilt_from_the_readout(make_model: Maker, tokens: Tensor, tied: bool) -> None:
    model = make_model(tied=tied).eval()
    readout, captured = Readout.of(model), capture(model, tokens)
    with torch.no_grad():
        expected = model(input_ids=tokens).logits
    scale = readout.norm.scale(captured.residual).float().unsqueeze(-1)
    rebuilt = captured.residual @ readout.unembedding.T / scale + readout.output_bias
    torch.testing.assert_close(rebuilt, expected - expected.mean(-1, keepdim=True), atol=2e-5, rtol=1e-5)
    baseline = readout.baseline(captured.at(EVERYWHERE, tokens, torch.arange(3)), FREQUENCY)
    torch.testing.assert_close(baseline.log_probs(), expected[EVERYWHERE].log_softmax(-1), atol=2e-5, rtol=1e-5)


def test_the_bias_of_an_unembedding_is_part_of_the_readout(make_model: Maker, tokens: Tensor) -> None:
    model = make_model().eval()
    model.lm_head.bias = torch.nn.Parameter(torch.randn(19, generator=torch.Generator().manual_seed(2)))
    readout, captured = Readout.of(model), capture(model, tokens)
    baseline = readout.baseline(captured.at(EVERYWHERE, tokens, torch.arange(3)), FREQUENCY)
    torch.testing.assert_close(baseline.log_probs(), captured.logits[EVERYWHERE].log_softmax(-1), atol=2e-5, rtol=1e-5)


def test_the_readout_has_the_vocabulary_mean_and_the_residual_mean_taken_out(make_model: Maker) -> None:
    readout = Readout.of(make_model())
    assert readout.unembedding.mean(0).abs().max() < 1e-6
    assert readout.unembedding.mean(1).abs().max() < 1e-6
    assert readout.w_out.mean(1).abs().max() < 1e-6
    assert readout.output_bias.mean().abs() < 1e-6
    assert (readout.layer, readout.usable_dimensions, readout.residual_is_centred) == (1, 15, True)


def test_the_scale_is_what_the_final_norm_divides_by(make_model: Maker, tokens: Tensor) -> None:
    model = make_model().eval()
    captured = capture(model, tokens)
    norm, x = model.transformer.ln_f, captured.residual
    scale = Readout.of(model).norm.scale(x).float().unsqueeze(-1)
    with torch.no_grad():
        torch.testing.assert_close(norm.weight * (x - x.mean(-1, keepdim=True)) / scale + norm.bias, norm(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_reading_and_capturing_leave_the_model_as_it_was(make_model: Maker, tokens: Tensor, tied: bool) -> None:
    model = make_model(tied=tied, dropout=0.0)
    before = state_of(model)
    readout = Readout.of(model)
    at = capture(model, tokens).at(EVERYWHERE, tokens, torch.arange(3))
    readout.baseline(at, FREQUENCY)
    readout.ablation(at, torch.zeros(12), readout.writes(readout.w_out))
    assert_same_state(before, state_of(model))
    assert (model.lm_head.weight is model.transformer.wte.weight) == tied


def test_captured_activations_and_residual_are_what_the_down_projection_and_the_final_norm_receive(
    make_model: Maker, tokens: Tensor
) -> None:
    model = make_model().eval()
    captured = capture(model, tokens)
    changed = captured.activations.clone()
    changed[..., 4] = 2.5
    handle = last_down_projection(model).register_forward_pre_hook(lambda _module, _inputs: (changed,))
    after = capture(model, tokens)
    handle.remove()
    difference = (2.5 - captured.activations[..., 4]).unsqueeze(-1) * model.transformer.h[1].mlp.c_proj.weight[4]
    torch.testing.assert_close(after.residual - captured.residual, difference.detach(), atol=1e-5, rtol=1e-5)
    assert not captured.logits.requires_grad


def test_the_ablation_of_the_readout_predicts_the_residual_and_the_logits_of_the_ablated_model(make_model: Maker, tokens: Tensor) -> None:
    model = make_model().eval()
    readout, captured = Readout.of(model), capture(model, tokens)
    at = captured.at(EVERYWHERE, tokens, torch.arange(3))
    replacement = torch.randn(12, generator=torch.Generator().manual_seed(1))
    baseline, ablation = readout.baseline(at, FREQUENCY), readout.ablation(at, replacement, readout.writes(readout.w_out))
    new_scale = ablation.scale(baseline.scale)[:, 4:5].float()
    change = ablation.activation_change[:, 4:5]
    logits = (
        baseline.scale.float().unsqueeze(1) * baseline.scaled_logits + change * ablation.writes.to_tokens(slice(None))[4]
    ) / new_scale + baseline.output_bias
    with torch.no_grad():
        residual = at.residual + (replacement[4] - at.activations[:, 4:5]) * model.transformer.h[1].mlp.c_proj.weight[4]
        expected = model.lm_head(model.transformer.ln_f(residual))
    torch.testing.assert_close(new_scale.squeeze(1), readout.norm.scale(residual).float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits.log_softmax(-1), expected.log_softmax(-1), atol=2e-5, rtol=1e-5)


def test_each_scored_position_comes_with_the_token_that_follows_and_its_document(tokens: Tensor) -> None:
    numbers = torch.arange(30.0).reshape(3, 10, 1)
    scored = torch.zeros(3, 10, dtype=torch.bool)
    scored[0, 4] = scored[2, 3] = scored[2, 8] = True
    at = Captured(numbers, 100 + numbers, torch.zeros(3, 10, 19)).at(scored, tokens, torch.tensor([7, 8, 9]))
    assert at.activations.flatten().tolist() == [4, 23, 28]
    assert at.residual.flatten().tolist() == [104, 123, 128]
    assert at.targets.tolist() == [int(tokens[0, 5]), int(tokens[2, 4]), int(tokens[2, 9])]
    assert at.clusters.tolist() == [7, 9, 9]


def test_within_undisturbed_the_model_evaluates_and_afterwards_every_mode_and_the_random_state_are_as_before(make_model: Maker) -> None:
    model = make_model()
    model.transformer.h[0].eval()
    before = state_of(model)
    with undisturbed(model):
        assert not any(module.training for module in model.modules())
        torch.rand(100)
    assert_same_state(before, state_of(model))


def test_an_error_on_the_way_leaves_modes_hooks_and_random_state_as_before(make_model: Maker, tokens: Tensor) -> None:
    model = make_model()
    before = state_of(model)
    outside_vocabulary = torch.full_like(tokens, 19)

    @undisturbed(model)
    def fail() -> None:
        torch.rand(100)
        capture(model, outside_vocabulary)

    with pytest.raises(IndexError):
        fail()
    assert_same_state(before, state_of(model))


def test_a_readout_without_centring_keeps_the_mean_of_the_residual(make_model: Maker) -> None:
    readout = Readout.of(make_model())
    readout = replace(readout, norm=replace(readout.norm, centres=False))
    residual = torch.tensor([[3.0] * 16])
    assert readout.norm.scale(residual).item() == pytest.approx(3.0, abs=1e-4)
    assert torch.equal(readout.norm.centred(residual), residual)
    assert readout.usable_dimensions == 16


def test_the_scale_after_removing_a_write_that_is_nearly_all_of_the_residual_keeps_its_digits(make_model: Maker, tokens: Tensor) -> None:
    model = make_model().eval()
    with torch.no_grad():
        model.transformer.h[1].mlp.c_proj.weight[4] *= 3000
    readout, at = Readout.of(model), capture(model, tokens).at(EVERYWHERE, tokens, torch.arange(3))
    baseline, ablation = readout.baseline(at, FREQUENCY), readout.ablation(at, torch.zeros(12), readout.writes(readout.w_out))
    write = model.transformer.h[1].mlp.c_proj.weight[4].detach().double()
    rest = at.residual.double() - at.activations[:, 4:5].double() * write
    torch.testing.assert_close(ablation.scale(baseline.scale)[:, 4], readout.norm.scale(rest), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("norm", [None, *sorted(NORMS)])
@pytest.mark.parametrize("family", sorted(BUILDABLE))
def test_every_family_with_every_norm_has_its_logits_rebuilt_and_its_neurons_behind_the_gate(
    family: str, norm: str | None, tied: bool, tokens: Tensor
) -> None:
    sizes = {"n_layer": 2, "d_model": 16, "d_mlp": 12, "n_head": 2}
    model = build_model(ModelSettings(family=family, **sizes, tied=tied, norm=norm, output_bias=tied), 19, 10, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    readout, captured = Readout.of(model), capture(model, tokens)
    assert captured.activations.shape == (3, 10, 12)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    baseline = readout.baseline(captured.at(EVERYWHERE, tokens, torch.arange(3)), FREQUENCY)
    torch.testing.assert_close(baseline.log_probs(), captured.logits[EVERYWHERE].log_softmax(-1), atol=2e-4, rtol=1e-4)
    centres = norm == "layernorm" or (family != "llama" and norm in (None, "frozen"))
    assert (readout.residual_is_centred, readout.usable_dimensions) == (centres, 16 - centres)


def test_logits_of_some_positions_alone_are_those_that_all_positions_give(make_model: Maker, tokens: Tensor) -> None:
    model, scored = make_model().eval(), torch.rand(tokens.shape, generator=torch.Generator().manual_seed(3)) < 0.4
    whole, some = capture(model, tokens), capture(model, tokens, logits_at=scored)
    assert some.logits.shape == (int(scored.sum()), 19)
    torch.testing.assert_close(some.logits, whole.logits[scored])
    assert torch.equal(some.residual, whole.residual)
    documents = torch.arange(3)
    torch.testing.assert_close(some.at(scored, tokens, documents).log_probs, whole.at(scored, tokens, documents).log_probs)
    nothing = capture(model, tokens, logits_at=torch.zeros_like(scored))
    assert nothing.logits.shape == (0, 19)
    assert torch.equal(nothing.activations, whole.activations)


@pytest.mark.parametrize("allowed", ["highest", "high", "medium"])
def test_products_are_in_full_fp32_within_whatever_is_allowed_outside(make_model: Maker, allowed: str) -> None:
    before = torch.get_float32_matmul_precision()

    @undisturbed(make_model())
    def fail() -> None:
        assert torch.get_float32_matmul_precision() == "highest"
        raise ZeroDivisionError

    try:
        torch.set_float32_matmul_precision(allowed)
        with pytest.raises(ZeroDivisionError):
            fail()
        assert torch.get_float32_matmul_precision() == allowed
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_backend_that_was_told_by_itself_to_round_products_is_told_so_again(make_model: Maker) -> None:
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    try:
        products.fp32_precision = "tf32"  # torch refuses to name one precision for all then
        with undisturbed(make_model()):
            assert torch.get_float32_matmul_precision() == "highest"
            assert products.fp32_precision == "ieee"
        assert products.fp32_precision == "tf32"
    finally:
        products.fp32_precision = before
