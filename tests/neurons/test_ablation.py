"""What goes into the effects: the scale after a replacement, cutting into parts, and what may be left out."""

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch

from confreg.neurons.ablation import Ablation, EffectChanges, PostNorm, Wanted
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
    scale, parts = baseline.scale.float(), ("activation_change", "residual_along_write", "write_norm")
    rounded = replace(ablation, **{name: getattr(ablation, name).float() for name in parts})
    found = rounded.shrink(scale, rounded.scale(scale))
    assert found.dtype == torch.float32
    torch.testing.assert_close(ablation.shrink(baseline.scale, ablation.scale(baseline.scale)), expected, atol=1e-14, rtol=1e-8)
    torch.testing.assert_close(found.double(), expected, atol=1e-12, rtol=1e-4)


def test_the_scale_stays_positive_where_rounding_would_make_its_square_negative(make_last_layer: Callable) -> None:
    layer = make_last_layer(n_neurons=1)
    layer.residual = 1e4 * layer.w_out.expand(6, -1)
    layer.activations, layer.replacement = torch.full((6, 1), 1e4, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    baseline, ablation = layer.fast_inputs()
    along = ablation.residual_along_write.float()
    rounded = replace(ablation, residual_along_write=along, activation_change=ablation.activation_change.float())
    squares = baseline.scale**2 + (2 * rounded.activation_change * along + (rounded.activation_change * ablation.write_norm) ** 2)[:, 0] / 8
    assert (squares < 0).any()
    assert (rounded.scale(baseline.scale) > 0).all()


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
    assert torch.equal(part.writes.w_out, ablation.writes.w_out[1:4])
    assert part.writes.unembedding is ablation.writes.unembedding
    assert part.d_model == ablation.d_model
    assert not part.scale_is_fixed
    assert replace(ablation, scale_is_fixed=True).part(slice(2, 4), slice(1, 4)).scale_is_fixed


@pytest.mark.parametrize("writes", [1e-6, 0.01, 1.0, 300.0])
def test_behind_a_constant_divisor_the_total_effect_is_the_direct_one_to_the_bit(make_last_layer: Callable, writes: float) -> None:
    baseline, ablation = make_last_layer(writes=writes).fast_inputs(torch.float32)
    every = Wanted(every_variant=True)
    of_a_norm, of_a_constant = (effect_changes(baseline, replace(ablation, scale_is_fixed=fixed), wanted=every) for fixed in (False, True))
    assert torch.equal(of_a_constant.loss, of_a_constant.loss_frozen_norm)
    assert torch.equal(of_a_constant.entropy, of_a_constant.entropy_frozen_norm)
    assert torch.equal(of_a_constant.kl_from_frequency, of_a_constant.kl_from_frequency_frozen_norm)
    assert not of_a_constant.loss_scale_only.any()
    torch.testing.assert_close(of_a_constant.loss_frozen_norm, of_a_norm.loss_frozen_norm)
    assert not torch.equal(of_a_constant.loss, of_a_norm.loss)


def post_norm(make_last_layer: Callable) -> tuple[PostNorm, Ablation, dict[str, torch.Tensor]]:
    """One whose numbers come from vectors: the residual x, the normed output N and the writes w, of mean zero."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return values - values.mean(-1, keepdim=True)

    vectors = {"x": normal(6, 8), "normed": normal(6, 8), "w": normal(5, 8)}
    x, normed, w = vectors.values()
    along = {"residual_along": (x * normed).sum(-1), "square": normed.square().sum(-1), "along_write": normed @ w.T}
    post = PostNorm(norm_change=normal(6, 5), write_change=normal(6, 5), logits=normal(6, 13), **along)
    _, ablation = make_last_layer().fast_inputs()
    return post, replace(ablation, residual_along_write=x @ w.T, write_norm=w.norm(dim=-1), post=post), vectors


def test_behind_a_norm_of_the_mlps_output_the_scale_is_that_of_the_residual_moved_along_both(make_last_layer: Callable) -> None:
    post, ablation, vectors = post_norm(make_last_layer)
    moved = post.norm_change.unsqueeze(-1) * vectors["normed"].unsqueeze(1) + post.write_change.unsqueeze(-1) * vectors["w"]
    changed = vectors["x"].unsqueeze(1) + moved
    before = (vectors["x"].square().mean(-1) + 1e-5).sqrt()
    expected = (changed.square().mean(-1) + 1e-5).sqrt()
    torch.testing.assert_close(ablation.scale(before), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(ablation.shrink(before, expected), before.unsqueeze(1) / expected - 1, atol=1e-12, rtol=0)


def test_a_part_of_what_is_behind_such_a_norm_holds_the_same_pairs(make_last_layer: Callable) -> None:
    post, ablation, _ = post_norm(make_last_layer)
    part, positions, neurons = ablation.part(slice(2, 4), slice(1, 4)).post, slice(2, 4), slice(1, 4)
    for name in ("norm_change", "write_change", "along_write"):
        assert torch.equal(getattr(part, name), getattr(post, name)[positions, neurons]), name
    for name in ("logits", "residual_along", "square"):
        assert torch.equal(getattr(part, name), getattr(post, name)[positions]), name


@pytest.mark.parametrize(
    ("wanted", "missing"),
    [
        (Wanted(), {"entropy_frozen_frequency", "kl_from_frequency_frozen_norm", "kl_from_frequency_frozen_frequency"}),
        (Wanted(scale_only=False, every_variant=True), {"loss_scale_only"}),
        (Wanted(ranks=False, every_variant=True), {"argmax", "reciprocal_rank"}),
        (Wanted(temperature=False, every_variant=True), {"divergence", "divergence_from_temperature"}),
    ],
)
@pytest.mark.parametrize("writes", [1e-3, 0.2, 20.0])
def test_what_nobody_asked_for_is_none_and_the_rest_is_as_ever(
    make_last_layer: Callable, wanted: Wanted, missing: set[str], writes: float
) -> None:
    inputs = make_last_layer(writes=writes).fast_inputs(torch.float32)
    every, found = (effect_changes(*inputs, wanted=each) for each in (Wanted(every_variant=True), wanted))
    assert {each.name for each in fields(EffectChanges) if getattr(found, each.name) is None} == missing
    assert {*wanted.names()} == {each.name for each in fields(EffectChanges)} - missing
    for name in wanted.names():
        torch.testing.assert_close(getattr(found, name), getattr(every, name), atol=1e-5, rtol=0)
