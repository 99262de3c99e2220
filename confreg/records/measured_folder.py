"""The folder of a measurement of saved steps: ``measured.json`` says of what and how, ``records/`` holds the tables."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from confreg.records.durable import write_text_durably
from confreg.records.environment import git_state, now, reproducibility, versions
from confreg.records.redaction import redacted
from confreg.records.run_identity import identity_of
from confreg.records.run_lock import release_lock, take_lock
from confreg.records.schema import TABLES
from confreg.records.store import RecordStore
from confreg.settings.mapping import flattened
from confreg.settings.measure import MeasurementRequest

MEASURED = "measured.json"
ANOTHER = "another name=… or output=…"
MADE_WITH = ("started", "versions", "git", "reproducibility")
N_DIFFERENCES = 5  # shown in a refusal


class MeasuredFolderError(ValueError):
    """A place that measurements cannot be written to; the message names it, what is wrong and the next move."""


class MeasuredFolder:
    """Where the measurements of one source by one request are written; a context manager around the work.

    Args:
        path: of the folder; it need not exist.
        request: what is asked of every step, as a plain mapping.
        source: of a run its ``folder``, its ``config`` as a plain mapping, its ``facts`` (run.json), and the ``last_step`` of its training;
            of published weights what was chosen, as ``config``, and their ``revisions``.

    Raises:
        MeasuredFolderError: where the folder holds something else, or measurements of another source or by another request.
    """

    def __init__(self, path: Path, request: Mapping[str, Any], source: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.store = RecordStore(self.path / "records")
        place = {"folder": _place_from(self.path, source["folder"])} if "folder" in source else {}
        self._asked = _as_plain({"request": request, "source": {**source, **place}})
        self._refuse_strangers()
        self._refuse_difference()

    def has(self, step: int) -> bool:
        """Whether a step is complete."""
        return all(self.store.has(table, step) for table in TABLES)

    def write(self, step: int, records: Mapping[str, pa.Table]) -> None:
        """Keep the tables of a step; what a killed process left of it gives way.

        The tables that every measurement has come last, so that a step is complete when all of them are there.
        """
        if any(self.store.has(table, step) for table in records):
            self.store.remove(step)
        for table in sorted(records, key=lambda name: name in TABLES):
            self.store.write(table, step, records[table])

    def __enter__(self) -> MeasuredFolder:
        self._made = [each for each in (self.path, *self.path.parents) if not each.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            take_lock(self.path, ANOTHER)
            self._write_first()
        except OSError as error:
            release_lock(self.path)
            self._remove_what_was_made()
            reason = error.strerror or str(error)
            raise MeasuredFolderError(f"{self.path} cannot be written ({reason}). Choose a place of your own by output=DIR.") from error
        return self

    def _write_first(self) -> None:
        """Who measures now; those who measured other steps before stay in a list."""
        there = _facts_of(self.path)
        before = [{name: there.get(name) for name in MADE_WITH}] if self.store.steps("model") else []
        made_with = {"started": now(), "versions": versions(), "git": git_state(), "reproducibility": reproducibility()}
        earlier = [*there.get("earlier", []), *before]
        self._write(status="running", **made_with, finished=None, error=None, earlier=earlier, **self._asked)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None:
                self._write(status="finished", finished=now())
            elif self.store.steps("model"):
                status = "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"
                with contextlib.suppress(OSError):  # of a full disk, say: the first error is the one to show
                    self._write(status=status, finished=now(), error=f"{type(error).__name__}: {error}"[:1000])
        finally:
            release_lock(self.path)
            if error is not None and not self.store.steps("model"):
                self._remove_what_was_made()

    def _remove_what_was_made(self) -> None:
        """A measurement that has nothing to keep leaves no folder."""
        if self._made:
            shutil.rmtree(self.path, ignore_errors=True)
        for each in self._made[1:]:
            with contextlib.suppress(OSError):
                each.rmdir()

    def _write(self, **entries: Any) -> None:
        facts = _facts_of(self.path) | redacted(entries)
        write_text_durably(self.path / MEASURED, json.dumps(facts, indent=2) + "\n")

    def _refuse_strangers(self) -> None:
        path = self.path
        for each in (path, *path.parents):
            if each.exists() and not each.is_dir():
                raise MeasuredFolderError(f"{each} is a file; expected a folder for the tables. Choose {ANOTHER}.")
        if path.is_dir() and not (path / MEASURED).exists() and any(not each.name.startswith(".") for each in path.iterdir()):
            raise MeasuredFolderError(f"{path} exists and holds no measurement (no {MEASURED}). Choose {ANOTHER}.")

    def _refuse_difference(self) -> None:
        there = _facts_of(self.path)
        if not there:
            return
        old, new = _compared(there), _compared(self._asked)
        differing = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
        if not differing:
            return
        lines = [f"  {key}: there {old.get(key)!r}, asked for {new.get(key)!r}" for key in differing[:N_DIFFERENCES]]
        rest = [f"  and {len(differing) - N_DIFFERENCES} more"] if len(differing) > N_DIFFERENCES else []
        heading = f"{self.path} holds another measurement:"
        raise MeasuredFolderError("\n".join([heading, *lines, *rest, f"Choose {ANOTHER}, or delete that folder first."]))


def _compared(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same: request and source. A value that the writing version did not know yet has its default."""
    defaults = dict(flattened({"request": asdict(MeasurementRequest())}))
    source = facts.get("source", {})
    config = {f"source.config.{key}": value for key, value in identity_of(source.get("config", {})).items()}
    return defaults | config | dict(flattened({"request": facts.get("request", {})})) | {"source.last_step": source.get("last_step")}


def _as_plain(facts: dict[str, Any]) -> dict[str, Any]:
    """As it will stand in the file."""
    plain: dict[str, Any] = json.loads(json.dumps(redacted(facts)))
    return plain


def _facts_of(folder: Path) -> dict[str, Any]:
    path = folder / MEASURED
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise MeasuredFolderError(f"{path} is damaged: {error}. Choose {ANOTHER}, or delete that folder.") from error
    if not isinstance(facts, dict):
        raise MeasuredFolderError(f"{path} holds no mapping. Choose {ANOTHER}, or delete that folder.")
    return facts


def _place_from(folder: Path, run: Path) -> str:
    """Where the run lies as seen from the folder: a path that stays right when both are moved together."""
    try:
        return Path(os.path.relpath(run, folder)).as_posix()
    except ValueError:  # another drive
        return Path(run).absolute().as_posix()
