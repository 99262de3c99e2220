import numpy as np
import pytest

from confreg.figures.comparison.words import count, names_in_words, seeds_in_words, spread, steps_in_words


@pytest.mark.parametrize(
    ("seeds", "said"),
    [((3, 0, 1, 2, 7), "0 to 3, 7"), ((0, 1), "0, 1"), ((5,), "5"), ((1, 1, 2), "1, 1, 2"), ((None, 2, "x"), "2, ?, ?"), ((), "")],
)
def test_seeds_in_a_row_become_a_range(seeds, said):
    assert seeds_in_words(seeds) == said


def test_a_mean_has_its_range_unless_it_stands_alone():
    assert spread(np.array([0.1, 0.3])) == "0.200 (0.100 to 0.300)"
    assert spread(np.array([-0.25]), 2) == "−0.25"
    assert spread(np.array([])) == "–"


def test_steps_have_a_median_and_a_range():
    assert steps_in_words([181, 1256, 256]) == "256 (181 to 1,256)"
    assert steps_in_words([64, 64]) == "64"
    assert steps_in_words([]) == "–"


def test_many_names_are_cut_and_counted():
    assert names_in_words(list("abcdefgh")) == "a, b, c, d, e, f and 2 more"
    assert names_in_words(["a", "b"]) == "a, b"
    assert (count(1, "run"), count(1200, "run")) == ("1 run", "1,200 runs")
