"""Interventions in any layer, run from their layer on, against the whole model with hooks written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from confreg.interventions.downstream import CleanPass, downstream_log_probs, downstream_log_probs_of_each
from confreg.interventions.replacing import Intervention, InterventionError, site_activations
from confreg.models.build import build_model
from confreg.models.families import FAMILIES, attention_output, blocks_of, down_projection, final_norm
from confreg.models.norms import NORMS, FrozenNorm, read_norm
from confreg.settings import ModelSettings

Maker = Callable[..., PreTrainedModel]
TOKENS = torch.randint(0, 19, (3, 10), generator=torch.Generator().manual_seed(3))
every_family = pytest.mark.parametrize("family", sorted(FAMILIES))


def with_norm(family: str, norm: str) -> PreTrainedModel:
    """In training mode, with dropout, and with another norm everywhere."""
    settings = ModelSettings(family=family, n_layer=3, d_model=16, d_mlp=12, n_head=2, dropout=0.3, norm=norm)
    model, generator = build_model(settings, 19, 10, seed=0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        for module in model.modules():
            if isinstance(module, FrozenNorm):
                module.divisor.fill_(0.8)
    return model


class ByHooks:
    """The whole model run again, everything in it, with hooks; in evaluation mode."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.norm, seen = model, final_norm(model), list[Tensor]()
        handle = self.norm.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        self.run()
        handle.remove()
        self.reading = read_norm(self.norm)
        self.scale = self.reading.scale(seen[0]).unsqueeze(-1)

    def run(self) -> Tensor:
        with torch.no_grad():
            log_probs: Tensor = self.model(input_ids=TOKENS, use_cache=False).logits.log_softmax(-1)
        return log_probs

    def freeze(self, _module: Any, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
        normed = self.reading.centred(inputs[0]) / self.scale
        normed = normed if self.reading.gain is None else normed * self.reading.gain
        return normed if self.reading.bias is None else normed + self.reading.bias

    def replaced(self, layer: int, heads: bool, columns: Any, value: Any) -> tuple[Tensor, Tensor]:
        """With the final norm's own scale and with the frozen one."""

        def change(_module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            changed = inputs[0].clone()
            changed[..., torch.tensor(columns)] = value
            return (changed,)

        handle = (attention_output if heads else down_projection)(self.model, layer).register_forward_pre_hook(change)
        total, frozen = self.run(), self.norm.register_forward_hook(self.freeze)
        direct = self.run()
        handle.remove()
        frozen.remove()
        return total, direct


@every_family
def test_nothing_changes_to_the_bit_where_all_is_replaced_by_itself(make_of_family: Maker, family: str) -> None:
    model = make_of_family(family)
    clean = CleanPass.of(model, TOKENS)
    with torch.no_grad():
        expected = model(input_ids=TOKENS, use_cache=False).logits.log_softmax(-1)
    for layer in (0, 1):
        for kind in ("neurons", "heads"):
            own = site_activations(model, TOKENS, layer, heads=kind == "heads")
            every = tuple(range(2 if kind == "heads" else own.shape[-1]))
            total, frozen = next(clean.predictions([Intervention(layer, own, **{kind: every})], with_frozen_final_norm=True))
            assert torch.equal(total, expected)
            torch.testing.assert_close(frozen, expected, atol=1e-4, rtol=1e-5)


@every_family
def test_a_neuron_a_group_and_a_head_of_every_layer_act_as_in_the_whole_model(
    make_of_family: Maker, without_rounding: Callable, family: str
) -> None:
    model = make_of_family(family, torch.float64)
    with without_rounding():
        clean, whole = CleanPass.of(model, TOKENS), ByHooks(model)
        for intervention, columns in (
            (Intervention(0, 0.7, neurons=(4,)), [4]),
            (Intervention(1, -1.3, neurons=(2, 9, 0)), [2, 9, 0]),
            (Intervention(0, 0.2, heads=(1,)), range(8, 16)),
            (Intervention(1, 0.2, heads=(0,)), range(8)),
        ):
            expected = whole.replaced(intervention.layer, bool(intervention.heads), columns, intervention.replacement)
            total, frozen = next(clean.predictions([intervention], with_frozen_final_norm=True))
            assert frozen is not None
            for actual, of_whole in zip((total, frozen), expected, strict=True):
                torch.testing.assert_close(actual, of_whole, atol=1e-10, rtol=0)


@pytest.mark.parametrize("norm", sorted(NORMS))
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_norm_of_ours_can_be_frozen_and_only_one_with_a_scale_of_its_own_makes_a_difference(
    without_rounding: Callable, family: str, norm: str
) -> None:
    model = with_norm(family, norm).double()
    with without_rounding():
        total, frozen = (downstream_log_probs(model, TOKENS, Intervention(0, 1.5, neurons=(4,)), each) for each in (False, True))
        for actual, expected in zip((total, frozen), ByHooks(model.eval()).replaced(0, False, [4], 1.5), strict=True):
            torch.testing.assert_close(actual, expected, atol=1e-10, rtol=0)
    assert ((total - frozen).abs().max() > 1e-4) == (norm in ("layernorm", "rmsnorm"))


def test_only_what_lies_above_runs_again(make_of_family: Maker) -> None:
    model = make_of_family("llama", n_layer=4)
    clean, calls = CleanPass.of(model, TOKENS), list[int]()
    handles = [attention_output(model, layer).register_forward_pre_hook(lambda *_, layer=layer: calls.append(layer)) for layer in range(4)]
    list(clean.predictions([Intervention(2, 0.0, neurons=(1,)), Intervention(2, 0.0, neurons=(3,))], with_frozen_final_norm=True))
    for handle in handles:
        handle.remove()
    assert calls == [2, 3]  # once for both interventions, and not again for the frozen norm


def test_many_interventions_give_what_each_gives_alone_whatever_the_memory_and_in_their_order(make_of_family: Maker) -> None:
    model = make_of_family("gpt_neox", torch.float64)
    interventions = [Intervention(layer, 0.5 * neuron, neurons=(neuron,)) for layer in (1, 0, 1) for neuron in (0, 5, 7)]
    interventions[4:4] = [Intervention(1, 0.1, heads=(0,)), Intervention(0, 0.1, heads=(0, 1))]
    alone = [downstream_log_probs(model, TOKENS, each) for each in interventions]
    for memory_bytes in (1, 100_000, 2**29):
        together = list(downstream_log_probs_of_each(model, TOKENS, interventions, memory_bytes=memory_bytes))
        torch.testing.assert_close(torch.stack(together), torch.stack(alone), atol=1e-5, rtol=0)


def test_the_memory_bounds_how_many_run_together(make_of_family: Maker) -> None:
    model = make_of_family("gpt2")
    clean, sizes = CleanPass.of(model, TOKENS), list[int]()
    handle = final_norm(model).register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0]) // 3))
    interventions = [Intervention(0, 0.0, neurons=(neuron,)) for neuron in range(12)]
    for memory_bytes in (1, 200_000, 2**29):
        list(clean.predictions(interventions, memory_bytes=memory_bytes))
    handle.remove()
    assert sizes[:12] == [1] * 12
    assert sizes[-1] == 12
    assert 1 < max(sizes[12:-1]) < 12
    assert sum(sizes[12:-1]) == 12


def test_a_model_in_training_mode_is_measured_as_in_evaluation_and_left_as_it_was(make_of_family: Maker) -> None:
    model = with_norm("gpt2", "layernorm")
    model.transformer.h[0].eval()

    def state() -> tuple[Any, ...]:
        modules = list(model.modules())
        hooks = [(*each._forward_hooks, *each._forward_pre_hooks, "forward" in vars(each)) for each in modules]
        return hooks, [each.training for each in modules], torch.get_rng_state().tolist(), [each.grad for each in model.parameters()]

    before, intervention = state(), Intervention(1, 0.3, neurons=(2,))
    first, again = (downstream_log_probs(model, TOKENS, intervention, frozen_final_norm=True) for _ in range(2))
    assert state() == before
    assert torch.equal(first, again)
    assert not first.requires_grad
    with pytest.raises(ValueError, match="replacement has shape"):
        downstream_log_probs(model, TOKENS, Intervention(1, torch.zeros(5), neurons=(2,)))
    assert state() == before


def test_a_forward_that_somebody_put_in_place_of_a_blocks_own_is_still_there_afterwards(make_of_family: Maker) -> None:
    model = make_of_family("gpt2")
    block: Any = blocks_of(model)[0]
    own, calls = block.forward, []
    block.forward = wrapped = lambda *inputs, **more: calls.append(1) or own(*inputs, **more)
    downstream_log_probs(model, TOKENS, Intervention(1, 0.0, neurons=(2,)))
    assert block.forward is wrapped
    assert calls == [1]


def test_a_model_whose_blocks_do_not_all_run_is_refused(make_of_family: Maker) -> None:
    model: Any = make_of_family("llama")
    model.config.num_hidden_layers = 1  # transformers then leaves the last block out
    with pytest.raises(InterventionError, match="called 1 blocks and its final norm 1 times; expected 2 blocks"):
        CleanPass.of(model, TOKENS)
