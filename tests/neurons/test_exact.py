"""Whole rows of changed logits: chosen pairs, large changes, soft-caps and temperatures."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from confreg.neurons import exact as module
from confreg.neurons.ablation import Ablation, Baseline, Wanted
from confreg.neurons.effects import coefficients, effect_changes
from confreg.neurons.exact import RowsOfPairs, capped_change, exact_changes
from confreg.neurons.fields import PositionFields
from confreg.neurons.series import Coefficients
from confreg.neurons.writes import GroupWrites, NeuronWrites

EVERY = Wanted(every_variant=True)


def changes_of_pairs(baseline: Baseline, ablation: Ablation, pair: tuple[Tensor, Tensor], wanted: Wanted = EVERY) -> dict[str, Tensor]:
    fields = PositionFields.of(baseline)
    return exact_changes(fields, ablation, coefficients(fields, ablation), pair, wanted)


def one_write(baseline: Baseline, write: Tensor) -> Ablation:
    """A neuron that writes this to the logits at every position, behind a norm that never changes."""
    nothing = torch.zeros(len(baseline.targets), 1, dtype=write.dtype)
    writes = NeuronWrites(torch.ones(1, 1, dtype=write.dtype), write.unsqueeze(1))
    return Ablation(baseline.scale.to(write.dtype).unsqueeze(1), nothing, nothing[0], writes, 1, scale_is_fixed=True)


@pytest.mark.parametrize("writes", [0.01, 5.0])
def test_changes_of_chosen_pairs_equal_the_ablation_done_one_at_a_time(make_last_layer: Callable, writes: float) -> None:
    layer = make_last_layer(writes=writes, unembedding=2.0)
    pair = torch.tensor([5, 0, 5, 3]), torch.tensor([1, 4, 0, 1])
    found, expected = changes_of_pairs(*layer.fast_inputs(), pair), layer.slow_changes()
    assert set(found) == set(expected)
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name][pair], atol=1e-10, rtol=1e-10, msg=lambda text, n=name: f"{n}: {text}")


def test_groups_of_one_neuron_are_that_neuron_and_groups_of_more_move_by_the_sum(
    make_last_layer: Callable, by_definition: Callable
) -> None:
    layer = make_last_layer(writes=0.3)
    baseline, ablation = layer.fast_inputs()
    members, w_out = [[2], [0, 3, 4]], ablation.writes.w_out
    change = torch.stack([ablation.activation_change[:, each] @ w_out[each] for each in members], dim=1)
    centred = layer.residual - layer.residual.mean(1, keepdim=True)
    along = (centred.unsqueeze(1) * change).sum(-1)
    writes = GroupWrites(change, ablation.writes.unembedding)
    groups = Ablation(torch.ones_like(along), along, change.norm(dim=-1), writes, 8)
    found, alone = effect_changes(baseline, groups, wanted=EVERY), effect_changes(baseline, ablation, wanted=EVERY)
    delta = layer.replacement - layer.activations
    for position, residual in enumerate(layer.residual):
        changed = residual + delta[position, [0, 3, 4]] @ layer.w_out[[0, 3, 4]]
        variants = {"total": layer.logits(changed), "frozen_norm": layer.logits(changed, layer.scale(residual))}
        variants["scale_only"] = layer.logits(residual, layer.scale(changed))
        expected = by_definition(layer.logits(residual), variants, layer.targets[position], layer.frequency_log_probs)
        for name, value in expected.items():
            torch.testing.assert_close(
                getattr(found, name)[position, 1], value, atol=1e-9, rtol=1e-9, msg=lambda text, n=name: f"{n}: {text}"
            )
            torch.testing.assert_close(getattr(found, name)[position, 0], getattr(alone, name)[position, 2], atol=1e-9, rtol=1e-9)


def test_a_prediction_that_becomes_certain_loses_all_its_entropy(make_last_layer: Callable) -> None:
    baseline, _ = make_last_layer().fast_inputs()
    certain = torch.full((13,), -2000.0, dtype=torch.float64)
    certain[baseline.targets[0]] = 2000.0
    pair = torch.tensor([0]), torch.tensor([0])
    found = changes_of_pairs(baseline, one_write(baseline, certain), pair)
    log_p = baseline.log_probs()[0]
    torch.testing.assert_close(found["loss"], log_p[baseline.targets[:1]])
    torch.testing.assert_close(found["entropy"], (log_p.exp() * log_p).sum().reshape(1))
    assert not found["loss_scale_only"].any()


def test_a_small_change_whose_frequency_part_is_large_is_recomputed_too() -> None:
    n_tokens = 401
    direction = torch.tensor([0.7, *([0.035, -0.035] * 200)], dtype=torch.float64)
    direction = direction / direction.norm()
    write = 4 * direction.sign()  # no logit moves by more than 4 nats, but 57 along the direction
    logits = torch.zeros(1, n_tokens, dtype=torch.float64)
    logits[0, 0] = 22.0  # nearly all of the probability lies where the frequency part is put back
    log_q = (8 * direction).log_softmax(0)
    parts = (logits, torch.zeros(n_tokens), torch.tensor([3]), torch.ones(1), log_q, direction)
    baseline = Baseline(*(each.float() if each.is_floating_point() else each for each in parts))
    found = effect_changes(baseline, one_write(baseline, write.float())).loss_frozen_frequency
    kept = logits + write - (write @ direction) * direction
    expected = logits.log_softmax(-1)[0, 3] - kept.log_softmax(-1)[0, 3]
    torch.testing.assert_close(found.double().squeeze(), expected, atol=1e-4, rtol=1e-5)


def test_large_changes_in_fp32_are_computed_in_float64(
    make_last_layer: Callable, monkeypatch: pytest.MonkeyPatch, in_dtype: Callable
) -> None:
    """A token of little probability that becomes the only one: its exponential would swamp the sums."""
    inputs = make_last_layer(writes=8.0, unembedding=8.0, n_positions=20).fast_inputs(torch.float32)
    pair = torch.ones(20, 5).nonzero(as_tuple=True)
    expected = changes_of_pairs(*in_dtype(*inputs, torch.float64), pair)
    errors = []
    monkeypatch.setattr(module, "LARGEST_SMALL_DIVERGENCE", torch.inf)
    for limit in (module.LARGEST_SMALL_CHANGE, torch.inf):
        monkeypatch.setattr(module, "LARGEST_SMALL_CHANGE", limit)
        found = changes_of_pairs(*inputs, pair)
        difference = (found["loss"].double() - expected["loss"]).abs() / (1 + expected["loss"].abs())
        errors.append(difference.nan_to_num(torch.inf).max().item())
    assert errors[0] < 1e-5 < 1 < errors[1]


@pytest.mark.parametrize("size", [1e-6, 0.1, 30.0])
def test_a_change_behind_a_soft_cap_is_the_difference_of_the_capped_logits(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    before, change = (torch.randn(3, 40, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = 2.0 * torch.tanh((before + size * change) / 2.0) - 2.0 * torch.tanh(before / 2.0)
    torch.testing.assert_close(capped_change(before, size * change, 2.0), expected, atol=1e-15, rtol=1e-9)
    rounded = capped_change(before.float(), size * change.float(), 2.0).double()
    assert (rounded - expected).abs().max() < 2e-6 * expected.abs().max()
    assert capped_change(before, change, None) is change


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [0.05, 0.6, 0.99, 1.01, 2.0, 9.0])
def test_a_pure_change_of_temperature_is_found_whatever_it_is(make_last_layer: Callable, factor: float, dtype: torch.dtype) -> None:
    baseline, _ = make_last_layer().fast_inputs(dtype)
    baseline = replace(baseline.part(slice(2, 3)), output_bias=torch.zeros(13, dtype=dtype))
    changes = effect_changes(baseline, one_write(baseline, (factor - 1) * baseline.scaled_logits[0]))
    assert changes.divergence.item() > 1e-6
    assert changes.divergence_from_temperature.item() < (1e-6 if dtype == torch.float32 else 1e-11)


@pytest.mark.parametrize("size", [1e-3, 0.03])
def test_a_change_without_covariance_with_the_logits_is_no_temperature_to_the_first_order(make_last_layer: Callable, size: float) -> None:
    baseline, _ = make_last_layer(unembedding=0.3).fast_inputs()
    baseline = baseline.part(slice(0, 1))
    log_p = baseline.log_probs()[0]
    y = log_p - (log_p.exp() * log_p).sum()
    write = torch.randn(13, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    write = write - (log_p.exp() * write).sum()
    write = write - (log_p.exp() * write * y).sum() / (log_p.exp() * y * y).sum() * y
    changes = effect_changes(baseline, one_write(baseline, size * write))
    share = 1 - changes.divergence_from_temperature.item() / changes.divergence.item()
    assert changes.divergence.item() > 1e-8
    assert 0 <= share < 30 * size**2


def test_of_several_best_temperatures_the_lowest_is_taken(make_last_layer: Callable) -> None:
    layer = make_last_layer(writes=0.3)  # at position 0, neuron 3, minima lie at 0.33 and at 2.29
    for dtype in (torch.float32, torch.float64):
        least = effect_changes(*layer.fast_inputs(dtype)).divergence_from_temperature[0, 3].item()
        assert least == pytest.approx(2.757084, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whole_rows_find_the_lowest_of_all_temperatures_whatever_the_prediction(make_last_layer: Callable, dtype: torch.dtype) -> None:
    """Against a fine grid, where changes are large and there are many minima."""
    layer = make_last_layer(writes=4.0, unembedding=3.0, n_positions=24)
    baseline, ablation = layer.fast_inputs(dtype)
    pair = torch.ones(24, 5).nonzero(as_tuple=True)
    found = changes_of_pairs(baseline, ablation, pair)["divergence_from_temperature"].double()
    rows = RowsOfPairs.of(
        PositionFields.of(baseline), ablation, coefficients(PositionFields.of(baseline), ablation).part(pair), pair, torch.float64
    )
    after = (rows.logit + rows.total).log_softmax(-1)
    betas = torch.logspace(-4, 4, 4001, dtype=torch.float64)
    tilted = (betas[:, None, None] * rows.logit).log_softmax(-1)
    expected = (tilted.exp() * (tilted - after)).sum(-1).amin(0)
    assert (found <= expected + 1e-4 + 1e-4 * expected).all()
    assert (found >= expected - 1e-3 * (1 + expected)).all()
    assert (changes_of_pairs(baseline, ablation, pair)["divergence"] > 0.02).double().mean() > 0.5


def test_a_large_change_of_the_scale_alone_is_recomputed_although_the_total_change_is_small() -> None:
    """What was most of the residual is taken out: the rest is a hundred times as large, and its own change puts all logits back."""
    logits = torch.tensor([[1.5, -0.5, 0.25, -1.25]])
    log_q = torch.full((4,), 0.25).log()
    baseline = Baseline(logits, torch.zeros(4), torch.tensor([2]), torch.ones(1), log_q, torch.zeros(4))
    at = Coefficients(*(torch.tensor([[value]]) for value in (99.0, -99.0, 0.0, 0.0)))
    pair = torch.tensor([0]), torch.tensor([0])
    found = exact_changes(PositionFields.of(baseline), one_write(baseline, logits[0]), at, pair, EVERY)
    expected = -((100 * logits.double()).log_softmax(-1) - logits.double().log_softmax(-1))[:, 2]
    torch.testing.assert_close(found["loss_scale_only"].double(), expected)
    assert found["loss"].abs().item() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_nothing_can_be_predicted_there_is_no_rank_either(make_last_layer: Callable, dtype: torch.dtype) -> None:
    baseline, ablation = make_last_layer().fast_inputs(dtype)
    ablation.activation_change[0, 0], ablation.activation_change[1, 0] = torch.nan, torch.inf
    changes = effect_changes(baseline, ablation, wanted=EVERY)
    for name in EVERY.names():
        assert getattr(changes, name)[:2, 0].isnan().all(), name
        assert getattr(changes, name)[2:].isfinite().all(), name
