"""What the weights alone say, against loops and torch.linalg.svd in float64."""

import math

import pytest
import torch
from torch import Tensor

from confreg.neurons.weights import (
    TokenMoments,
    default_null_dimensions,
    frequency_cosine,
    logit_var,
    null_space_share,
    null_space_share_chance,
    singular_directions,
    unembedding_gain,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def effective_unembedding(vocabulary: int, d_model: int, centred: bool = True) -> Tensor:
    matrix = normal(vocabulary, d_model) * torch.linspace(0.01, 2, d_model, dtype=torch.float64)
    if centred:
        matrix = matrix - matrix.mean(1, keepdim=True)
    return matrix - matrix.mean(0)


def cosine(first: Tensor, second: Tensor) -> float:
    product = sum(a * b for a, b in zip(first.tolist(), second.tolist(), strict=True))
    return product / math.sqrt(sum(a * a for a in first.tolist()) * sum(b * b for b in second.tolist()))


def test_logit_var_equals_the_loop_over_neurons_and_tokens_with_ddof_one() -> None:
    w_out, unembedding = normal(5, 7, seed=1), effective_unembedding(11, 7)
    for neuron, found in zip(w_out, logit_var(w_out, TokenMoments.of(unembedding)), strict=True):
        cosines = [cosine(neuron, token) for token in unembedding]
        mean = sum(cosines) / 11
        assert found.item() == pytest.approx(sum((each - mean) ** 2 for each in cosines) / (11 - 1), rel=1e-10)


def test_logit_var_does_not_depend_on_the_length_of_a_write_and_is_nan_without_one() -> None:
    w_out, unembedding = normal(5, 7, seed=1), effective_unembedding(11, 7)
    rescaled = w_out * torch.tensor([1e-6, -3.0, 1e6, 1.0, 0.0]).double().unsqueeze(1)
    found = logit_var(rescaled, TokenMoments.of(unembedding))
    torch.testing.assert_close(found[:4], logit_var(w_out, TokenMoments.of(unembedding))[:4])
    assert found[4].isnan()


def test_logit_var_is_zero_for_a_write_the_unembedding_cannot_see() -> None:
    unembedding = effective_unembedding(11, 7, centred=False)
    unembedding[:, 2] = 0
    blind = torch.eye(7, dtype=torch.float64)[2:3]
    assert logit_var(blind, TokenMoments.of(unembedding)).item() == 0


def test_logit_var_of_a_random_direction_is_about_one_over_d_model() -> None:
    d_model = 50
    found = logit_var(normal(400, d_model, seed=2), TokenMoments.of(normal(3000, d_model, seed=3)))
    assert found.mean().item() == pytest.approx(1 / d_model, rel=0.05)


def test_the_gain_equals_the_loop_over_neurons() -> None:
    w_out, unembedding = normal(5, 7, seed=1), effective_unembedding(11, 7)
    whole = math.sqrt(sum(value**2 for row in unembedding.tolist() for value in row) / 7)
    for neuron, found in zip(w_out, unembedding_gain(w_out, TokenMoments.of(unembedding)), strict=True):
        written = [sum(a * b for a, b in zip(token.tolist(), neuron.tolist(), strict=True)) for token in unembedding]
        length = math.sqrt(sum(a * a for a in neuron.tolist()))
        assert found.item() == pytest.approx(math.sqrt(sum(value**2 for value in written)) / length / whole, rel=1e-10)


def test_the_gain_is_one_where_the_unembedding_sees_all_directions_alike_and_zero_where_it_is_blind() -> None:
    rotation = torch.linalg.qr(normal(7, 7))[0]
    torch.testing.assert_close(unembedding_gain(normal(3, 7, seed=1), TokenMoments.of(4 * rotation)), torch.ones(3, dtype=torch.float64))
    rotation[:, 2] = 0
    writes = torch.stack([torch.eye(7, dtype=torch.float64)[2], torch.zeros(7, dtype=torch.float64)])
    gains = unembedding_gain(writes, TokenMoments.of(rotation))
    assert gains[0].item() == 0
    assert gains[1].isnan()


def test_the_cosine_with_the_frequency_direction_equals_the_loop_over_neurons() -> None:
    w_out, unembedding, direction = normal(4, 7, seed=1), effective_unembedding(11, 7), normal(11, seed=2)
    for neuron, found in zip(w_out, frequency_cosine(w_out, TokenMoments.of(unembedding, direction / direction.norm())), strict=True):
        written = [sum(a * b for a, b in zip(token.tolist(), neuron.tolist(), strict=True)) for token in unembedding]
        assert found.item() == pytest.approx(cosine(torch.tensor(written, dtype=torch.float64), direction), rel=1e-10)


def test_the_cosine_is_one_along_the_frequency_direction_and_nan_where_nothing_is_written_or_there_is_no_direction() -> None:
    unembedding = effective_unembedding(11, 7, centred=False)
    unembedding[:, 2] = 0
    along = normal(7, seed=1) * (torch.arange(7) != 2)
    direction, writes = (
        unembedding @ along / (unembedding @ along).norm(),
        torch.stack([along, -0.1 * along, torch.eye(7).double()[2], 0 * along]),
    )
    cosines = frequency_cosine(writes, TokenMoments.of(unembedding, direction))
    torch.testing.assert_close(cosines[:2], torch.tensor([1.0, -1.0], dtype=torch.float64))
    assert cosines[2:].isnan().all()
    assert frequency_cosine(writes, TokenMoments.of(unembedding, torch.zeros(11))).isnan().all()


def test_moments_taken_in_parts_of_the_vocabulary_are_those_of_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    unembedding, direction = effective_unembedding(40, 7).float(), normal(40, seed=2)
    whole, values = TokenMoments.of(unembedding, direction), singular_directions(unembedding, residual_is_centred=True)[0]
    monkeypatch.setattr("confreg.neurons.weights.ELEMENTS_AT_ONCE", 50)
    parts = TokenMoments.of(unembedding, direction)
    for name in ("gram", "unit_covariance", "along_frequency"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(singular_directions(unembedding, residual_is_centred=True)[0], values, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("vocabulary", [40, 9, 5])
@pytest.mark.parametrize("centred", [True, False])
def test_singular_values_and_directions_are_those_of_the_singular_value_decomposition(vocabulary: int, centred: bool) -> None:
    unembedding = effective_unembedding(vocabulary, 8, centred)
    values, directions = singular_directions(unembedding, residual_is_centred=centred)
    usable = 7 if centred else 8
    assert values.shape == (usable,)
    assert directions.shape == (8, usable)
    expected = torch.zeros(8, dtype=torch.float64)
    found = torch.linalg.svdvals(unembedding)
    expected[: len(found)] = found
    torch.testing.assert_close(values, expected[:usable], atol=1e-6 * float(found[0]), rtol=1e-6)
    assert (values.diff() <= 0).all()
    torch.testing.assert_close(directions.T @ directions, torch.eye(usable, dtype=torch.float64), atol=1e-10, rtol=0)
    torch.testing.assert_close((unembedding @ directions).norm(dim=0), values, atol=1e-6 * float(found[0]), rtol=0)


def test_the_smallest_directions_span_what_the_singular_value_decomposition_says() -> None:
    unembedding = effective_unembedding(40, 8)
    _, directions = singular_directions(unembedding, residual_is_centred=True)
    right = torch.linalg.svd(unembedding)[2]  # rows: directions, largest first; the last is the exact null of the centring
    assert (right[-1].abs() - 8**-0.5).abs().max() < 1e-10
    overlap = (right[4:7] @ directions[:, -3:]).square().sum()
    assert overlap.item() == pytest.approx(3, abs=1e-9)


def test_the_all_ones_direction_is_left_out_where_the_norm_centres_and_only_there() -> None:
    ones = torch.ones(8, dtype=torch.float64)
    for centred, expected in ((True, 0.0), (False, 8**0.5)):
        _, directions = singular_directions(effective_unembedding(40, 8, centred), residual_is_centred=centred)
        assert (ones @ directions).norm().item() == pytest.approx(expected, abs=1e-9)


def test_float32_weights_are_decomposed_in_float64() -> None:
    values, directions = singular_directions(effective_unembedding(40, 8).float(), residual_is_centred=True)
    assert values.dtype == directions.dtype == torch.float64


@pytest.mark.parametrize(
    ("d_model", "vocabulary", "centred", "expected"),
    [
        (128, 256, True, 6),  # round(6.4)
        (768, 50257, True, 38),  # round(38.4)
        (20, 256, True, 4),  # never fewer than four
        (3, 256, True, 2),  # never more than there are
        (128, 65, True, 63),  # 127 usable, rank 64 after the vocabulary mean is taken out
        (128, 65, False, 64),
        (128, 128, False, 6),
    ],
)
def test_the_null_dimensions_are_five_per_cent_at_least_four_and_the_exact_null_space(
    d_model: int, vocabulary: int, centred: bool, expected: int
) -> None:
    assert default_null_dimensions(d_model, vocabulary, centred) == expected


@pytest.mark.parametrize("centred", [True, False])
def test_with_fewer_tokens_than_dimensions_the_default_holds_the_whole_exact_null_space(centred: bool) -> None:
    values, _ = singular_directions(effective_unembedding(30, 60, centred), residual_is_centred=centred)
    n_null = int((values < 1e-6 * values[0]).sum())
    assert n_null > 4
    assert default_null_dimensions(60, 30, centred) == n_null


def test_the_null_space_share_equals_the_loop_over_directions() -> None:
    w_out = normal(5, 8, seed=1)
    null = torch.linalg.qr(normal(8, 3, seed=2))[0]
    for neuron, found in zip(w_out, null_space_share(w_out, null), strict=True):
        inside = sum(sum(a * b for a, b in zip(neuron.tolist(), null[:, k].tolist(), strict=True)) ** 2 for k in range(3))
        assert found.item() == pytest.approx(math.sqrt(inside / sum(a * a for a in neuron.tolist())))


def test_the_null_space_share_is_one_inside_zero_outside_a_ratio_of_norms_between_and_nan_without_a_write() -> None:
    null = torch.eye(4, dtype=torch.float64)[:, :2]
    w_out = torch.tensor([[2.0, -1, 0, 0], [0, 0, 5, 1], [3, 0, 4, 0], [0, 0, 0, 0]], dtype=torch.float64)
    found = null_space_share(w_out, null)
    torch.testing.assert_close(found[:3], torch.tensor([1.0, 0.0, 0.6], dtype=torch.float64))
    assert found[3].isnan()


@pytest.mark.parametrize(("null_dimensions", "usable"), [(4, 15), (6, 127)])
def test_the_chance_share_is_passed_by_the_largest_of_random_neurons_in_one_layer_of_twenty(null_dimensions: int, usable: int) -> None:
    n_neurons, n_layers = 40, 600
    directions = normal(n_layers * n_neurons, usable, seed=5)
    null = torch.eye(usable, dtype=torch.float64)[:, :null_dimensions]
    largest = null_space_share(directions, null).reshape(n_layers, n_neurons).amax(1)
    above = (largest > null_space_share_chance(n_neurons, null_dimensions, usable)).double().mean().item()
    assert above == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / n_layers))


def test_chance_is_one_where_every_direction_is_null() -> None:
    assert null_space_share_chance(10, 7, 7) == 1
