"""The stream of a dataset's rows: opened, checked row by row, and stored; the only place that knows the ``datasets`` library."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from confreg.languages.plain_text import TextError, no_field, text_of_record
from confreg.settings.data import TextSource

GROUP_CHARACTERS = 1 << 22  # written at once: bounds the memory
PATH_STARTS = ("/", ".", "~")  # what follows hub: is then a folder
TIMEOUT_SECONDS = 30.0  # for the first answer of the hub


def commit_of(name: str, settings: TextSource) -> str | None:
    """The commit that the revision stands for now: asked for first, so that exactly the recorded one is read.

    Raises:
        TextError: when the hub cannot be reached or knows no such dataset or revision.
    """
    from huggingface_hub import HfApi

    with _explained(settings.source):
        return HfApi().dataset_info(name, revision=settings.hub_revision, timeout=TIMEOUT_SECONDS).sha


def opened_stream(path: str, commit: str | None, settings: TextSource, scratch: str) -> Any:
    """The stream of rows; of the one field where fields are known beforehand, so that pictures beside the text are not decoded.

    Args:
        path: a folder, or ``hf://datasets/OWNER/NAME``.
        commit: of the hub; None for a folder.
        settings: subset, split and field.
        scratch: a folder for what the library writes; to be removed afterwards.

    Raises:
        TextError: a dataset, subset, split or field that is not there.
    """
    import datasets

    with _explained(settings.source):
        rows = datasets.load_dataset(
            path, settings.hub_subset, split=settings.hub_split, revision=commit, cache_dir=scratch, streaming=True
        )
        fields = rows.column_names
        if fields is None:
            return rows
        if settings.text_field not in fields:
            raise no_field(fields, settings.text_field, f"data.source {settings.source!r}")
        return rows.select_columns([settings.text_field])


def checked_rows(rows: Any, settings: TextSource) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each row, until ``max_documents`` that are not blank have come.

    Raises:
        TextError: with the number of the row that is no text, or before which the stream broke.
    """
    stream, n_rows, n_documents = iter(rows), 0, 0
    while settings.max_documents is None or n_documents < settings.max_documents:
        with _explained(settings.source, after_row=n_rows):
            row = next(stream, None)
        if row is None:
            return
        n_rows += 1
        text = text_of_record(row, settings.text_field, f"data.source {settings.source!r}, row {n_rows}")
        n_documents += bool(text.strip())
        yield n_rows, text


def write_documents(path: Path, rows: Iterable[tuple[int, str]], settings: TextSource) -> tuple[int, int]:
    """Store what is not blank as Parquet with the columns row and text; how many rows came and how many documents were stored."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("row", pa.int64()), ("text", pa.large_string())])
    n_rows, n_documents = 0, 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in _groups(_tracked(rows, settings)):
            n_rows, kept = group[-1][0], [(number, text) for number, text in group if text.strip()]
            n_documents += len(kept)
            writer.write_table(pa.table({"row": [each[0] for each in kept], "text": [each[1] for each in kept]}, schema=schema))
    return n_rows, n_documents


def _groups(rows: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    group: list[tuple[int, str]] = []
    n_characters = 0
    for row in rows:
        group.append(row)
        n_characters += len(row[1]) + 1
        if n_characters >= GROUP_CHARACTERS:
            yield group
            group, n_characters = [], 0
    if group:
        yield group


def _tracked(rows: Iterable[Any], settings: TextSource) -> Iterable[Any]:
    console = Console(stderr=True)
    description = f"Reading {settings.source}"
    return track(rows, description, total=settings.max_documents, console=console, transient=True, disable=not console.is_terminal)


@contextlib.contextmanager
def _explained(source: str, after_row: int = 0) -> Iterator[None]:
    """Whatever the library raises, as an error that says what was looked for and how to get it."""
    try:
        yield
    except (TextError, MemoryError):
        raise
    except Exception as error:  # the libraries below raise of every kind
        reason = " ".join(str(error).split())[:300]
        where = f" after row {after_row}" if after_row else ""
        raise TextError(
            f"data.source {source!r}: the dataset cannot be read{where} ({type(error).__name__}: {reason}).\n{_next_move(source)}"
        ) from None


def _next_move(source: str) -> str:
    name = source.removeprefix("hub:")
    if name.startswith(PATH_STARTS):
        return "Correct the files, data.hub_subset or data.hub_split; for jsonl and parquet, data.source=FOLDER says the line or row."
    return (
        "Check the name, data.hub_subset, data.hub_split, data.hub_revision and the network (a private dataset needs HF_TOKEN);\n"
        f"or fetch it where there is a network: hf download {name} --repo-type dataset --local-dir FOLDER, then data.source=hub:./FOLDER."
    )


@contextlib.contextmanager
def quiet_library() -> Iterator[None]:
    """``datasets`` neither draws bars of its own nor logs what is said in our error; its state is put back."""
    import datasets

    level, bars = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
