"""Token frequencies, against loops over the vocabulary."""

import math

import pytest
import torch

from confreg.neurons.frequency import Frequency, frequency_direction, frequency_log_probs, zero_count_share

COUNTS = torch.tensor([5, 0, 12, 0, 1])


def test_log_frequencies_are_those_of_the_counts_plus_one() -> None:
    expected = [math.log((count + 1) / (18 + 5)) for count in COUNTS.tolist()]
    torch.testing.assert_close(frequency_log_probs(COUNTS), torch.tensor(expected, dtype=torch.float64))


def test_log_frequencies_of_billions_of_tokens_are_exact_in_float64() -> None:
    counts = torch.tensor([3_000_000_000_000, 0])
    assert frequency_log_probs(counts)[1].item() == pytest.approx(-math.log(3_000_000_000_002), abs=1e-12)


@pytest.mark.parametrize("counts", [torch.tensor([1, -1]), torch.zeros(0, dtype=torch.int64), torch.ones(2, 2)])
def test_counts_that_are_no_counts_are_refused_with_their_shape(counts: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"token_counts has shape .*expected one count"):
        frequency_log_probs(counts)


def test_the_direction_is_the_centred_log_frequency_of_length_one() -> None:
    log_probs = frequency_log_probs(COUNTS)
    mean = sum(log_probs.tolist()) / 5
    norm = math.sqrt(sum((each - mean) ** 2 for each in log_probs.tolist()))
    expected = torch.tensor([(each - mean) / norm for each in log_probs.tolist()], dtype=torch.float64)
    torch.testing.assert_close(frequency_direction(log_probs), expected)
    assert abs(expected.sum().item()) < 1e-12


def test_equal_frequencies_have_no_direction() -> None:
    for n_tokens in (3, 7, 50257):
        log_probs = frequency_log_probs(torch.full((n_tokens,), 11))
        assert (frequency_direction(log_probs) == 0).all()


def test_before_any_token_was_counted_there_is_no_direction() -> None:
    writes = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before_any_token = Frequency.of(torch.zeros(5, dtype=torch.int64), 5, like=writes)
    assert not before_any_token.has_direction
    assert before_any_token.zero_count_share == 1.0
    assert before_any_token.log_probs.tolist() == pytest.approx([-math.log(5)] * 5)
    assert Frequency.of(COUNTS, 5, like=writes).has_direction


def test_the_zero_count_share_counts_ids_never_seen() -> None:
    assert zero_count_share(COUNTS) == pytest.approx(2 / 5)


def test_the_frequency_of_a_measurement_takes_its_dtype() -> None:
    frequency = Frequency.of(COUNTS, 5, like=torch.zeros(1, dtype=torch.float32))
    assert frequency.log_probs.dtype == frequency.direction.dtype == torch.float32
    torch.testing.assert_close(frequency.log_probs, frequency_log_probs(COUNTS).float())
    torch.testing.assert_close(frequency.direction, frequency_direction(frequency_log_probs(COUNTS)).float())
    assert frequency.zero_count_share == pytest.approx(2 / 5)


def test_counts_of_another_vocabulary_are_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match=r"5 entries; expected one for each of the model's 6 token ids"):
        Frequency.of(COUNTS, 6, like=torch.zeros(1))
