"""At which steps a run saves and measures."""

from itertools import pairwise

import pytest

from confreg.clock import clock_steps


def test_two_points_for_each_doubling_up_to_the_last_step() -> None:
    assert clock_steps(100) == (0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 100)
    assert clock_steps(1) == (0, 1)


@pytest.mark.parametrize("per_doubling", [1, 2, 4])
@pytest.mark.parametrize("last", [1, 2, 3, 7, 512, 1500, 2**20 + 1])
def test_step_zero_and_the_last_are_in_and_steps_only_grow(last: int, per_doubling: int) -> None:
    steps = clock_steps(last, per_doubling)
    assert steps[0] == 0
    assert steps[-1] == last
    assert all(before < after for before, after in pairwise(steps))
    assert all(type(step) is int for step in steps)


@pytest.mark.parametrize("per_doubling", [1, 2, 3, 4])
def test_late_doublings_hold_exactly_so_many_points(per_doubling: int) -> None:
    steps = clock_steps(2**14, per_doubling)
    for exponent in range(6, 14):
        assert sum(2**exponent <= step < 2 ** (exponent + 1) for step in steps) == per_doubling


def test_the_points_of_a_shorter_run_are_those_of_a_longer_one_but_for_its_last() -> None:
    assert set(clock_steps(700)[:-1]) <= set(clock_steps(5000))


def test_a_limit_keeps_the_earliest_points_and_the_last() -> None:
    assert clock_steps(100, max_points=2) == (0, 100)
    assert clock_steps(100, max_points=5) == (0, 1, 2, 3, 100)
    assert clock_steps(100, max_points=99) == clock_steps(100)


@pytest.mark.parametrize("wrong", [{"last": 0}, {"last": -3}, {"last": 5, "per_doubling": 0}, {"last": 5, "max_points": 1}])
def test_a_clock_without_points_is_refused_with_what_came_and_what_was_expected(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"clock_steps got last=-?\d+, per_doubling=\d+, max_points=.*expected last >= 1"):
        clock_steps(**wrong)
