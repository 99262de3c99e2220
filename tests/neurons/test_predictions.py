"""What a prediction is worth, against sums written out token by token."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from confreg.neurons.predictions import (
    calibration_error,
    entropy_nats,
    kl_from_frequency,
    kl_from_truth,
    kl_to_frequency,
    loss_nats,
    pearson,
)

IMPOSSIBLE = float("-inf")


@pytest.fixture
def log_probs() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, 7, generator=generator, dtype=torch.float64).log_softmax(-1)


@pytest.fixture
def frequency() -> Tensor:
    return torch.randn(7, generator=torch.Generator().manual_seed(1), dtype=torch.float64).log_softmax(-1)


def looped(log_probs: Tensor, of_row) -> Tensor:
    rows = [of_row([float(value) for value in row]) for row in log_probs.reshape(-1, log_probs.shape[-1])]
    return torch.tensor(rows, dtype=torch.float64).reshape(log_probs.shape[:-1])


def test_the_loss_is_minus_the_log_probability_of_each_target(log_probs: Tensor) -> None:
    targets = torch.randint(0, 7, (3, 4), generator=torch.Generator().manual_seed(2))
    expected = [[-log_probs[block, token, targets[block, token]].item() for token in range(4)] for block in range(3)]
    torch.testing.assert_close(loss_nats(log_probs, targets), torch.tensor(expected, dtype=torch.float64))


def test_the_entropy_equals_the_sum_over_tokens(log_probs: Tensor) -> None:
    torch.testing.assert_close(entropy_nats(log_probs), looped(log_probs, lambda row: -sum(math.exp(each) * each for each in row)))


def test_the_entropy_of_even_odds_is_the_log_of_their_number_and_impossible_tokens_add_nothing() -> None:
    three_of_five = torch.tensor([0.0, IMPOSSIBLE, 0.0, IMPOSSIBLE, 0.0], dtype=torch.float64).log_softmax(-1)
    assert entropy_nats(three_of_five).item() == pytest.approx(math.log(3))
    assert entropy_nats(torch.tensor([0.0, IMPOSSIBLE])).item() == 0


def test_both_divergences_from_the_frequencies_equal_the_sum_over_tokens(log_probs: Tensor, frequency: Tensor) -> None:
    q = frequency.tolist()
    from_frequency = looped(log_probs, lambda row: sum(math.exp(b) * (b - a) for a, b in zip(row, q, strict=True)))
    to_frequency = looped(log_probs, lambda row: sum(math.exp(a) * (a - b) for a, b in zip(row, q, strict=True)))
    torch.testing.assert_close(kl_from_frequency(log_probs, frequency), from_frequency)
    torch.testing.assert_close(kl_to_frequency(log_probs, frequency), to_frequency)
    assert not torch.allclose(from_frequency, to_frequency, atol=1e-3)


def test_the_frequencies_do_not_diverge_from_themselves(frequency: Tensor) -> None:
    assert abs(kl_from_frequency(frequency, frequency).item()) < 1e-15
    assert abs(kl_to_frequency(frequency, frequency).item()) < 1e-15


def test_the_divergence_from_the_truth_leaves_out_what_the_truth_rules_out(log_probs: Tensor) -> None:
    truth = log_probs.flip(0).clone()
    truth[..., 2] = IMPOSSIBLE
    truth = truth.log_softmax(-1)
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for block in range(3):
        for token in range(4):
            for vocab in (0, 1, 3, 4, 5, 6):
                log_p = truth[block, token, vocab]
                expected[block, token] += log_p.exp() * (log_p - log_probs[block, token, vocab])
    torch.testing.assert_close(kl_from_truth(truth, log_probs), expected)


def test_the_truth_diverges_infinitely_from_a_model_that_rules_it_out() -> None:
    truth, model = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.0, IMPOSSIBLE]])
    assert kl_from_truth(truth, model).item() == float("inf")
    assert kl_from_truth(model, truth).item() == pytest.approx(math.log(2))


def slow_calibration_error(confidence: np.ndarray, correct: np.ndarray, n_bins: int) -> float:
    total = 0.0
    for members in np.array_split(np.argsort(confidence), n_bins):
        if len(members):
            total += len(members) / len(confidence) * abs(confidence[members].mean() - correct[members].mean())
    return total


@pytest.mark.parametrize("n_positions", [4, 15, 150])
def test_the_calibration_error_equals_the_loop_over_bins_of_equal_mass(n_positions: int) -> None:
    generator = np.random.default_rng(n_positions)
    confidence = generator.random(n_positions) ** 4  # most of the mass in a narrow range: bins of equal width would differ
    correct = generator.random(n_positions) < confidence**2
    found = calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct))
    assert found.item() == pytest.approx(slow_calibration_error(confidence, correct, 15), abs=1e-12)


def test_bins_that_cannot_be_equal_differ_by_one_position() -> None:
    confidence = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], dtype=torch.float64)
    correct = torch.tensor([True, False, False, False, True])
    # bins of three and two: |0.6 - 1| and |0.9 - 1| over five; of four and one it would be |1 - 1| and |0.5 - 1|
    assert calibration_error(confidence, correct, n_bins=2).item() == pytest.approx((0.4 + 0.1) / 5)


def test_a_model_that_is_sure_and_always_wrong_has_a_calibration_error_of_one() -> None:
    sure = torch.ones(40, dtype=torch.float64)
    assert calibration_error(sure, torch.zeros(40, dtype=torch.bool)).item() == 1
    assert calibration_error(sure, torch.ones(40, dtype=torch.bool)).item() == 0


def test_overconfidence_in_one_bin_is_not_made_up_for_by_another() -> None:
    confidence = torch.cat([torch.full((30,), 0.2), torch.full((30,), 0.8)]).double()
    correct = torch.tensor([True, False] * 30)
    assert calibration_error(confidence, correct, n_bins=2).item() == pytest.approx(0.3)


def test_pearson_equals_scipy_for_every_series() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.standard_normal((50, 3)), generator.standard_normal(50)
    first[:, 2] = 3 - 2 * second
    found = pearson(torch.from_numpy(first), torch.from_numpy(second))
    expected = [stats.pearsonr(first[:, series], second).statistic for series in range(3)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert found[2].item() == pytest.approx(-1)


def test_pearson_of_a_constant_series_is_nan() -> None:
    moving = torch.rand(333, generator=torch.Generator().manual_seed(0))
    assert pearson(torch.full((333, 1), 0.1), moving).isnan().all()
    assert pearson(torch.full((333, 1), 0.7).double() + 1e-17, moving).isnan().all()  # whose mean in float64 is another number
    assert pearson(moving.unsqueeze(1), torch.full((333,), 0.1)).isnan().all()
