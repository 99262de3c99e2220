"""Which runs are meant: folders of runs, and sweeps with their jobs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from confreg.figures.run_records import ReportError

DEEPEST = 4  # folders below the one that was named
SWEEP = "sweep.json"
NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
RUN_FILES = ("config.yaml", "run.json")


def is_run(folder: Path) -> bool:
    """Whether a folder looks like one run: a configuration, facts or records lie in it."""
    return any((folder / name).is_file() for name in RUN_FILES) or (folder / "records").is_dir()


def holds_runs(folder: Path) -> bool:
    """Whether a folder is a sweep or has runs below it, and is no run itself."""
    return folder.is_dir() and ((folder / SWEEP).is_file() or (not is_run(folder) and next(_runs_below(folder), None) is not None))


def run_folders(places: Sequence[Path]) -> list[Path]:
    """Every run that is meant, each once, in the order of the places and naturally within each.

    Args:
        places: run folders, or folders with runs below them.

    Raises:
        ReportError: a place is no folder or has no runs, or there is one run only that was named several times.
    """
    folders = [folder for place in places for folder in _runs_of(place)]
    distinct = list({folder.resolve(): folder for folder in reversed(folders)}.values())[::-1]
    if len(distinct) == 1 < len(places):
        raise ReportError(f"{distinct[0]} was named {len(places)} times; expected different runs. Name one more run, or a folder of runs.")
    return distinct


def jobs_not_started(places: Sequence[Path]) -> dict[Path, str]:
    """Jobs that a sweep planned and that have no folder yet: where it would lie, and the job's overrides."""
    planned = {place / name: overrides for place in places for name, overrides in _jobs(place / SWEEP).items()}
    return {folder: overrides for folder, overrides in planned.items() if not folder.exists()}


def common_folder(folders: Sequence[Path]) -> Path:
    """The folder in which all of these lie, relative where all of them are; of a single one, its parent."""
    parents = [folder.resolve().parent for folder in folders]
    try:
        common = os.path.commonpath(parents)
        return Path(common if any(folder.is_absolute() for folder in folders) else os.path.relpath(common))
    except ValueError:  # different drives
        return parents[0]


def natural(text: str) -> list[tuple[int, float, str]]:
    """A key that sorts seed=2 before seed=10, and 1e-05 before 0.05 before 0.1."""
    parts = NUMBER.split(text)
    return [(0, float(part), "") if NUMBER.fullmatch(part) else (1, 0.0, part) for part in parts if part]


def _runs_of(place: Path) -> list[Path]:
    if not place.is_dir():
        raise ReportError(f"{place} is not a folder; expected a run, such as runs/default/seed=0, or a folder of runs.")
    if is_run(place) and not (place / SWEEP).is_file():
        return [place]
    found = list(_runs_below(place))
    if not found:
        raise ReportError(f"{place} has no runs in it; expected a run, a sweep or a folder of runs. Train with confreg-train.")
    return found


def _runs_below(folder: Path, depth: int = DEEPEST) -> Iterator[Path]:
    """Runs below a folder; hidden folders are of runs in the making, and inside a run there are no others of its kind."""
    try:
        inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError as error:
        raise ReportError(f"{folder} cannot be read ({error.strerror}); expected a folder of runs.") from error
    for path in sorted(inside, key=lambda path: natural(path.name)):
        if is_run(path) and not (path / SWEEP).is_file():
            yield path
        elif depth > 1:
            yield from _runs_below(path, depth - 1)


def _jobs(sweep: Path) -> dict[str, str]:
    """Folder name and overrides of each job; empty where there is no sweep file, or none that can be read."""
    try:
        jobs = json.loads(sweep.read_text(encoding="utf-8"))["jobs"]
        return {str(name): " ".join(map(str, overrides)) for name, overrides in jobs.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
