"""Places dealt out by weight."""

from __future__ import annotations

import numpy as np
import pytest

from confreg.languages.interleaving import Interleaving

WEIGHTS = [[1.0], [1.0, 3.0], [3.0, 1.0, 1.0], [0.7, 0.2, 0.1], [1e-6, 1.0], [5.0, 4.0, 3.0, 2.0, 1.0], [1 / 3] * 7]


def test_three_to_one_is_dealt_out_in_fours() -> None:
    parts, numbers = Interleaving([1.0, 3.0]).places(range(8))
    assert parts.tolist() == [1, 1, 0, 1, 1, 1, 0, 1]
    assert numbers.tolist() == [0, 1, 0, 2, 3, 4, 1, 5]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_start_of_the_sequence_has_the_right_proportions(weights: list[float]) -> None:
    parts, _ = Interleaving(weights).places(range(3000))
    shares = np.array(weights) / sum(weights)
    for n_places in range(1, 3001):
        counts = np.bincount(parts[:n_places], minlength=len(weights))
        assert np.abs(counts - n_places * shares).max() <= (len(weights) - 1) / 2 + 1e-5


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_number_of_a_place_counts_those_of_its_part_before_it(weights: list[float]) -> None:
    parts, numbers = Interleaving(weights).places(range(500))
    seen = dict.fromkeys(range(len(weights)), 0)
    for part, number in zip(parts.tolist(), numbers.tolist(), strict=True):
        assert number == seen[part]
        seen[part] += 1


@pytest.mark.parametrize("weights", WEIGHTS)
def test_any_places_get_what_the_whole_sequence_has_there(weights: list[float]) -> None:
    whole = Interleaving(weights).places(range(1000))
    asked = [999, 0, 500, 501, 3]
    for found, expected in zip(Interleaving(weights).places(asked), whole, strict=True):
        assert found.tolist() == expected[asked].tolist()


def test_only_ratios_of_weights_count() -> None:
    one, other = Interleaving([2.0, 6.0]).places(range(100)), Interleaving([0.5, 1.5]).places(range(100))
    assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def test_billions_of_places_on_the_proportions_still_hold() -> None:
    counts = Interleaving([0.7, 0.2, 0.1]).counts(np.array([2**32]))[0]
    assert counts.sum() == 2**32
    assert np.abs(counts - 2**32 * np.array([0.7, 0.2, 0.1])).max() < 3
