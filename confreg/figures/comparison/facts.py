"""What the runs of a comparison were made with, where it is not the same for all: versions, code, machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from confreg.figures.comparison.conditions import value_text
from confreg.figures.comparison.runs import ComparedRun
from confreg.figures.run_records import setting_of

GROUPS = ("versions", "git", "reproducibility")
UNKNOWN = "not known"


def facts_of(runs: Sequence[ComparedRun]) -> list[str]:
    """Dotted keys of ``run.json`` below ``GROUPS`` that any of the runs has, in order."""
    return list(dict.fromkeys(key for run in runs for group in GROUPS for key in _keys(run.facts.get(group), group)))


def distinct(runs: Sequence[ComparedRun], key: str) -> list[str]:
    """The different values of a fact, in words, in the order of the runs; a run that does not tell it counts where others do."""
    values = list(dict.fromkeys(fact_text(run, key) for run in runs))
    return [] if values == [UNKNOWN] else values


def differing_facts(runs: Sequence[ComparedRun]) -> list[tuple[str, dict[str, list[str]]]]:
    """Each fact that is not the same for all runs: its key, and for each value the names of the runs that have it."""
    differing = [key for key in facts_of(runs) if len(distinct(runs, key)) > 1]
    return [
        (key, {value: [run.name for run in runs if fact_text(run, key) == value] for value in distinct(runs, key)}) for key in differing
    ]


def fact_text(run: ComparedRun, key: str) -> str:
    """A fact as text; a commit by its first digits."""
    value = setting_of(run.facts, key)
    if value is None:
        return UNKNOWN
    return str(value)[:10] if key == "git.commit" else value_text(value)


def _keys(value: Any, prefix: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _keys(inner, f"{prefix}.{name}")
    elif value is not None:
        yield prefix
