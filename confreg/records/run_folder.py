"""One run's folder: made after validation, locked, complete or resumable, and never overwritten by surprise."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from confreg.records.durable import write_text_durably
from confreg.records.environment import git_state, now, reproducibility, versions
from confreg.records.launch import HANDED_ON, is_first_process, is_started_from_outside, wait_for_the_first
from confreg.records.redaction import redacted
from confreg.records.run_identity import identity_of
from confreg.records.run_lock import RunFolderError, refuse_if_held, release_lock, take_lock
from confreg.records.run_place import CONFIG, FACTS, hidden_sibling, remove_stale_siblings, take_place, target_of
from confreg.settings import SettingError, Settings, identity, settings_from_mapping, settings_to_mapping

N_DIFFERENCES = 5  # shown in a refusal
RESTORE = "Restore it from a copy, or train anew with another run.name or run.replace=true."

__all__ = ["RunFolder", "RunFolderError", "RunState", "load_settings", "read_facts"]


class RunState(StrEnum):
    """What a run folder held when it was prepared."""

    NEW = "new"
    UNFINISHED = "unfinished"  # to be resumed
    FINISHED = "finished"  # nothing to do


class RunFolder:
    """Where one run writes; a context manager around the work.

    Attributes:
        path: where to write now.
        target: where the run lies in the end; differs from ``path`` only while ``run.replace`` is at work.
        state: what was there before.
        is_writer: False in the other processes of a distributed run, which write nothing here.
    """

    def __init__(self, path: Path, target: Path, state: RunState, is_writer: bool = True) -> None:
        self.path, self.target, self.state, self.is_writer = path, target, state, is_writer
        self._is_open = False

    @classmethod
    def prepare(cls, settings: Settings) -> RunFolder:
        """The folder for these settings, locked and with ``config.yaml`` and ``run.json`` in it, unless the run is finished.

        Raises:
            RunFolderError: when the folder holds something else, a different configuration, or is being written.
        """
        if settings.run.replace and not settings.resume and is_started_from_outside():
            raise RunFolderError(
                "run.replace is true in processes that are started from outside (torchrun, Slurm), which meet in the run's own folder. "
                "Choose another run.name, or delete the old run."
            )
        if not is_first_process():
            return cls._attached(settings)
        target = Path(settings.resume) if settings.resume else target_of(settings.run)
        mapping = redacted(settings_to_mapping(settings))
        if settings.run.replace and not settings.resume:
            _refuse_strangers(target)
            refuse_if_held(target)
            remove_stale_siblings(target)
            folder = cls(hidden_sibling(target), target, RunState.NEW)
        else:
            folder = cls(target, target, _state_of(target, mapping))
        if folder.state is not RunState.FINISHED:
            folder._begin(mapping)
        return folder

    @classmethod
    def _attached(cls, settings: Settings) -> RunFolder:
        """For a process that is not the first of a distributed run: the same folder, to read from."""
        if HANDED_ON in os.environ:
            state, _, path = os.environ[HANDED_ON].partition(":")
            return cls(Path(path), Path(path), RunState(state), is_writer=False)
        if settings.run.name is None and not settings.resume:
            raise RunFolderError("run.name is missing; processes that are started from outside (torchrun, Slurm) need one to meet.")
        target = Path(settings.resume) if settings.resume else target_of(settings.run)
        wait_for_the_first(target)
        return cls(target, target, _state_of(target, redacted(settings_to_mapping(settings))), is_writer=False)

    @property
    def is_finished(self) -> bool:
        """Whether there was nothing left to do."""
        return self.state is RunState.FINISHED

    @property
    def is_resumed(self) -> bool:
        """Whether an earlier process began this run."""
        return self.state is RunState.UNFINISHED

    def _begin(self, mapping: dict[str, Any]) -> None:
        is_mine = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        take_lock(self.path)
        try:
            self._write_first_files(mapping)
        except BaseException:
            release_lock(self.path)
            if is_mine:
                shutil.rmtree(self.path, ignore_errors=True)
            raise
        self._is_open = True
        os.environ[HANDED_ON] = f"{self.state}:{self.path.absolute()}"

    def _write_first_files(self, mapping: dict[str, Any]) -> None:
        made_with = {"versions": versions(), "git": git_state(), "reproducibility": reproducibility()}
        if self.is_resumed:
            resumed = [*self.read_run_json().get("resumed", []), {"time": now(), **made_with}]
            self.update_run_json(status="running", finished=None, error=None, resumed=resumed)
            return
        name = os.path.relpath(self.target, mapping["run"]["root"])
        mapping = {**mapping, "run": {**mapping["run"], "name": Path(name).as_posix(), "replace": False}, "resume": None}
        write_text_durably(self.path / CONFIG, yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True))
        self.update_run_json(status="running", started=now(), finished=None, **made_with)

    def read_run_json(self) -> dict[str, Any]:
        """Everything that ``run.json`` says; empty before it exists."""
        return read_facts(self.path)

    def update_run_json(self, **entries: Any) -> None:
        """Merge entries into ``run.json`` durably, secrets redacted; a process that is not the writer does nothing."""
        if self.is_writer:
            facts = self.read_run_json() | redacted(entries)
            write_text_durably(self.path / FACTS, json.dumps(facts, indent=2) + "\n")

    def finish(self) -> None:
        """Declare the run complete and, where it replaces another, take its place; ``path`` is the target from here on."""
        if not self._is_open:
            return
        self.update_run_json(status="finished", finished=now())
        if self.path != self.target:
            take_place(self.path, self.target)
            self.path = self.target
        self._close()

    def abandon(self, error: BaseException) -> None:
        """Say why a run stopped, for a later process to go on; a replacement is removed and the old run stays.

        A new run that was refused before it had anything to keep (its text is unusable, say) leaves no folder: the name stays free.
        """
        if not self._is_open:
            return
        if self.path != self.target or (isinstance(error, ValueError | OSError) and self._holds_nothing()):
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            status = "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"
            with contextlib.suppress(OSError):  # of a full disk, say: the first error is the one to show
                self.update_run_json(status=status, finished=now(), error=f"{type(error).__name__}: {error}"[:1000])
        self._close()

    def _holds_nothing(self) -> bool:
        """Whether the run is new and only what every run begins with is there."""
        names = {path.name for path in self.path.iterdir() if not path.name.startswith(".")}
        return self.state is RunState.NEW and names <= {CONFIG, FACTS}

    def _close(self) -> None:
        release_lock(self.path)
        self._is_open = False
        os.environ.pop(HANDED_ON, None)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.finish()
        else:
            self.abandon(error)


def load_settings(run: Path | str) -> Settings:
    """The settings that a run was started with.

    Raises:
        RunFolderError: when the folder holds no readable configuration.
    """
    path = Path(run) / CONFIG
    try:
        return settings_from_mapping(_read_config(Path(run)))
    except FileNotFoundError as error:
        raise RunFolderError(f"{path} does not exist; expected the folder of a run, such as runs/default/seed=0.") from error
    except (SettingError, AttributeError) as error:
        raise RunFolderError(f"{path} is not a configuration of this version: {error}") from error


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        mapping = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path} is damaged: {' '.join(str(error).split())}. {RESTORE}") from error
    if not isinstance(mapping, dict):
        raise RunFolderError(f"{path} holds no mapping. {RESTORE}")
    return mapping


def read_facts(folder: Path) -> dict[str, Any]:
    """What ``run.json`` of a run says; empty before it exists.

    Raises:
        RunFolderError: for a damaged file.
    """
    path = folder / FACTS
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RunFolderError(f"{path} is damaged: {error}. {RESTORE}") from error


def _state_of(target: Path, mapping: dict[str, Any]) -> RunState:
    _refuse_strangers(target)
    if not (target / CONFIG).exists():
        return RunState.NEW
    _refuse_difference(target, identity_of(_read_config(target)), identity(mapping))
    return RunState.FINISHED if read_facts(target).get("status") == "finished" else RunState.UNFINISHED


def _refuse_strangers(target: Path) -> None:
    """A folder with something in it that is not a run is never touched."""
    for each in (target, *target.parents):
        if each.exists() and not each.is_dir():
            raise RunFolderError(f"{each} is a file; expected a folder for the run. Choose another run.name or run.root.")
    if target.is_dir() and not (target / CONFIG).exists() and any(not path.name.startswith(".") for path in target.iterdir()):
        raise RunFolderError(f"{target} exists and is not a run (it holds no {CONFIG}). Choose another run.name.")


def _refuse_difference(target: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    absent = "(absent)"
    differing = [key for key in sorted({*old, *new}) if old.get(key, absent) != new.get(key, absent)]
    if not differing:
        return
    lines = [f"  {key}: there {old.get(key, absent)!r}, asked for {new.get(key, absent)!r}" for key in differing[:N_DIFFERENCES]]
    rest = [f"  and {len(differing) - N_DIFFERENCES} more"] if len(differing) > N_DIFFERENCES else []
    heading = f"{target} holds a run of another configuration:"
    go_on = "" if read_facts(target).get("status") == "finished" else f"resume={target} to go on with it, "
    move = f"Choose another run.name, {go_on}or run.replace=true to put the new run in its place."
    raise RunFolderError("\n".join([heading, *lines, *rest, move]))
