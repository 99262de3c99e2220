"""A norm behind the MLP: what a replacement changes in its scale, and by how much of a write the residual grows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from confreg.models.norms import NormReading
from confreg.models.post_mlp_norm import PostMlpNorm
from confreg.neurons.ablation import Ablation, PostNorm
from confreg.neurons.writes import NeuronWrites

N_POSITIONS, N_NEURONS, D_MODEL, EPSILON = 5, 4, 6, 1e-3


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reading(**own: Any) -> NormReading:
    return NormReading(**{"centres": False, "gain": 1 + 0.5 * normal(0, D_MODEL), "epsilon": EPSILON, **own})


NORMS = {
    "rms": reading(),
    "layer norm": reading(centres=True, bias=normal(1, D_MODEL)),
    "no gain": reading(gain=None),
    "constant": reading(epsilon=0.0, fixed_scale=0.7),
}
norms = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)


def by_hand(norm: NormReading, output: Tensor, multiplier: float) -> Tensor:
    """What the residual gains from one MLP output, a vector."""
    if norm.centres:
        output = output - output.mean()
    scale = norm.fixed_scale or (output.square().mean() + norm.epsilon).sqrt()
    normed = output / scale
    normed = normed if norm.gain is None else normed * norm.gain
    return multiplier * (normed if norm.bias is None else normed + norm.bias)


@norms
def test_the_residual_changes_along_the_normed_output_and_along_the_write_as_it_does_by_hand(norm: NormReading) -> None:
    rows, output, change = normal(2, N_NEURONS, D_MODEL), normal(3, N_POSITIONS, D_MODEL), normal(4, N_POSITIONS, N_NEURONS)
    post = PostMlpNorm.of(norm, rows, residual_multiplier=0.4)
    normed, (norm_change, write_change) = post.normed(output), post.changes(output, change)
    for position in range(N_POSITIONS):
        for neuron in range(N_NEURONS):
            after = by_hand(norm, output[position] + change[position, neuron] * rows[neuron], 0.4)
            expected = after - by_hand(norm, output[position], 0.4)
            found = norm_change[position, neuron] * normed[position] + write_change[position, neuron] * (post.gain * post.rows)[neuron]
            torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert (norm_change == 0).all() == (norm.fixed_scale is not None)


@norms
def test_neurons_replaced_together_change_the_residual_as_they_do_by_hand(norm: NormReading) -> None:
    rows, output, change = normal(2, N_NEURONS, D_MODEL), normal(3, N_POSITIONS, D_MODEL), normal(4, N_POSITIONS, N_NEURONS)
    groups = [[0, 2], [1, 2, 3]]
    post = PostMlpNorm.of(norm, rows, residual_multiplier=0.4)
    moved = torch.stack([change[:, group] @ post.rows[group] for group in groups], dim=1)
    normed, (norm_change, inverse_scale) = post.normed(output), post.changes_together(output, moved)
    for position in range(N_POSITIONS):
        for index, group in enumerate(groups):
            after = by_hand(norm, output[position] + change[position, group] @ rows[group], 0.4)
            expected = after - by_hand(norm, output[position], 0.4)
            write = post.gain * moved[position, index]
            found = norm_change[position, index] * normed[position] + inverse_scale[position, index] * write
            torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_a_norm_undoes_what_only_makes_its_input_longer() -> None:
    post = PostMlpNorm.of(reading(epsilon=0.0), normal(2, N_NEURONS, D_MODEL), 1.0)
    output = 2.5 * post.rows[:1]  # one neuron writes alone, with an activation of 2.5
    norm_change, write_change = post.changes(output, torch.full((1, N_NEURONS), 1.5, dtype=torch.float64))
    moved = norm_change[0, 0] * post.normed(output)[0] + write_change[0, 0] * post.gain * post.rows[0]
    assert norm_change[0, 0].item() == pytest.approx(2.5 / 4 - 1)
    assert moved.abs().max() < 1e-14


def test_a_small_change_of_the_scale_keeps_its_digits() -> None:
    post = PostMlpNorm.of(reading(), normal(2, N_NEURONS, D_MODEL), 1.0)
    output, change = normal(3, N_POSITIONS, D_MODEL), normal(4, N_POSITIONS, N_NEURONS)
    tiny = post.changes(output, 1e-12 * change)[0]
    scale = post.norm.scale(output).unsqueeze(1)
    first_order = -1e-12 * change * (output @ post.rows.T) / (D_MODEL * scale.square())
    torch.testing.assert_close(tiny, first_order, atol=0, rtol=1e-9)


def ablation_behind(norm: NormReading, final: NormReading, size: float = 1.0) -> tuple[Ablation, Tensor, list[list[Tensor]]]:
    """An ablation, the residual, and the residual after each replacement by hand."""
    rows, output, change = normal(2, N_NEURONS, D_MODEL), normal(3, N_POSITIONS, D_MODEL), size * normal(4, N_POSITIONS, N_NEURONS)
    post, below = PostMlpNorm.of(norm, rows, 1.0), normal(5, N_POSITIONS, D_MODEL)
    residual = torch.stack([b + by_hand(norm, m, 1.0) for b, m in zip(below, output, strict=True)])
    after = [[below[t] + by_hand(norm, output[t] + change[t, i] * rows[i], 1.0) for i in range(N_NEURONS)] for t in range(N_POSITIONS)]
    normed, w_out, unembedding = post.normed(output), final.centred(post.gain * post.rows), normal(6, 7, D_MODEL)
    seen = final.centred(normed)
    of_norm = PostNorm(
        *post.changes(output, change), normed @ unembedding.T, (residual * seen).sum(-1), seen.square().sum(-1), seen @ w_out.T
    )
    along = final.centred(residual) @ w_out.T
    return Ablation(change, along, w_out.norm(dim=-1), NeuronWrites(w_out, unembedding), D_MODEL, post=of_norm), residual, after


FINALS = {"rms": NormReading(False, epsilon=1e-5), "layer norm": NormReading(True, epsilon=1e-5)}


@pytest.mark.parametrize("final", FINALS.values(), ids=FINALS)
@pytest.mark.parametrize("size", [1e-4, 1.0, 100.0])
@norms
def test_the_final_scale_is_that_of_the_residual_changed_through_both_norms(norm: NormReading, size: float, final: NormReading) -> None:
    ablation, residual, after = ablation_behind(norm, final, size)
    before = final.scale(residual)
    found = ablation.scale(before)
    for position in range(N_POSITIONS):
        for neuron in range(N_NEURONS):
            torch.testing.assert_close(found[position, neuron], final.scale(after[position][neuron]), atol=0, rtol=1e-11)
    torch.testing.assert_close(ablation.shrink(before, found), before.unsqueeze(1) / found - 1, atol=1e-13, rtol=1e-9)


def test_a_part_behind_a_norm_holds_the_same_pairs() -> None:
    ablation, residual, _ = ablation_behind(NORMS["rms"], FINALS["rms"])
    before = FINALS["rms"].scale(residual)
    part = ablation.part(slice(1, 4), slice(2, 4))
    assert torch.equal(part.scale(before[1:4]), ablation.scale(before)[1:4, 2:4])
    assert torch.equal(part.write_change, ablation.write_change[1:4, 2:4])
    assert part.post is not None
    assert ablation.post is not None
    assert torch.equal(part.post.logits, ablation.post.logits[1:4])
