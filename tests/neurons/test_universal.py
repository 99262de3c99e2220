"""Moments of a neuron's cosines with the tokens against scipy in float64, and the kinds of neurons that they tell apart."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from confreg.neurons import universal
from confreg.neurons.universal import (
    CosineMoments,
    TokenDirections,
    cosine_moments,
    partition_neurons,
    prediction_neurons,
    suppression_neurons,
    universal_columns,
)
from confreg.neurons.weights import TokenMoments, logit_var
from confreg.settings import UniversalRules

RULES = UniversalRules()
KINDS = ("is_prediction_neuron", "is_suppression_neuron", "is_partition_neuron")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def centred_tokens(vocabulary: int, d_model: int, seed: int = 0) -> Tensor:
    """Of unequal lengths, most of them about a direction of their own: their cosines have a mean and a tail."""
    tokens = normal(vocabulary, d_model, seed=seed) * normal(vocabulary, 1, seed=seed + 1).exp() + 0.4 * normal(d_model, seed=seed + 2)
    return tokens - tokens.mean(0)


def moments_of(w_out: Tensor, unembedding: Tensor) -> CosineMoments:
    return cosine_moments(w_out, TokenDirections.of(unembedding))


def slowly(w_out: Tensor, unembedding: Tensor) -> dict[str, np.ndarray]:
    """One neuron and one token at a time, all cosines kept."""
    cosines = np.array([[(row @ token / row.norm() / token.norm()).item() for token in unembedding] for row in w_out])
    return {
        "variance": np.var(cosines, axis=1, ddof=0),
        "skew": stats.skew(cosines, axis=1),
        "kurtosis": stats.kurtosis(cosines, axis=1, fisher=False),
    }


def test_the_moments_equal_those_of_scipy_over_all_cosines() -> None:
    w_out, unembedding = normal(5, 7, seed=5), centred_tokens(37, 7)
    found = moments_of(w_out, unembedding)
    for name, expected in slowly(w_out, unembedding).items():
        np.testing.assert_allclose(getattr(found, name).numpy(), expected, rtol=1e-11)


def test_a_mean_far_above_the_spread_costs_no_digit_of_the_moments() -> None:
    unembedding = torch.cat([torch.ones(41, 1), 1e-5 * normal(41, 6)], dim=1)  # cosines with the first axis: 1 - 1e-10 and the like
    w_out = torch.tensor([[1.0, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0]]).double()
    exact = unembedding.numpy().astype(np.longdouble)
    exact = exact / np.sqrt((exact**2).sum(1, keepdims=True)) @ (w_out[0] / w_out[0].norm()).numpy().astype(np.longdouble)
    found = moments_of(w_out, unembedding)
    assert found.variance.item() == pytest.approx(float(np.var(exact)), rel=1e-8)
    assert found.kurtosis.item() == pytest.approx(float(stats.kurtosis(exact, fisher=False)), rel=1e-8)
    assert found.skew.item() == pytest.approx(float(stats.skew(exact)), rel=1e-8)


def test_in_how_many_parts_neurons_and_tokens_are_taken_plays_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    w_out, unembedding = normal(10, 7, seed=5), centred_tokens(37, 7)
    expected = universal_columns([w_out, 2 * w_out[:3]], unembedding, RULES)
    for at_once in (1, 3, 8, 37):
        monkeypatch.setattr(universal, "AT_ONCE", at_once)
        found = universal_columns([w_out, 2 * w_out[:3]], unembedding, RULES)
        assert found.keys() == expected.keys()
        for name, values in found.items():
            torch.testing.assert_close(values, expected[name], rtol=1e-11, atol=0)


@pytest.mark.heavy
def test_neither_neurons_times_vocabulary_nor_a_second_unembedding_is_ever_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(universal, "AT_ONCE", 16)
    w_out, unembedding = normal(500, 8).float(), centred_tokens(3000, 8).float()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        moments_of(w_out, unembedding)
    now = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    assert peak < unembedding.numel() * 8 / 2


def test_the_variance_is_the_papers_logit_var_but_for_what_it_divides_by() -> None:
    w_out, unembedding = normal(5, 7, seed=5), centred_tokens(37, 7)
    torch.testing.assert_close(moments_of(w_out, unembedding).variance * 37 / 36, logit_var(w_out, TokenMoments.of(unembedding)))


def test_the_length_of_a_row_does_not_matter_and_its_sign_turns_the_skew_alone() -> None:
    w_out, unembedding = normal(3, 7, seed=5), centred_tokens(37, 7)
    one, other = moments_of(w_out, unembedding), moments_of(w_out * torch.tensor([[1e-9], [-1.0], [-1e9]]).double(), unembedding)
    torch.testing.assert_close(other.variance, one.variance)
    torch.testing.assert_close(other.kurtosis, one.kurtosis)
    torch.testing.assert_close(other.skew, one.skew * torch.tensor([1.0, -1.0, -1.0]).double())


def test_weights_in_short_precision_are_read_as_the_numbers_that_they_are() -> None:
    w_out, unembedding = normal(5, 7, seed=5).bfloat16(), centred_tokens(37, 7).float()
    expected = moments_of(w_out.double(), unembedding.double())
    for name in ("variance", "skew", "kurtosis"):
        assert getattr(moments_of(w_out.float(), unembedding), name).equal(getattr(expected, name))


def test_a_row_along_one_token_among_random_ones_predicts_it_and_its_negative_suppresses_it() -> None:
    vocabulary, d_model = 4000, 512
    unembedding = normal(vocabulary, d_model)
    unembedding -= unembedding.mean(0)
    w_out = torch.stack([unembedding[17], -unembedding[17]])
    moments = moments_of(w_out, unembedding)
    # one cosine is 1, the others are nearly normal with variance 1 / d_model
    expected = (1 + 3 * vocabulary / d_model**2) * vocabulary / (1 + vocabulary / d_model) ** 2
    assert moments.kurtosis.tolist() == pytest.approx([expected] * 2, rel=0.05)
    assert expected > 50
    assert prediction_neurons(moments, RULES).tolist() == [True, False]
    assert suppression_neurons(moments, RULES).tolist() == [False, True]
    assert not partition_neurons(moments, d_model, RULES).any()


def test_a_row_between_two_clusters_of_tokens_parts_the_vocabulary_and_predicts_no_token() -> None:
    between = normal(1, 128, seed=3)
    between /= between.norm()
    sides = torch.cat([torch.ones(300, 1), -torch.ones(300, 1)]).double()
    unembedding = sides * between + 0.02 * normal(600, 128)
    moments = moments_of(torch.cat([between, -between, normal(1, 128, seed=4)]), unembedding - unembedding.mean(0))
    assert moments.variance[:2].min() > 0.5
    assert moments.kurtosis[:2].tolist() == pytest.approx([1, 1], abs=0.05)  # two values, equally often: the least there is
    assert partition_neurons(moments, 128, RULES).tolist() == [True, True, False]
    assert not (prediction_neurons(moments, RULES) | suppression_neurons(moments, RULES)).any()


def test_a_random_direction_among_random_tokens_has_the_moments_of_a_normal_distribution_and_is_of_no_kind() -> None:
    unembedding = normal(5000, 64)
    columns = universal_columns([normal(20, 64, seed=4)], unembedding - unembedding.mean(0), RULES)
    torch.testing.assert_close(columns["vocabulary_cosine_variance"] * 64, torch.ones(20).double(), atol=0.1, rtol=0)
    torch.testing.assert_close(columns["vocabulary_cosine_kurtosis"], torch.full((20,), 3.0).double(), atol=0.4, rtol=0)
    assert not any(columns[kind].any() for kind in KINDS)


def test_a_zero_row_has_a_length_and_nothing_else() -> None:
    columns = universal_columns([torch.zeros(1, 7)], centred_tokens(37, 7).float(), RULES)
    assert columns["w_out_norm"].item() == 0
    assert all(columns[f"vocabulary_cosine_{name}"].isnan().all() for name in ("variance", "skew", "kurtosis"))
    assert not any(columns[kind].any() for kind in KINDS)


@pytest.mark.parametrize("d_model", [16, 768])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_write_that_the_unembedding_cannot_see_has_no_shape_made_of_rounding(dtype: torch.dtype, d_model: int) -> None:
    unembedding = centred_tokens(300, d_model).to(dtype)
    unembedding = unembedding - unembedding.mean(1, keepdim=True)  # as behind a LayerNorm: all ones is its null direction
    moments = moments_of(torch.full((1, d_model), 0.1, dtype=dtype), unembedding)
    assert moments.variance.item() < 1e-13
    assert moments.kurtosis.isnan().all()
    assert moments.skew.isnan().all()


def test_a_token_that_equals_the_vocabularys_mean_counts_with_a_cosine_of_zero() -> None:
    w_out, unembedding = normal(1, 7, seed=5), centred_tokens(37, 7)
    unembedding[4] = 0
    cosines = [0.0 if index == 4 else torch.cosine_similarity(w_out[0], token, dim=0).item() for index, token in enumerate(unembedding)]
    assert moments_of(w_out, unembedding).kurtosis.item() == pytest.approx(stats.kurtosis(cosines, fisher=False), rel=1e-11)


def test_the_thresholds_are_those_of_the_rules_and_must_be_exceeded() -> None:
    def neuron(variance: float, skew: float, kurtosis: float) -> CosineMoments:
        return CosineMoments(*(torch.tensor([each]).double() for each in (variance, skew, kurtosis)))

    def kinds(moments: CosineMoments, rules: UniversalRules = RULES, d_model: int = 2000) -> list[bool]:
        return [each.item() for each in (prediction_neurons(moments, rules), suppression_neurons(moments, rules))] + [
            partition_neurons(moments, d_model, rules).item()
        ]

    assert kinds(neuron(0.001, 0.1, 10.1)) == [True, False, False]
    assert kinds(neuron(0.001, -0.1, 10.1)) == [False, True, False]
    assert kinds(neuron(0.001, 0.0, 10.1)) == [False, False, False]
    assert kinds(neuron(0.001, 0.1, 10.0)) == [False, False, False]
    assert kinds(neuron(0.0051, 0.1, 10.1)) == [True, False, True]  # the kinds do not exclude one another
    assert kinds(neuron(0.005, 0.1, 3.0)) == [False, False, False]
    assert kinds(neuron(0.001, 0.1, 5.0), replace(RULES, kurtosis_above=4.0)) == [True, False, False]
    assert kinds(neuron(0.001, 0.1, 3.0), replace(RULES, partition_variance_above=0.0, partition_variance_multiple=1.0)) == [
        *[False] * 2,
        True,
    ]
    assert kinds(neuron(math.nan, math.nan, math.nan)) == [False, False, False]


def test_in_a_narrow_model_a_partition_neuron_must_exceed_random_directions_and_not_the_papers_number_alone() -> None:
    moments = CosineMoments(*(torch.tensor([0.07, 0.08]).double() for _ in range(3)))
    assert partition_neurons(moments, 64, RULES).tolist() == [False, True]  # 5 / 64 is 0.078
    assert partition_neurons(moments, 64, replace(RULES, partition_variance_multiple=0.0)).tolist() == [True, True]


def test_rows_are_in_the_order_of_layers_and_neurons_whatever_their_number() -> None:
    columns = universal_columns(iter([normal(2, 7), normal(3, 7, seed=1)]), centred_tokens(37, 7), RULES)
    assert columns["layer"].tolist() == [0, 0, 1, 1, 1]
    assert columns["neuron"].tolist() == [0, 1, 0, 1, 2]
    torch.testing.assert_close(columns["w_out_norm"][2:], normal(3, 7, seed=1).norm(dim=-1))
