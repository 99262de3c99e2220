"""Gradients for every layer's neurons against finite differences of the real model in float64, and what tracing must leave alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from confreg.interventions.gradients import TracedPass, blocks_in_memory, differentiable, layer_activations, layer_widths
from confreg.models.families import FAMILIES, blocks_of, down_projection, family_of, final_norm
from confreg.models.norms import FrozenNorm, read_norm
from confreg.models.readout import Readout, capture
from confreg.models.swaps import swap_parts
from confreg.neurons.attributions import LOGIT_GRADIENTS, last_layer_gradients, softcap_slope
from confreg.settings import ModelSettings

N_VOCAB, N_TOKENS, D_MODEL, N_NEURONS = 19, 8, 16, 12
STEP = 1e-5  # of the activations along a random direction
SIZES = {
    "vocab_size": N_VOCAB,
    "hidden_size": D_MODEL,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": N_NEURONS,
    "max_position_embeddings": N_TOKENS,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
OWN_SETTINGS = {  # other names of the same sizes, and multipliers and soft-caps that matter
    "bloom": {"n_layer": 2, "n_head": 2},
    "cohere": {"logit_scale": 0.7},
    "cohere2": {"logit_scale": 1.4},
    "falcon": {"ffn_hidden_size": N_NEURONS, "bias": True},
    "gemma2": {"final_logit_softcapping": 4.0},
    "granite": {"residual_multiplier": 0.6, "logits_scaling": 1.7},
    "vaultgemma": {"final_logit_softcapping": 4.0},
    "gpt2": {"n_inner": N_NEURONS},
    "gptj": {"n_inner": N_NEURONS, "rotary_dim": 4},
    "gpt_neo": {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]], "window_size": 4},
    "opt": {"ffn_dim": N_NEURONS},
}
DERIVED = {"falcon": ("head_dim",)}  # what a configuration works out by itself


class InFloat64(TorchFunctionMode):
    """Nothing is rounded to fp32 on the way, as many norms of transformers do whatever their input."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if isinstance(args[0] if args else None, Tensor) and args[0].dtype == torch.float64:
            if func is Tensor.float or (func is Tensor.to and torch.float32 in (*args[1:], *kwargs.values())):
                return args[0]
            if kwargs.get("dtype") == torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    with InFloat64():
        yield


def make_model(family: str, **swaps: Any) -> PreTrainedModel:
    """Tiny, in float64 and in training mode, with gains and biases that matter."""
    torch.manual_seed(0)
    sizes = {name: size for name, size in SIZES.items() if name not in DERIVED.get(family, ())}
    config = AutoConfig.for_model(family, **{**sizes, **OWN_SETTINGS.get(family, {})})
    model = AutoModelForCausalLM.from_config(config).train()
    if swaps:
        swap_parts(model, ModelSettings(family=family, d_model=D_MODEL, **swaps), N_TOKENS, seed=0)
    model, generator = model.double(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for module in model.modules():
            if isinstance(module, FrozenNorm):
                module.divisor.fill_(0.8)
    return model


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, N_VOCAB, (3, N_TOKENS), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def scored() -> Tensor:
    scored = torch.rand(3, N_TOKENS, generator=torch.Generator().manual_seed(3)) < 0.5
    scored[:, -1] = False
    return scored


@contextmanager
def replaced(*changes: tuple[Any, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Within, each module gets what its function makes of its input."""
    with ExitStack() as hooks:
        for module, change in changes:
            hooks.callback(module.register_forward_pre_hook(lambda _module, inputs, change=change: (change(inputs[0]),)).remove)
        yield


def sums_of(logits: Tensor, tokens: Tensor, scored: Tensor) -> Tensor:
    """Entropy and loss, summed over the scored positions."""
    log_probs = logits.log_softmax(-1)
    entropy, loss = -(log_probs.exp() * log_probs).sum(-1), -log_probs[:, :-1].gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)
    return torch.stack([entropy[scored].sum(), loss[scored[:, :-1]].sum()])


class Perturbed:
    """A model whose activations in one layer are moved a little along a direction, run for real."""

    def __init__(self, model: PreTrainedModel, tokens: Tensor, scored: Tensor, layer: int, direction: Tensor) -> None:
        self.model, self.tokens, self.scored, self.layer, self.direction = model, tokens, scored, layer, direction
        self.clean_write, self.clean_residual = self.run(0.0)[1:]

    def run(self, size: float, frozen_norm: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, what the layer's MLP adds to the residual, and the residual before the final norm."""
        seen: dict[str, Tensor] = {}
        family, norm = family_of(self.model), final_norm(self.model)
        projection = down_projection(self.model, self.layer)
        last = projection if family.post_mlp_norm is None else blocks_of(self.model)[self.layer].get_submodule(family.post_mlp_norm)

        def note(name: str) -> Any:
            return lambda _module, inputs, output: seen.update({name: inputs[0] if name == "residual" else output})

        with ExitStack() as hooks, torch.no_grad():
            hooks.callback(norm.register_forward_hook(note("residual")).remove)
            hooks.callback(last.register_forward_hook(note("write")).remove)
            if frozen_norm:
                hooks.enter_context(self.clean_scale(norm))
            hooks.enter_context(replaced((projection, lambda x: x + size * self.direction.view(x.shape))))
            logits = self.model(input_ids=self.tokens, use_cache=False).logits
        return logits, seen["write"], seen["residual"]

    @contextmanager
    def clean_scale(self, norm: Any) -> Iterator[None]:
        reading = read_norm(norm)
        scale = reading.scale(self.clean_residual).unsqueeze(-1)
        gain, bias = (0.0 if each is None else each for each in (reading.gain, reading.bias))
        gain = 1.0 if reading.gain is None else gain
        handle = norm.register_forward_hook(lambda _module, inputs, _output: gain * reading.centred(inputs[0]) / scale + bias)
        yield
        handle.remove()

    def past_the_layers_above(self, write: Tensor, frozen_norm: bool) -> Tensor:
        """Logits where the layer's write to the final residual is this one, and nothing else changes."""
        multiplier, norm = family_of(self.model).residual_multiplier(self.model.config), final_norm(self.model)
        residual = self.clean_residual + multiplier * (write - self.clean_write).view(self.clean_residual.shape)
        with ExitStack() as hooks, torch.no_grad():
            if frozen_norm:
                hooks.enter_context(self.clean_scale(norm))
            hooks.enter_context(replaced((norm, lambda _x: residual)))
            return self.model(input_ids=self.tokens, use_cache=False).logits

    def derivatives(self) -> dict[str, Tensor]:
        """Of entropy and loss, by differences: through all layers and past them, total and with the final norm's scale kept."""
        sides: list[dict[str, Tensor]] = []
        for size in (STEP, -STEP):
            logits, write, _ = self.run(size)
            at = {
                "total": logits,
                "frozen_norm": self.run(size, frozen_norm=True)[0],
                "direct_path_total": self.past_the_layers_above(write, frozen_norm=False),
                "direct_path_frozen_norm": self.past_the_layers_above(write, frozen_norm=True),
            }
            sides.append({part: sums_of(each, self.tokens, self.scored) for part, each in at.items()})
        return {part: (up - sides[1][part]) / (2 * STEP) for part, up in sides[0].items()}


def assert_gradients_are_those_of_the_real_model(model: PreTrainedModel, tokens: Tensor, scored: Tensor) -> None:
    generator = torch.Generator().manual_seed(4)
    with differentiable(model) as traceable:
        traced = TracedPass(traceable, tokens, scored)
        gradients = [
            {
                **{part: traced.through_all_layers(getattr(of_residual, part)) for part in ("total", "frozen_norm")},
                **{f"direct_path_{part}": [*traced.through_direct_path(getattr(of_residual, part))] for part in ("total", "frozen_norm")},
            }
            for _, of_residual in traced.of_final_residual()
        ]
    model.eval()
    for layer, width in enumerate(layer_widths(model)):
        direction = torch.randn(*tokens.shape, width, generator=generator, dtype=torch.float64)
        for part, expected in Perturbed(model, tokens, scored, layer, direction).derivatives().items():
            found = torch.stack([(of_quantity[part][layer] * direction).sum() for of_quantity in gradients])
            torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-7, msg=lambda text, name=f"{part} {layer}": f"{name}: {text}")


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_gradients_of_every_layer_and_family_are_the_finite_differences_of_the_real_model(
    family: str, tokens: Tensor, scored: Tensor
) -> None:
    assert_gradients_are_those_of_the_real_model(make_model(family), tokens, scored)


@pytest.mark.parametrize("scope", ["all", "final"])
@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm", "frozen", "none"])
def test_so_they_are_behind_every_norm_of_our_own(norm: str, scope: str, tokens: Tensor, scored: Tensor) -> None:
    model = make_model("gpt2", norm=norm, norm_scope=scope, output_bias=True)
    assert_gradients_are_those_of_the_real_model(model, tokens, scored)


@pytest.mark.parametrize("family", [name for name in sorted(FAMILIES) if FAMILIES[name].post_mlp_norm is None])
def test_in_the_last_layer_they_are_those_of_the_closed_form_from_the_readout(family: str, tokens: Tensor, scored: Tensor) -> None:
    model = make_model(family).eval()
    softcap, readout, captured = FAMILIES[family].softcap(model.config), Readout.of(model), capture(model, tokens)
    residual, logits = captured.residual[scored], captured.logits[scored]
    slope = 1.0 if softcap is None else softcap_slope(logits, softcap)
    log_probs, targets = logits.log_softmax(-1), tokens.roll(-1, 1)[scored]
    with differentiable(model) as traceable:
        traced = TracedPass(traceable, tokens, scored)
        for quantity, of_residual in traced.of_final_residual():
            expected = last_layer_gradients(
                LOGIT_GRADIENTS[quantity](log_probs, targets) * slope,
                readout.to_logits,
                readout.norm.centred(residual),
                readout.norm.scale(residual),
                readout.w_out,
            )
            for part in ("frozen_norm", "norm", "total"):
                for carry in (traced.through_all_layers, traced.through_direct_path):
                    of_last = [*carry(getattr(of_residual, part))][-1]
                    torch.testing.assert_close(of_last[scored], getattr(expected, part), atol=1e-11, rtol=1e-9)
                    assert not of_last[~scored].any()


def test_behind_a_frozen_norm_nothing_acts_through_it_to_the_bit(tokens: Tensor, scored: Tensor) -> None:
    with differentiable(make_model("gpt2", norm="frozen", norm_scope="final")) as model:
        traced = TracedPass(model, tokens, scored)
        for _, of_residual in traced.of_final_residual():
            assert all(not each.any() for each in traced.through_all_layers(of_residual.norm))
            assert all(each.any() for each in traced.through_all_layers(of_residual.frozen_norm))


def gradients_of(model: PreTrainedModel, tokens: Tensor, scored: Tensor) -> list[Tensor]:
    with differentiable(model) as traceable:
        traced = TracedPass(traceable, tokens, scored)
        return [each for _, of_residual in traced.of_final_residual() for each in traced.through_all_layers(of_residual.total)]


def test_the_caller_may_forbid_gradients_and_a_second_call_is_equal_to_the_bit(tokens: Tensor, scored: Tensor) -> None:
    model = make_model("llama")
    expected = gradients_of(model, tokens, scored)
    for forbidden in (torch.no_grad, torch.inference_mode):
        with forbidden():
            found = gradients_of(model, tokens, scored)
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_a_model_made_in_inference_mode_has_its_gradients_too(tokens: Tensor, scored: Tensor) -> None:
    with torch.inference_mode():
        model = make_model("gpt2")
        found = gradients_of(model, tokens, scored)
    assert all(torch.equal(*pair) for pair in zip(found, gradients_of(make_model("gpt2"), tokens, scored), strict=True))


def state_of(model: PreTrainedModel) -> dict[str, Any]:
    return {
        "weights": {name: each.detach().clone() for name, each in model.state_dict().items()},
        "gradients": {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None},
        "wanted": [each.requires_grad for each in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "random": torch.get_rng_state(),
    }


def test_tracing_leaves_the_model_and_the_random_state_as_they_were_also_after_an_error(tokens: Tensor, scored: Tensor) -> None:
    model = make_model("gpt2")
    model.transformer.h[0].eval()
    model.transformer.wpe.weight.requires_grad_(False)
    model(input_ids=tokens, labels=tokens).loss.backward()
    before = state_of(model)
    gradients_of(model, tokens, scored)
    with pytest.raises(IndexError):
        gradients_of(model, torch.full_like(tokens, N_VOCAB), scored)
    after = state_of(model)
    assert len(before["gradients"]) == len(before["wanted"]) - 1
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)


def test_what_is_traced_is_what_a_plain_pass_gives(tokens: Tensor, scored: Tensor) -> None:
    model = make_model("gpt_neox").eval()
    captured = capture(model, tokens)
    with differentiable(model) as traceable:
        traced = TracedPass(traceable, tokens, scored)
    torch.testing.assert_close(traced.logits.detach(), captured.logits)
    torch.testing.assert_close(traced.residual.detach(), captured.residual)
    plain = layer_activations(model, tokens)
    torch.testing.assert_close(plain[-1], captured.activations)
    assert [each.shape for each in plain] == [(3, N_TOKENS, N_NEURONS)] * 2
    assert layer_widths(model) == [N_NEURONS, N_NEURONS]
    assert not any(each.requires_grad for each in plain)


def test_a_gradient_reaches_no_later_position_and_every_earlier_one_that_is_attended_to(tokens: Tensor) -> None:
    scored = torch.zeros_like(tokens, dtype=torch.bool)
    scored[1, 4] = True
    lower, last, *_ = gradients_of(make_model("gpt2"), tokens, scored)
    assert not lower[[0, 2]].any()
    assert not lower[1, 5:].any()
    assert lower[1, :5].abs().amin() > 0
    assert not last[1, :4].any()
    assert last[1, 4].abs().amin() > 0


def test_padding_of_the_vocabulary_is_outside_of_every_prediction(tokens: Tensor, scored: Tensor) -> None:
    tokens = tokens % 11
    padded, cut = make_model("gpt2"), make_model("gpt2")
    cut.resize_token_embeddings(11)
    cut.lm_head.weight.data, cut.transformer.wte.weight.data = (
        each[:11].clone() for each in (padded.lm_head.weight, padded.transformer.wte.weight)
    )
    with differentiable(padded) as model:
        traced = TracedPass(model, tokens, scored, vocabulary_size=11)
        found = [each for _, of_residual in traced.of_final_residual() for each in traced.through_all_layers(of_residual.total)]
    for pair in zip(found, gradients_of(cut, tokens, scored), strict=True):
        torch.testing.assert_close(*pair)


def test_so_many_blocks_are_taken_as_fit_the_memory_and_at_least_one() -> None:
    model = make_model("gpt2")
    one = next(mebibytes for mebibytes in range(1, 100) if blocks_in_memory(model, 1024, mebibytes * 2**20) == 2)
    assert blocks_in_memory(model, 1024, 10 * one * 2**20) >= 20
    assert blocks_in_memory(model, 512, 10 * one * 2**20) >= 40
    assert blocks_in_memory(model, 10**6, 2**20) == 1
