"""Where a run lies: its name below the root, a hidden sibling to work in, and the change of places when it is complete."""

from __future__ import annotations

import os
import re
import shutil
import socket
from datetime import datetime
from pathlib import Path

from confreg.records.durable import sync_path
from confreg.records.run_lock import RunFolderError, is_alive, read_lock, start_of
from confreg.settings import RunSettings
from confreg.settings.run import is_safe_name

CONFIG, FACTS = "config.yaml", "run.json"


def target_of(run: RunSettings) -> Path:
    """The folder of a run: ``root/name``, or ``root/experiment/date_time.microseconds`` where no name is given.

    Raises:
        RunFolderError: for a name that climbs out of the root or hides, or one inside another run.
    """
    name = run.name if run.name is not None else f"{run.experiment}/{datetime.now():%Y-%m-%d_%H-%M-%S.%f}"
    if not is_safe_name(name):
        raise RunFolderError(f"run.name is {name!r}; expected a folder below {run.root}, such as mine/first: no .., no leading / or dot.")
    target = Path(run.root) / name
    for outer in list(target.parents)[: name.count("/")]:
        if (outer / FACTS).exists():
            raise RunFolderError(f"run.name is {name!r}, but {outer} is a run itself; choose a name that is not inside it.")
    return target


def hidden_sibling(target: Path) -> Path:
    """Where a run that shall take another's place is worked on: beside it, because a rename does not cross file systems."""
    return target.with_name(f".{target.name}.{os.getpid()}")


def remove_stale_siblings(target: Path) -> None:
    """Delete what dead processes left beside a run; a run that was moved away and never replaced comes back."""
    if not target.parent.is_dir():
        return
    pattern = re.compile(re.escape(f".{target.name}.") + r"(\d+)(\.old)?")
    found = ((path, pattern.fullmatch(path.name)) for path in sorted(target.parent.iterdir(), reverse=True))  # .old comes first
    for path, match in found:
        if match is None or _is_in_use(path, int(match[1])):
            continue
        if match[2] and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_in_use(hidden: Path, pid: int) -> bool:
    """Whether the process that made a hidden sibling still runs; its lock knows more than the pid in its name."""
    holder = None if hidden.name.endswith(".old") else read_lock(hidden)
    if holder is None:
        holder = {"pid": pid, "host": socket.gethostname(), "start": start_of(pid)}
    return is_alive(holder)


def take_place(hidden: Path, target: Path) -> None:
    """Rename a complete run over the old one, which is moved away first and deleted last."""
    old = hidden.with_name(f"{hidden.name}.old")
    if target.exists():
        target.rename(old)
    try:
        hidden.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    sync_path(target.parent)
    shutil.rmtree(old, ignore_errors=True)
