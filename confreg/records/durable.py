"""Files that are complete or absent: written beside the target, synced, renamed over it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_durably(path: Path, write: Callable[[BinaryIO], None]) -> str:
    """Write a file so that a kill or a full disk leaves either the old one or the new one.

    The temporary file starts with a dot and lies in the target's own folder, because a rename does not cross file systems.

    Args:
        path: the target; its folder exists.
        write: fills the opened binary file.

    Returns:
        SHA-256 of the content, 64 hex digits.

    Raises:
        OSError: of a full disk or a missing permission; the old file is untouched and nothing half-written stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        digest = sha256_of(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_path(path.parent)
    return digest


def write_text_durably(path: Path, text: str) -> str:
    """The same for text, as UTF-8 with newlines as they are."""
    return write_bytes_durably(path, text.encode("utf-8"))


def write_bytes_durably(path: Path, content: bytes) -> str:
    """The same for content that is in memory."""

    def write(file: BinaryIO) -> None:
        file.write(content)

    return write_durably(path, write)


def write_folder_durably(target: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder with all that ``fill`` writes into it, or leave nothing: filled beside the target, synced, renamed.

    Args:
        target: a folder that does not exist, or is empty.
        fill: writes into the folder that it is given.

    Raises:
        OSError: of a full disk, a missing permission, or a target with something in it. Whatever ``fill`` raises passes.
    """
    target = Path(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had the same number
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        for path in [*temporary.rglob("*"), temporary]:
            sync_path(path)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_path(target.parent)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits; read from the disk, since a writer may seek back (as zip files do)."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_path(path: Path) -> None:
    """Make a file's content, or the renames inside a folder, survive a power cut; where the system cannot open folders, do nothing."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
