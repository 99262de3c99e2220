"""What goes into the effects: the scale after a replacement, and cutting into parts."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from confreg.neurons.effects import effect_changes


def test_the_new_scale_is_that_of_the_changed_residual(make_last_layer: Callable) -> None:
    layer = make_last_layer(writes=2.0)
    baseline, ablation = layer.fast_inputs()
    found = ablation.scale(baseline.scale)
    for position, residual in enumerate(layer.residual):
        for neuron, write in enumerate(layer.w_out):
            changed = residual + (layer.replacement[neuron] - layer.activations[position, neuron]) * write
            torch.testing.assert_close(found[position, neuron], layer.scale(changed), atol=1e-12, rtol=0)


def test_the_relative_loss_of_scale_keeps_its_digits_in_fp32_however_small_the_change(make_last_layer: Callable) -> None:
    layer = make_last_layer(writes=1e-6)
    baseline, ablation = layer.fast_inputs()
    expected = baseline.scale.unsqueeze(1) / ablation.scale(baseline.scale) - 1
    rounded_baseline, rounded = layer.fast_inputs(torch.float32)
    found = rounded.shrink(rounded_baseline.scale, rounded.scale(rounded_baseline.scale))
    torch.testing.assert_close(ablation.shrink(baseline.scale, ablation.scale(baseline.scale)), expected, atol=1e-14, rtol=1e-8)
    torch.testing.assert_close(found.double(), expected, atol=1e-12, rtol=1e-4)


def test_the_scale_stays_positive_where_rounding_would_make_its_square_negative(make_last_layer: Callable) -> None:
    layer = make_last_layer(n_neurons=1)
    layer.residual = 1e4 * layer.w_out.expand(6, -1)
    layer.activations, layer.replacement = torch.full((6, 1), 1e4, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    baseline, ablation = layer.fast_inputs(torch.float32)
    assert (ablation.scale(baseline.scale) > 0).all()


def test_log_probs_of_the_baseline_are_those_of_the_model(make_last_layer: Callable) -> None:
    layer = make_last_layer()
    expected = layer.logits(layer.residual).log_softmax(-1)
    torch.testing.assert_close(layer.fast_inputs()[0].log_probs(), expected, atol=1e-12, rtol=0)


def test_a_part_holds_the_same_pairs(make_last_layer: Callable) -> None:
    _, ablation = make_last_layer().fast_inputs()
    part = ablation.part(slice(2, 4), slice(1, 4))
    assert torch.equal(part.activation_change, ablation.activation_change[2:4, 1:4])
    assert torch.equal(part.residual_along_write, ablation.residual_along_write[2:4, 1:4])
    assert torch.equal(part.write_norm, ablation.write_norm[1:4])
    assert torch.equal(part.logit_writes, ablation.logit_writes[1:4])
    assert part.d_model == ablation.d_model
    assert not part.scale_is_fixed
    assert replace(ablation, scale_is_fixed=True).part(slice(2, 4), slice(1, 4)).scale_is_fixed


@pytest.mark.parametrize("writes", [1e-6, 1.0, 300.0])
def test_behind_a_constant_divisor_the_total_effect_is_the_direct_one_to_the_bit(make_last_layer: Callable, writes: float) -> None:
    baseline, ablation = make_last_layer(writes=writes).fast_inputs(torch.float32)
    of_a_norm, of_a_constant = (effect_changes(baseline, replace(ablation, scale_is_fixed=fixed)) for fixed in (False, True))
    assert torch.equal(of_a_constant.loss, of_a_constant.loss_frozen_norm)
    assert torch.equal(of_a_constant.entropy, of_a_constant.entropy_frozen_norm)
    assert not of_a_constant.loss_scale_only.any()
    torch.testing.assert_close(of_a_constant.loss_frozen_norm, of_a_norm.loss_frozen_norm)
    assert not torch.equal(of_a_constant.loss, of_a_norm.loss)
