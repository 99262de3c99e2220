"""The runs that are compared, each reduced to what a comparison shows; what cannot be read is kept by name, with the reason."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from confreg.figures.comparison.measures import measures_over_steps
from confreg.figures.comparison.places import common_folder, jobs_not_started, run_folders
from confreg.figures.findings import why_nothing_is_named
from confreg.figures.histories import formed_neurons
from confreg.figures.run_records import MEASURED_AGAIN, ReportError, RunRecords, read_run, setting_of
from confreg.records.run_identity import SEED, condition_of
from confreg.records.run_lock import is_alive, read_lock

UNFINISHED = ("running", "failed", "interrupted")


@dataclass(frozen=True)
class ComparedRun:
    """One run.

    Attributes:
        name: its folder, seen from the folder in which all runs lie.
        settings: its configuration without the seed, dotted keys; empty where it has none.
        over_steps: ``comparison.measures.measures_over_steps``.
        formed: ``histories.formed_neurons``.
        why_nothing_is_named: a sentence, where the measured text is too small for the rules.
    """

    path: Path
    name: str
    config: dict[str, Any]
    facts: dict[str, Any]
    settings: dict[str, Any]
    over_steps: pd.DataFrame
    formed: pd.DataFrame
    why_nothing_is_named: str | None = None

    @property
    def seed(self) -> Any:
        """The run's seed; None where neither configuration nor facts tell it."""
        return setting_of(self.config, SEED, setting_of(self.facts, SEED))

    @property
    def is_finished(self) -> bool:
        """Whether its last step is its end; records without facts count as finished."""
        return self.facts.get("status") not in UNFINISHED

    @property
    def last_step(self) -> int:
        """The last clock step that was measured."""
        return int(self.over_steps.index[-1])

    def at_last(self, measure: str) -> float:
        """A measure at the last step; NaN where it has none."""
        return float(self.over_steps[measure].iloc[-1])

    def formed_of(self, kind: str) -> pd.DataFrame:
        """The neurons of a kind that formed."""
        return self.formed[self.formed["kind"] == kind]

    def formed_at_end(self, kind: str) -> int:
        """How many of them are still named at the last step."""
        return int(self.formed_of(kind)["formed_since"].notna().sum())


@dataclass(frozen=True)
class RunLeftOut:
    """A run of which nothing can be drawn."""

    name: str
    reason: str


@dataclass(frozen=True)
class ComparedRuns:
    """All that is compared: the runs, those left out, and the folder from which they are named."""

    folder: Path
    runs: list[ComparedRun]
    left_out: list[RunLeftOut]


def read_compared_runs(places: Sequence[Path]) -> ComparedRuns:
    """Read every run that is meant.

    Raises:
        ReportError: a place is no folder, or not one run can be read.
    """
    folders = run_folders(places)
    common = places[0] if len(places) == 1 and places[0] not in folders else common_folder(folders)
    read = [_read(folder, _name(folder, common)) for folder in folders]
    runs = [run for run in read if isinstance(run, ComparedRun)]
    waiting = [RunLeftOut(_name(folder, common), f"not started: {job}") for folder, job in jobs_not_started(places).items()]
    left_out = [run for run in read if isinstance(run, RunLeftOut)] + waiting
    if not runs:
        raise ReportError(
            f"none of the runs in {common} can be shown; the first of {len(left_out)} is {left_out[0].name}: {left_out[0].reason}"
        )
    return ComparedRuns(common, runs, left_out)


def state_in_words(path: Path, facts: dict[str, Any]) -> str:
    """The status of a run that is not finished, with its error and whether anybody still works on it; empty for a finished one."""
    status = facts.get("status")
    if status not in UNFINISHED:
        return ""
    if status != "running":
        error = " ".join(str(facts.get("error") or "").split())
        return f"{status}: {error}" if error else str(status)
    holder = read_lock(path)
    is_at_work = holder is not None and is_alive(holder)
    if MEASURED_AGAIN in facts:
        return "still measuring" if is_at_work else "stopped without a word; the same confreg-measure goes on"
    return "still training" if is_at_work else "stopped without a word; go on with confreg-train resume=RUN"


def _name(folder: Path, common: Path) -> str:
    return Path(os.path.relpath(folder.resolve(), common.resolve())).as_posix()


def _read(folder: Path, name: str) -> ComparedRun | RunLeftOut:
    """One damaged run must not cost the page of a hundred others, whatever is wrong with its files."""
    try:
        return compared_run(read_run(folder), name)
    except (ValueError, OSError, LookupError, TypeError, AttributeError) as error:
        state = state_in_words(folder, _facts(folder))
        reason = " ".join(str(error).split()) if isinstance(error, ReportError) else f"damaged ({type(error).__name__}: {error})"
        return RunLeftOut(name, f"{state}; {reason}" if state else reason)


def compared_run(records: RunRecords, name: str) -> ComparedRun:
    """A run reduced to what a comparison shows."""
    return ComparedRun(
        path=records.run,
        name=name,
        config=records.config,
        facts=records.facts,
        settings=condition_of(records.config),
        over_steps=measures_over_steps(records),
        formed=formed_neurons(records.neurons),
        why_nothing_is_named=why_nothing_is_named(records),
    )


def _facts(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says of a run that cannot be read; nothing where that is damaged too."""
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
