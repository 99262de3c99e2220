"""Folders of the cache: complete or absent, and checked against the hashes of what was written."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from confreg.languages.plain_text import TextError
from confreg.records.durable import sha256_of, sync_path

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
ABANDONED_AFTER_SECONDS = 24 * 3600  # a temporary folder this old belongs to a killed process


def cache_place(cache: str) -> Path:
    """The folder that ``data.cache`` names; it need not exist.

    Raises:
        TextError: for the home of a user who is not known.
    """
    try:
        return Path(cache).expanduser()
    except RuntimeError as error:
        raise TextError(f"data.cache is {cache!r}, which is no path ({error}); expected a folder that can be made.") from None


def complete_folder(target: Path, fill: Callable[[Path], None]) -> Path:
    """Make ``target`` with all that ``fill`` writes, or leave nothing: a temporary folder beside it, synced, then renamed.

    When two processes do so at once, the first to finish wins and the other uses the first one's.

    Raises:
        TextError: when the cache cannot be written. Whatever ``fill`` raises passes, after the temporary folder is removed.
    """
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.part"
    try:
        if target.exists():
            return target
        temporary.mkdir(parents=True)
        _sweep(target.parent)
        fill(temporary)
        _write_manifest(temporary)
        for path in [*temporary.iterdir(), temporary]:
            sync_path(path)
        _rename(temporary, target)
    except OSError as error:
        what = f"{target.parent}: the cache cannot be written ({error.strerror or error})"
        raise TextError(f"{what}; make room there or set data.cache to another folder.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _sweep(cache: Path) -> None:
    """Remove what killed processes left; another process may be doing the same."""
    for folder in cache.glob(".*.part"):
        with contextlib.suppress(OSError):
            written = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
            if time.time() - written > ABANDONED_AFTER_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _rename(temporary: Path, target: Path) -> None:
    try:
        temporary.rename(target)
    except OSError:
        if not (target / MANIFEST).is_file():
            raise  # not somebody who was first
    sync_path(target.parent)


def _write_manifest(folder: Path) -> None:
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps({"format_version": FORMAT_VERSION, "files": files}, indent=1), encoding="utf-8")


def check_folder(folder: Path) -> None:
    """Check every file of a cache folder against its manifest: there, as long as it was, the same bytes.

    Raises:
        TextError: naming the file and what is wrong with it.
    """
    again = f"Delete the folder {folder} and start again: it is made anew."
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        expected = {str(name): (int(facts["bytes"]), str(facts["sha256"])) for name, facts in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TextError(f"{folder / MANIFEST}: cannot be read ({error}). {again}") from None
    for name, (n_bytes, sha256) in expected.items():
        path = folder / name
        if not path.is_file():
            raise TextError(f"{path}: is missing from the cache. {again}")
        if path.stat().st_size != n_bytes:
            raise TextError(f"{path}: has {path.stat().st_size} bytes; expected {n_bytes}. {again}")
        if sha256_of(path) != sha256:
            raise TextError(f"{path}: its bytes are not those that were written (SHA-256 differs). {again}")
