"""The closed form against the paper's ablations done one at a time through the real final norm and unembedding."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from confreg.neurons import effects
from confreg.neurons.ablation import Ablation, Baseline, EffectChanges
from confreg.neurons.effects import effect_changes

NAMES = [each.name for each in fields(EffectChanges)]
SIZES = {"small": (0.01, 1.0), "middling": (0.3, 1.0), "large": (3.0, 3.0), "huge": (20.0, 40.0)}


def assert_equal(changes: EffectChanges, expected: dict[str, Tensor], atol: float, rtol: float) -> None:
    for name in NAMES:
        torch.testing.assert_close(
            getattr(changes, name).double(), expected[name], atol=atol, rtol=rtol, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_every_effect_equals_the_ablation_through_the_real_norm_and_unembedding(make_last_layer: Callable, size: str, tied: bool) -> None:
    writes, unembedding = SIZES[size]
    layer = make_last_layer(writes=writes, unembedding=unembedding, tied=tied)
    assert_equal(effect_changes(*layer.fast_inputs()), layer.slow_changes(), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("size", SIZES)
def test_every_effect_is_right_to_a_hundred_thousandth_of_a_nat_in_fp32(make_last_layer: Callable, size: str) -> None:
    writes, unembedding = SIZES[size]
    layer = make_last_layer(writes=writes, unembedding=unembedding)
    changes = effect_changes(*layer.fast_inputs(torch.float32))
    assert changes.loss.dtype == torch.float32
    assert_equal(changes, layer.slow_changes(), atol=1e-5 * max(1.0, unembedding), rtol=1e-5)


def test_effects_of_a_hundred_thousandth_of_a_nat_keep_four_digits_in_fp32(make_last_layer: Callable) -> None:
    layer = make_last_layer(writes=1e-5, n_positions=20)
    changes, expected = effect_changes(*layer.fast_inputs(torch.float32)), layer.slow_changes()
    assert 1e-6 < expected["loss"].abs().mean() < 1e-4
    for name in NAMES:
        error = (getattr(changes, name).double() - expected[name]).abs().mean()
        assert error < 1e-4 * expected[name].abs().mean(), name


def test_huge_writes_change_the_loss_by_more_than_fifty_nats_and_stay_finite(make_last_layer: Callable) -> None:
    layer = make_last_layer(writes=20.0, unembedding=40.0)
    changes = effect_changes(*layer.fast_inputs(torch.float32))
    assert changes.loss.abs().max() > 50
    assert all(getattr(changes, name).isfinite().all() for name in NAMES)


def test_both_paths_meet_where_one_takes_over_from_the_other(make_last_layer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_last_layer(writes=0.5, unembedding=1.0, n_positions=12).fast_inputs()
    found = {}
    for path, limit in {"large": 0.0, "both": 2.0, "small": float("inf")}.items():
        monkeypatch.setattr(effects, "LARGEST_SMALL_CHANGE", limit)
        found[path] = effect_changes(*inputs)
    expected = {name: getattr(found["small"], name) for name in NAMES}
    assert expected["loss"].abs().min() < 1 < expected["loss"].abs().max()
    assert_equal(found["large"], expected, atol=1e-11, rtol=1e-11)
    assert_equal(found["both"], expected, atol=1e-11, rtol=1e-11)


def test_the_large_path_alone_takes_the_pairs_above_the_limit(make_last_layer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    exact = effects.exact_changes

    def spy(baseline: Baseline, writes: Tensor, pair: tuple[Tensor, Tensor], coefficients: Any) -> dict[str, Tensor]:
        seen.extend(zip(*(each.tolist() for each in pair), strict=True))
        return exact(baseline, writes, pair, coefficients)

    monkeypatch.setattr(effects, "exact_changes", spy)
    baseline, ablation = make_last_layer(writes=0.01).fast_inputs()
    effect_changes(baseline, ablation)
    assert seen == []
    one_large = ablation.activation_change.clone()
    one_large[2, 3] = 1e4
    effect_changes(baseline, replace(ablation, activation_change=one_large))
    assert seen == [(2, 3)]


@pytest.mark.parametrize("memory_bytes", [1, 13 * 8 * 6 * 2, 13 * 8 * 6 * 11])
def test_cutting_into_chunks_changes_nothing(make_last_layer: Callable, memory_bytes: int) -> None:
    inputs = make_last_layer(n_positions=7).fast_inputs()
    whole = effect_changes(*inputs)
    assert_equal(effect_changes(*inputs, memory_bytes=memory_bytes), {name: getattr(whole, name) for name in NAMES}, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_replacing_an_activation_by_itself_has_exactly_no_effect(make_last_layer: Callable, dtype: torch.dtype) -> None:
    layer = make_last_layer(writes=20.0, unembedding=40.0, n_positions=200)
    baseline, ablation = layer.fast_inputs(dtype)
    changes = effect_changes(baseline, replace(ablation, activation_change=torch.zeros_like(ablation.activation_change)))
    assert [name for name in NAMES if getattr(changes, name).count_nonzero()] == []


def test_a_neuron_of_zero_norm_has_no_effect(make_last_layer: Callable) -> None:
    layer = make_last_layer(writes=2.0)
    layer.w_out[1] = 0.0
    changes = effect_changes(*layer.fast_inputs())
    assert all((getattr(changes, name)[:, 1] == 0).all() for name in NAMES)
    assert_equal(changes, layer.slow_changes(), atol=1e-10, rtol=1e-10)


def test_a_neuron_that_writes_the_all_ones_direction_has_no_effect_under_layernorm(make_last_layer: Callable) -> None:
    layer = make_last_layer()
    layer.w_out[2] = 5.0
    changes, expected = effect_changes(*layer.fast_inputs()), layer.slow_changes()
    for name in NAMES:
        assert getattr(changes, name)[:, 2].abs().max() < 1e-12
        assert expected[name][:, 2].abs().max() < 1e-12


def test_a_write_that_the_unembedding_cannot_see_acts_through_the_norm_alone(make_last_layer: Callable) -> None:
    layer = make_last_layer()
    layer.model.transformer.ln_f.weight[:2] = 0.0
    layer.w_out[0] = torch.tensor([3.0, -3.0, 0, 0, 0, 0, 0, 0])
    changes = effect_changes(*layer.fast_inputs())
    assert changes.loss[:, 0].abs().min() > 1e-3
    assert changes.loss_frozen_norm[:, 0].abs().max() < 1e-12
    assert changes.entropy_frozen_norm[:, 0].abs().max() < 1e-12
    torch.testing.assert_close(changes.loss_scale_only[:, 0], changes.loss[:, 0], atol=1e-12, rtol=0)


def test_a_write_along_the_frequency_direction_alone_acts_through_the_frequency_alone(make_last_layer: Callable) -> None:
    baseline, ablation = make_last_layer().fast_inputs()
    nothing = torch.zeros_like(ablation.residual_along_write)
    writes = torch.randn(5, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * baseline.frequency_direction
    changes = effect_changes(baseline, Ablation(ablation.activation_change, nothing, torch.zeros(5, dtype=torch.float64), writes, 8))
    assert changes.loss.abs().max() > 0.1
    assert changes.loss_frozen_frequency.abs().max() < 1e-12
    assert (changes.loss_scale_only == 0).all()


def test_pushing_the_prediction_up_the_frequency_direction_brings_it_nearer_the_frequencies(make_last_layer: Callable) -> None:
    baseline, _ = make_last_layer().fast_inputs()
    uniform = Baseline(
        torch.zeros_like(baseline.scaled_logits),
        torch.zeros(13, dtype=torch.float64),
        baseline.targets,
        baseline.scale,
        baseline.frequency_log_probs,
        baseline.frequency_direction,
    )
    nothing, one = torch.zeros(6, 1, dtype=torch.float64), torch.ones(6, 1, dtype=torch.float64)
    reach = (baseline.frequency_log_probs @ baseline.frequency_direction) * baseline.scale.unsqueeze(1)  # from uniform to the frequencies
    write = baseline.frequency_direction.unsqueeze(0)
    changes = effect_changes(uniform, Ablation(one * reach, nothing, torch.zeros(1, dtype=torch.float64), write, 8))
    log_q = baseline.frequency_log_probs
    from_uniform = (log_q.exp() * log_q).sum() + torch.tensor(13.0).double().log()
    torch.testing.assert_close(changes.kl_from_frequency, -from_uniform.expand(6, 1), atol=1e-12, rtol=0)
    torch.testing.assert_close(changes.kl_to_frequency, (log_q.mean() + torch.tensor(13.0).double().log()).expand(6, 1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_leaving_out_the_scale_changes_no_bit_of_the_other_effects(make_last_layer: Callable, size: str) -> None:
    writes, unembedding = SIZES[size]
    inputs = make_last_layer(writes=writes, unembedding=unembedding).fast_inputs(torch.float32)
    whole, cut = effect_changes(*inputs), effect_changes(*inputs, with_scale_only=False)
    assert cut.loss_scale_only is None
    assert all(torch.equal(getattr(whole, name), getattr(cut, name)) for name in NAMES if name != "loss_scale_only")
