"""Runs that differ only in the seed are one condition; what differs between conditions names them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from confreg.figures.comparison.places import natural
from confreg.figures.comparison.runs import ComparedRun

ABSENT = "–"
LONGEST_LABEL = 48  # characters; a longer list of differences gives way to the name of a folder
LONGEST_VALUE = 60


@dataclass(frozen=True)
class Condition:
    """Runs of one configuration.

    Attributes:
        label: short and unique on the page.
        settings: dotted key to value in words, of the keys in which the conditions differ.
        runs: by seed, unknown ones last.
    """

    label: str
    settings: dict[str, str]
    runs: tuple[ComparedRun, ...]

    @property
    def finished(self) -> list[ComparedRun]:
        """The runs whose last step is their end: the tables aggregate these."""
        return [run for run in self.runs if run.is_finished]

    def finals(self, measure: str) -> np.ndarray:
        """A measure at the last step of each finished run; what is not known is left out."""
        values = np.array([run.at_last(measure) for run in self.finished], dtype="float64")
        return values[np.isfinite(values)]


def conditions_of(runs: Sequence[ComparedRun], folder: Path) -> list[Condition]:
    """Groups of runs with equal settings, ordered by the values in which they differ, or, where folders name them, as they came.

    Args:
        runs: a run without a configuration is a group of its own.
        folder: names a single condition.
    """
    groups = list(_groups(runs))
    keys = differing_keys([group[0].settings for group in groups])
    settings = [{key: value_text(group[0].settings.get(key)) for key in keys} for group in groups]
    labels = _labels(groups, settings, folder)
    conditions = [Condition(*each) for each in zip(labels, settings, map(tuple, groups), strict=True)]
    if any(condition.label != _differences(condition.settings) for condition in conditions):
        return conditions
    return sorted(conditions, key=lambda condition: natural(condition.label))


def differing_keys(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted keys that do not have one value in all of these; null and absent are the same, and an empty mapping says nothing."""
    known = [each for each in settings if each]
    keys = sorted({key for each in known for key in each})
    return [key for key in keys if len({_exactly(each.get(key)) for each in known}) > 1]


def value_text(value: Any) -> str:
    """A setting as it would stand on a command line, cut where it is long; a dash for null."""
    if value is None:
        return ABSENT
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _exactly(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _groups(runs: Sequence[ComparedRun]) -> Iterator[list[ComparedRun]]:
    groups: dict[str, list[ComparedRun]] = defaultdict(list)
    for run in runs:
        groups[_exactly(run.settings) if run.settings else str(run.path)].append(run)
    yield from (sorted(group, key=_by_seed) for group in groups.values())


def _by_seed(run: ComparedRun) -> tuple[bool, int]:
    return (True, 0) if not isinstance(run.seed, int) else (False, run.seed)


def _labels(groups: Sequence[list[ComparedRun]], settings: Sequence[Mapping[str, str]], folder: Path) -> list[str]:
    """The differences where they are short, else the folders of the runs where they tell the groups apart, else letters."""
    if len(groups) == 1:
        return [folder.resolve().name or "all runs"]
    candidates = (
        [_differences(each) for each in settings],
        [_one_folder([Path(run.name).parent.as_posix() for run in group]) for group in groups],
        [_one_folder([run.name for run in group]) for group in groups],
    )
    for labels in candidates:
        if len(set(labels)) == len(labels) and all(0 < len(label) <= LONGEST_LABEL for label in labels):
            return labels
    return [f"{_letter(index)}: {group[0].name}"[:LONGEST_LABEL] for index, group in enumerate(groups)]


def _differences(settings: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def _one_folder(names: Sequence[str]) -> str:
    """The name that all share; empty where they differ or stand for the folder itself."""
    return names[0] if len(set(names)) == 1 and names[0] != "." else ""


def _letter(index: int) -> str:
    """A to Z, then AA, AB, …"""
    return (_letter(index // 26 - 1) if index >= 26 else "") + chr(ord("A") + index % 26)
