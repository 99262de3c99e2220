"""One process at a time writes a run: a small file that says which."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

NAME = ".lock"


class RunFolderError(ValueError):
    """A run folder that cannot be used; the message names it, what is wrong and the next move."""


def take_lock(folder: Path, other_place: str = "another run.name") -> None:
    """Claim a folder for this process; the lock of a process that has died is taken over.

    Args:
        folder: must exist.
        other_place: what a refusal advises to choose.

    Raises:
        RunFolderError: when another living process, or one on another machine, holds it.
    """
    path = folder / NAME
    while True:
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(_this_process(), file)
            return
        except FileExistsError:
            refuse_if_held(folder, other_place)
        _set_aside(path)


def _set_aside(path: Path) -> None:
    """Remove a dead process's lock; one that a third process has put in its place meanwhile goes back."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        holder = _read(aside)
        if holder is not None and is_alive(holder):
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def refuse_if_held(folder: Path, other_place: str = "another run.name") -> None:
    """Do nothing unless a process that may still run holds the folder.

    Raises:
        RunFolderError: when one does; it names the process and the lock.
    """
    path = folder / NAME
    holder = (read_lock(folder) or _second_look(folder)) if path.exists() else None
    if holder is not None and is_alive(holder):
        raise RunFolderError(
            f"{folder} is being written by process {holder['pid']} on {holder.get('host')}. "
            f"Wait for it, choose {other_place}, or, if that process is gone, delete {path}."
        )


def release_lock(folder: Path) -> None:
    """Give up a claim; nothing happens when this process holds none."""
    if read_lock(folder) == _this_process():
        (folder / NAME).unlink(missing_ok=True)


def read_lock(folder: Path) -> dict[str, Any] | None:
    """Who holds a folder: pid, host and start of the process; None when nobody does or the file says nothing sensible."""
    return _read(folder / NAME)


def _read(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        holder = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(holder, dict) and isinstance(holder.get("pid"), int):
            return holder
    return None


def _second_look(folder: Path) -> dict[str, Any] | None:
    """A lock without content may be one that is being written at this moment."""
    time.sleep(0.2)
    return read_lock(folder)


def is_alive(holder: dict[str, Any]) -> bool:
    """Whether the process that holds a lock may still run: on another machine always, here when pid and start agree."""
    if holder.get("host") != socket.gethostname():
        return True
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's process
    return holder.get("start") == start_of(holder["pid"])


def _this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "start": start_of(os.getpid())}


def start_of(pid: int) -> str | None:
    """When a process started, in clock ticks since boot: pids are used again, above all in containers. None where unknown.

    A zombie has no start any more: it only waits for its parent to take notice.
    """
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state == "Z" else numbers[18]
    except (OSError, ValueError, IndexError):
        return None
