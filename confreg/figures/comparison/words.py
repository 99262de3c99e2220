"""Numbers and names of many runs as people say them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

NAMES_SHOWN = 6


def seeds_in_words(seeds: Iterable[Any]) -> str:
    """Seeds in order, three or more in a row as a range: "0 to 4, 7"; unknown ones as "?"."""
    given = list(seeds)
    numbers = sorted(seed for seed in given if isinstance(seed, int))
    parts = [_range(run) for run in _runs_in_a_row(numbers)]
    return ", ".join([*parts, *("?" for seed in given if not isinstance(seed, int))])


def _runs_in_a_row(numbers: Sequence[int]) -> list[list[int]]:
    rows: list[list[int]] = []
    for number in numbers:
        if rows and number == rows[-1][-1] + 1:
            rows[-1].append(number)
        else:
            rows.append([number])
    return rows


def _range(row: list[int]) -> str:
    return f"{row[0]} to {row[-1]}" if len(row) > 2 else ", ".join(map(str, row))


def spread(values: np.ndarray, decimals: int = 3) -> str:
    """Mean, and the lowest and the highest in brackets: "0.178 (0.151 to 0.199)"; one value alone, a dash for none."""
    if not len(values):
        return "–"
    mean, low, high = (f"{value:.{decimals}f}".replace("-", "−") for value in (values.mean(), values.min(), values.max()))
    return mean if len(values) == 1 else f"{mean} ({low} to {high})"


def steps_in_words(steps: Sequence[int]) -> str:
    """Median and range of optimizer steps: "256 (181 to 256)"; one step alone, a dash for none."""
    if not len(steps):
        return "–"
    median = f"{np.median(steps):,.0f}"
    return median if min(steps) == max(steps) else f"{median} ({min(steps):,} to {max(steps):,})"


def names_in_words(names: Sequence[str]) -> str:
    """The first names and how many more there are."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def count(number: int, noun: str) -> str:
    """A number with its noun in the singular or plural."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
