"""A dataset of the Hugging Face hub, or a local folder read as one: streamed once into the cache, read from there ever after.

Rows are checked like those of jsonl and parquet. No code of a dataset is ever run: ``datasets`` has no loading scripts any more.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confreg.languages.cache_folder import FORMAT_VERSION, MANIFEST, cache_place, check_folder, complete_folder
from confreg.languages.hub_stream import PATH_STARTS, checked_rows, commit_of, opened_stream, quiet_library, write_documents
from confreg.languages.plain_text import Document, TextError, shown
from confreg.settings.data import TextSource

PREFIX = "hub:"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+")


def is_hub(source: str) -> bool:
    """Whether a source names a dataset, and not a file or a folder of files."""
    return source.startswith(PREFIX)


def check_dataset(settings: TextSource, key: str = "data.source") -> None:
    """Refuse a name that can be none, and a folder that is not there; nothing is asked of the network.

    Raises:
        TextError: naming the setting and what was expected.
    """
    name = settings.source.removeprefix(PREFIX)
    if not _is_path(name):
        if not NAME.fullmatch(name):
            raise TextError(f"{key} is {settings.source!r}; expected hub:OWNER/NAME, or hub:./FOLDER for a dataset on this machine.")
    elif not _folder_of(name, key).is_dir():
        raise TextError(f"{key} is {settings.source!r}: there is no such folder; expected one with json, csv, parquet or text files.")
    elif settings.hub_revision is not None:
        asked = f"hub_revision {settings.hub_revision!r}"
        raise TextError(f"{key} is {settings.source!r}, a folder, and there is a {asked}; a folder has no revisions: leave it out.")


@dataclass(frozen=True)
class StoredDataset:
    """A dataset as it lies in the cache: ``documents.parquet`` (row number and text) and ``dataset.json``."""

    folder: Path

    def __iter__(self) -> Iterator[Document]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.folder / "documents.parquet") as table:
            for batch in table.iter_batches(batch_size=64):
                for number, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    yield Document(f"row {number}", text)

    def facts(self) -> dict[str, Any]:
        """Name, subset, split, the revision asked for, the commit that was read, rows, documents, and the SHA-256 of what was stored."""
        about = json.loads((self.folder / "dataset.json").read_text(encoding="utf-8"))
        files = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {**about, "sha256": files["documents.parquet"]["sha256"]}


def stored_dataset(settings: TextSource) -> StoredDataset:
    """The dataset that the settings name, from the cache or, the first time, streamed into it.

    The same name, subset, split, revision, field and number of documents are read from the network once only; a folder is read anew
    when a file in it has changed.

    Raises:
        TextError: a dataset that cannot be reached or read, a row that is no text, or a damaged cache.
    """
    check_dataset(settings)
    asked = _asked(settings)
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def fill(folder: Path) -> None:
        _fill(folder, settings)
        if _asked(settings) != asked:
            raise TextError(f"data.source {settings.source!r} changed while it was read; start again when nobody writes to it.")

    folder = complete_folder(cache_place(settings.cache) / "hub" / digest, fill)
    check_folder(folder)
    return StoredDataset(folder)


def _is_path(name: str) -> bool:
    return name.startswith(PATH_STARTS)


def _folder_of(name: str, key: str = "data.source") -> Path:
    try:
        return Path(name).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise TextError(f"{key} is {PREFIX + name!r}, which is no path ({error}); expected hub:OWNER/NAME or hub:./FOLDER.") from None


def _asked(settings: TextSource) -> dict[str, Any]:
    """Everything that decides which documents are stored."""
    name = settings.source.removeprefix(PREFIX)
    asked = {
        "format_version": FORMAT_VERSION,
        "name": str(_folder_of(name)) if _is_path(name) else name,
        "subset": settings.hub_subset,
        "split": settings.hub_split,
        "revision": settings.hub_revision,
        "text_field": settings.text_field,
        "max_documents": settings.max_documents,
    }
    return asked | ({"files": _stamps(_folder_of(name))} if _is_path(name) else {})


def _stamps(folder: Path) -> list[list[Any]]:
    """Path, size and time of change of every file of a folder, so that a change is noticed."""
    paths = []
    for root, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))  # what hf download keeps for itself
        paths += [Path(root, name) for name in sorted(names)]
    there = [(path, path.stat()) for path in paths if path.is_file()]
    return [[shown(path.relative_to(folder)), stat.st_size, stat.st_mtime_ns] for path, stat in there]


def _fill(folder: Path, settings: TextSource) -> None:
    """Stream the dataset into an empty folder; whatever stops it leaves the folder to be removed."""
    name = settings.source.removeprefix(PREFIX)
    with quiet_library(), tempfile.TemporaryDirectory(dir=folder) as scratch:
        if _is_path(name):
            commit, path = None, str(_folder_of(name))
        else:
            commit, path = commit_of(name, settings), f"hf://datasets/{name}"  # never a folder of the same name
        rows = checked_rows(opened_stream(path, commit, settings, scratch), settings)
        n_rows, n_documents = write_documents(folder / "documents.parquet", rows, settings)
    if not n_documents:
        what = f"no row has any text in {settings.text_field!r} ({n_rows} rows)"
        raise TextError(f"data.source {settings.source!r}: {what}. Choose another data.text_field or data.hub_split.")
    asked = {"name": name, "subset": settings.hub_subset, "split": settings.hub_split, "revision_asked": settings.hub_revision}
    about = {**asked, "commit": commit, "n_rows": n_rows, "n_documents": n_documents}
    (folder / "dataset.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
