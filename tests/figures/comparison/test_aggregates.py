import math
import statistics

import numpy as np
import pandas as pd

from confreg.figures.comparison.aggregates import over_runs
from confreg.figures.comparison.runs import read_compared_runs


def slow(runs: list[dict[int, float]]) -> dict[int, tuple[float, float, float, int]]:
    """Mean, lowest, highest and number of runs at each step, one step and one run after the other."""
    result = {}
    for step in sorted({step for run in runs for step in run}):
        values = [run[step] for run in runs if step in run and math.isfinite(run[step])]
        if values:
            result[step] = (statistics.fmean(values), min(values), max(values), len(values))
    return result


def as_plain(table: pd.DataFrame) -> dict[int, tuple[float, float, float, int]]:
    return {int(step): (row["mean"], row["low"], row["high"], int(row["n"])) for step, row in table.iterrows()}


def test_mean_and_range_equal_the_loops_over_runs_and_steps_for_different_clocks():
    generator = np.random.default_rng(3)
    clocks = [(0, 1, 2, 4, 8), (0, 2, 4, 6, 8, 16), (4, 5), (0, 8, 32)]
    runs = [dict(zip(clock, generator.normal(size=len(clock)).tolist(), strict=True)) for clock in clocks]
    runs[0][2], runs[2][5] = math.nan, math.nan
    answer = as_plain(over_runs([pd.Series(run) for run in runs]))
    expected = slow(runs)
    assert list(answer) == list(expected)
    assert 5 not in answer
    for step, values in expected.items():
        np.testing.assert_allclose(answer[step], values, rtol=1e-12)


def test_aggregates_of_runs_on_disk_equal_the_loops(make_runs):
    steps = [(0, 64, 256, 1024), (0, 64, 128, 1024), (0, 64)]
    folders = [make_runs(f"a/seed={seed}", seed=seed, steps=clock) for seed, clock in enumerate(steps)]
    runs = read_compared_runs(folders).runs
    for measure in ("excess_loss_nats", "largest_entropy_effect", "n_entropy_neurons", "spectrum_tail"):
        columns = [run.over_steps[measure] for run in runs]
        answer, expected = as_plain(over_runs(columns)), slow([column.to_dict() for column in columns])
        assert list(answer) == [0, 64, 128, 256, 1024]
        np.testing.assert_allclose(list(answer.values()), list(expected.values()), rtol=1e-12)
    assert [n for *_, n in answer.values()] == [3, 3, 1, 1, 2]


def test_no_runs_and_runs_without_a_value_have_no_row():
    assert over_runs([]).empty
    assert over_runs([pd.Series({0: math.nan, 1: math.inf})]).empty
