"""The closed form against the paper's ablations done one at a time through the real final norm and unembedding."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from confreg.neurons import effects
from confreg.neurons.ablation import Ablation, Baseline, EffectChanges, Wanted
from confreg.neurons.effects import effect_changes
from confreg.neurons.orders import ORDERS, longest_reach
from confreg.neurons.reach import Reach
from confreg.neurons.writes import NeuronWrites

EVERY = Wanted(every_variant=True)
NAMES = EVERY.names()
SIZES = {"tiny": (1e-4, 1.0), "small": (0.01, 1.0), "middling": (0.3, 1.0), "large": (3.0, 3.0), "huge": (20.0, 40.0)}
by_size = pytest.mark.parametrize("size", SIZES)


def assert_equal(changes: EffectChanges, expected: dict[str, Tensor], atol: float, rtol: float, names: Iterable[str] = NAMES) -> None:
    for name in names:
        torch.testing.assert_close(
            getattr(changes, name).double(), expected[name], atol=atol, rtol=rtol, msg=lambda text, n=name: f"{n}: {text}"
        )


def as_expected(changes: EffectChanges) -> dict[str, Tensor]:
    return {name: getattr(changes, name) for name in NAMES}


def use_order(monkeypatch: pytest.MonkeyPatch, order: int) -> None:
    monkeypatch.setattr(effects, "cheapest_orders", lambda reach, *_: torch.full((reach.shape[1],), order))


def at_reach(make_last_layer: Callable, reach: float, dtype: torch.dtype, **own: float) -> tuple[Baseline, Ablation]:
    """Inputs of which the pair that goes farthest goes just so far."""
    baseline, ablation = make_last_layer(writes=1e-3, n_positions=12, n_neurons=8, **own).fast_inputs(dtype)
    fields = effects.PositionFields.of(baseline)
    for _ in range(8):
        largest = Reach.of(fields, ablation.writes, effects.coefficients(fields, ablation)).every.largest.max()
        ablation = replace(ablation, activation_change=ablation.activation_change * (0.9999 * reach / largest))
    return baseline, ablation


@by_size
def test_every_effect_equals_the_ablation_through_the_real_norm_and_unembedding(make_last_layer: Callable, size: str) -> None:
    writes, unembedding = SIZES[size]
    layer = make_last_layer(writes=writes, unembedding=unembedding)
    expected = layer.slow_changes()
    assert set(expected) == set(NAMES)
    changes = effect_changes(*layer.fast_inputs(), wanted=EVERY)
    least, found = expected["divergence_from_temperature"], changes.divergence_from_temperature
    if size == "huge":  # of several hundred nats: not always the lowest of many minima
        assert (found >= least - 1e-9).all()
        assert (found <= 1.1 * least + 1e-9).all()
        expected["divergence_from_temperature"] = found
    assert_equal(changes, expected, atol=1e-10, rtol=1e-10)


@by_size
def test_every_effect_is_right_to_a_hundred_thousandth_of_a_nat_in_fp32(make_last_layer: Callable, size: str) -> None:
    writes, unembedding = SIZES[size]
    layer = make_last_layer(writes=writes, unembedding=unembedding)
    changes = effect_changes(*layer.fast_inputs(torch.float32), wanted=EVERY)
    assert changes.loss.dtype == torch.float32
    expected = layer.slow_changes()
    largest = max(expected["loss"].abs().max().item(), expected["loss_frozen_norm"].abs().max().item())
    names = NAMES if size != "huge" else [name for name in NAMES if name != "divergence_from_temperature"]
    assert_equal(changes, expected, atol=max(1e-5, 1e-7 * largest), rtol=1e-5, names=names)  # a number of 1000 has digits down to 1e-4


@pytest.mark.parametrize("order", [0, *ORDERS])
def test_each_order_alone_equals_the_exact_path_as_far_as_it_reaches(
    make_last_layer: Callable, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    baseline, ablation = at_reach(make_last_layer, longest_reach(order or 8, torch.float64), torch.float64)
    wanted = Wanted(every_variant=True, temperature=False)  # a temperature may reach farther than the change itself
    use_order(monkeypatch, 0)
    exact = as_expected(effect_changes(baseline, ablation, wanted=wanted))
    use_order(monkeypatch, order)
    monkeypatch.setattr(effects, "exact_changes", None if order else effects.exact_changes)  # never called
    changes = effect_changes(baseline, ablation, wanted=wanted)
    assert exact["loss"].abs().max() > 1e-7
    assert_equal(changes, exact, atol=1e-12, rtol=1e-9, names=wanted.names())


@pytest.mark.parametrize("order", ORDERS)
def test_each_order_keeps_a_hundred_thousandth_of_a_nat_in_fp32_as_far_as_it_reaches(
    make_last_layer: Callable, monkeypatch: pytest.MonkeyPatch, in_dtype: Callable, order: int
) -> None:
    for seed in range(4):
        inputs = at_reach(make_last_layer, longest_reach(order, torch.float32), torch.float32, seed=seed)
        use_order(monkeypatch, 0)
        exact = as_expected(effect_changes(*in_dtype(*inputs, torch.float64), wanted=EVERY))
        use_order(monkeypatch, order)
        assert_equal(effect_changes(*inputs, wanted=EVERY), exact, atol=1e-5, rtol=0)


def test_small_and_large_pairs_meet_in_one_call_as_if_each_were_alone(make_last_layer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_last_layer(writes=0.05, n_positions=12).fast_inputs(torch.float32)
    shares = {}
    original = effects.exact_changes

    def spy(*given: object) -> dict[str, Tensor]:
        shares["exact"] = shares.get("exact", 0) + len(given[3][0])
        return original(*given)

    monkeypatch.setattr(effects, "exact_changes", spy)
    both = effect_changes(*inputs, wanted=EVERY)
    assert 5 < shares["exact"] < 55  # of 60 pairs
    use_order(monkeypatch, 0)
    whole_rows = {name: each.double() for name, each in as_expected(effect_changes(*inputs, wanted=EVERY)).items()}
    assert_equal(both, whole_rows, atol=1e-5, rtol=0, names=[name for name in NAMES if name != "divergence_from_temperature"])
    too_large = both.divergence_from_temperature - whole_rows["divergence_from_temperature"]
    assert too_large.min() > -2e-5
    assert (
        too_large < 2e-5
    ).double().mean() > 0.9  # of thirteen tokens a few have a second best temperature, far away, that no series sees


def test_effects_of_a_hundred_thousandth_of_a_nat_keep_four_digits_in_fp32(make_last_layer: Callable) -> None:
    layer = make_last_layer(writes=1e-5, n_positions=20)
    changes, expected = effect_changes(*layer.fast_inputs(torch.float32), wanted=EVERY), layer.slow_changes()
    assert 1e-6 < expected["loss"].abs().mean() < 1e-4
    for name in NAMES:
        error = (getattr(changes, name).double() - expected[name]).abs().mean()
        assert error <= 1e-4 * expected[name].abs().mean(), name


def test_huge_writes_change_the_loss_by_more_than_fifty_nats_and_stay_finite(make_last_layer: Callable) -> None:
    layer = make_last_layer(writes=20.0, unembedding=40.0)
    changes = effect_changes(*layer.fast_inputs(torch.float32), wanted=EVERY)
    assert changes.loss.abs().max() > 50
    assert all(getattr(changes, name).isfinite().all() for name in NAMES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("others", [0.0, 1.0])  # beside pairs that take their whole rows, those that do not change take them too
def test_replacing_an_activation_by_itself_has_exactly_no_effect(
    make_last_layer: Callable, dtype: torch.dtype, softcap: float | None, others: float
) -> None:
    baseline, ablation = make_last_layer(writes=20.0, unembedding=40.0, n_positions=50).fast_inputs(dtype)
    ablation.activation_change[0] = 0
    ablation.activation_change[1:] *= others
    changes = effect_changes(replace(baseline, softcap=softcap), ablation, wanted=EVERY)
    assert [name for name in NAMES if getattr(changes, name)[0].count_nonzero()] == []
    assert changes.loss.any() == bool(others)


def test_a_neuron_of_zero_norm_has_no_effect(make_last_layer: Callable) -> None:
    layer = make_last_layer(writes=2.0)
    layer.w_out[1] = 0.0
    changes = effect_changes(*layer.fast_inputs(), wanted=EVERY)
    assert all((getattr(changes, name)[:, 1] == 0).all() for name in NAMES)


def test_a_neuron_that_writes_the_all_ones_direction_has_no_effect_under_layernorm(make_last_layer: Callable) -> None:
    layer = make_last_layer()
    layer.w_out[2] = 5.0
    changes, expected = effect_changes(*layer.fast_inputs(), wanted=EVERY), layer.slow_changes()
    for name in NAMES:
        assert getattr(changes, name)[:, 2].abs().max() < 1e-12
        assert expected[name][:, 2].abs().max() < 1e-12


def test_a_write_that_the_unembedding_cannot_see_acts_through_the_norm_and_as_a_temperature_alone(make_last_layer: Callable) -> None:
    layer = make_last_layer()
    layer.model.transformer.ln_f.weight[:2] = 0.0
    layer.model.transformer.ln_f.bias[:] = 0.0  # then all logits shrink alike
    layer.w_out[0] = torch.tensor([3.0, -3.0, 0, 0, 0, 0, 0, 0])
    changes = effect_changes(*layer.fast_inputs())
    assert changes.loss[:, 0].abs().min() > 1e-3
    assert changes.loss_frozen_norm[:, 0].abs().max() < 1e-12
    assert changes.entropy_frozen_norm[:, 0].abs().max() < 1e-12
    torch.testing.assert_close(changes.loss_scale_only[:, 0], changes.loss[:, 0], atol=1e-12, rtol=0)
    assert changes.divergence[:, 0].min() > 1e-6
    assert changes.divergence_from_temperature[:, 0].max() < 1e-12
    assert not changes.argmax[:, 0].any()
    assert not changes.reciprocal_rank[:, 0].any()


def one_write(baseline: Baseline, write: Tensor) -> Ablation:
    """One neuron that writes this to the logits at every position, behind a norm that never changes."""
    nothing = torch.zeros(len(baseline.targets), 1, dtype=write.dtype)
    writes = NeuronWrites(torch.ones(1, 1, dtype=write.dtype), write.unsqueeze(1))
    return Ablation(baseline.scale.to(write.dtype).unsqueeze(1), nothing, nothing[0], writes, 1, scale_is_fixed=True)


@pytest.mark.parametrize("size", [1e-3, 0.1, 3.0])
def test_a_write_along_the_frequency_direction_alone_acts_through_the_frequency_alone(make_last_layer: Callable, size: float) -> None:
    baseline, _ = make_last_layer().fast_inputs()
    changes = effect_changes(baseline, one_write(baseline, size * baseline.frequency_direction), wanted=EVERY)
    assert changes.loss.abs().max() > 0.1 * size
    for name in ("loss", "entropy", "kl_from_frequency"):
        assert getattr(changes, f"{name}_frozen_frequency").abs().max() < 1e-12
    assert (changes.loss_scale_only == 0).all()


@pytest.mark.parametrize("spread", [1e-3, 0.1])
@pytest.mark.parametrize("writes", [1e-3, 1.0])
def test_frequencies_that_are_nearly_uniform_have_a_direction_all_the_same(make_last_layer: Callable, spread: float, writes: float) -> None:
    layer = make_last_layer(writes=writes)
    layer.frequency_log_probs = (spread * torch.linspace(-1, 1, 13, dtype=torch.float64) ** 3).log_softmax(0)
    assert_equal(effect_changes(*layer.fast_inputs(), wanted=EVERY), layer.slow_changes(), atol=1e-8, rtol=1e-8)


def test_where_frequencies_are_uniform_nothing_is_put_back(make_last_layer: Callable) -> None:
    baseline, ablation = make_last_layer(writes=0.1).fast_inputs()
    uniform = torch.full((13,), 1 / 13, dtype=torch.float64).log()
    baseline = replace(baseline, frequency_log_probs=uniform, frequency_direction=torch.zeros_like(uniform))
    changes = effect_changes(baseline, ablation, wanted=EVERY)
    for name in ("loss", "entropy", "kl_from_frequency"):
        torch.testing.assert_close(getattr(changes, f"{name}_frozen_frequency"), getattr(changes, name), atol=1e-12, rtol=0)
