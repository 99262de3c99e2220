"""Documents in files: txt and md whole or in passages, jsonl and parquet row by row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from confreg.languages.plain_text import (
    LARGEST_DOCUMENT,
    Document,
    TextError,
    checked_text,
    decoded_chunks,
    decoded_line,
    no_field,
    shown,
    text_of_record,
    too_large,
)

WHOLE = (".txt", ".md")  # one document each


def check_file(path: Path) -> None:
    """Refuse what would block (a pipe), holds nothing, or is of a kind that nobody reads.

    Raises:
        TextError: naming the file and the reason.
    """
    if not path.is_file():
        raise TextError(f"{shown(path)}: is not a regular file (or a link to nothing); remove it or copy the text into a file.")
    if path.suffix.lower() not in READERS:
        raise TextError(
            f"{shown(path)}: the suffix {shown(path.suffix)!r} is not known; expected one of {', '.join(READERS)}. "
            "Convert the file or rename it."
        )
    if not path.stat().st_size:
        raise TextError(f"{shown(path)}: the file is empty (0 bytes); remove it or fill it.")


def documents_of_file(path: Path, name: str, text_field: str) -> Iterator[Document]:
    """The documents of one file, in its order.

    Raises:
        TextError: naming file, line, row or byte, and the reason.
    """
    check_file(path)
    yield from _readable(READERS[path.suffix.lower()](path, name, text_field), path, text_field)


def passages_of_file(path: Path, name: str, n_characters: int) -> Iterator[Document]:
    """A txt or md file cut into passages while it is read, so that it may be larger than the memory."""
    check_file(path)
    yield from _readable(_cut_file(path, name, n_characters), path, "")


def _readable(documents: Iterator[Document], path: Path, text_field: str) -> Iterator[Document]:
    """The same documents; refused where the file cannot be read, or where all of it is blank."""
    has_text = False
    try:
        for document in documents:
            has_text = has_text or bool(document.text.strip())
            yield document
    except OSError as error:
        reason = error.strerror or error
        raise TextError(f"{shown(path)}: cannot be read ({reason}); check that it is whole and that you may read it.") from None
    if not has_text:
        what = "holds only whitespace" if path.suffix.lower() in WHOLE else f"no row has any text in {text_field!r}"
        raise TextError(f"{shown(path)}: {what}; remove the file or fill it.")


def _cut_file(path: Path, name: str, n_characters: int) -> Iterator[Document]:
    with path.open("rb") as file:
        yield from passages(decoded_chunks(file, shown(path)), name, n_characters)


def passages(chunks: Iterable[str], name: str, n_characters: int) -> Iterator[Document]:
    """Cut a text at the first blank line after every ``n_characters``; failing that, a line's end, a space, or anywhere.

    Args:
        chunks: the text in pieces of any size; it is one document when it is shorter than two passages.
        name: of the whole; a passage's number is added.
        n_characters: the least length of a passage.
    """
    rest, number = "", 0
    for chunk in chunks:
        rest, start = rest + chunk, 0
        while len(rest) - start > 2 * n_characters:
            end, number = _cut(rest, start + n_characters, n_characters), number + 1
            yield Document(f"{name} passage {number}", rest[start:end])
            start = end
        rest = rest[start:]
    if number == 0 and len(rest) < 2 * n_characters:
        yield Document(name, rest)
    elif rest:
        yield Document(f"{name} passage {number + 1}", rest)


def _cut(text: str, earliest: int, window: int) -> int:
    """A good place to cut in ``[earliest, earliest + window)``."""
    for separator in ("\n\n", "\n", " "):
        place = text.find(separator, earliest, earliest + window)
        if place >= 0:
            return place + len(separator)
    return earliest


def _whole_file(path: Path, name: str, _: str) -> Iterator[Document]:
    if path.stat().st_size > LARGEST_DOCUMENT:
        raise too_large(f"{path.stat().st_size} bytes", shown(path))
    with path.open("rb") as file:
        text = "".join(decoded_chunks(file, shown(path)))
    yield Document(name, checked_text(text, shown(path)))


def _rows_of_jsonl(path: Path, name: str, text_field: str) -> Iterator[Document]:
    number, offset = 0, 0
    with path.open("rb") as file:
        while line := file.readline(LARGEST_DOCUMENT + 1):
            number += 1
            place = f"{shown(path)}, line {number}"
            if len(line) > LARGEST_DOCUMENT:
                raise too_large(f"more than {LARGEST_DOCUMENT} bytes", place)
            content = decoded_line(line, place, offset).removeprefix("\ufeff" if number == 1 else "")
            offset += len(line)
            text = text_of_record(_parsed(content, place), text_field, place) if content.strip() else ""
            if text.strip():
                yield Document(f"{name} line {number}", text)


def _parsed(line: str, place: str) -> dict[str, Any]:
    try:
        record = json.loads(line, object_pairs_hook=_without_repetition, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise TextError(f"{place}: is not JSON ({error}); {_hint(line)}. Correct or remove the line.") from None
    if not isinstance(record, dict):
        raise TextError(f'{place}: is a JSON {type(record).__name__}; expected an object on each line, such as {{"text": "..."}}.')
    return record


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Which of two values was meant is not for a reader to guess."""
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice in one object")
    return record


def _no_number(constant: str) -> Any:
    raise ValueError(f"{constant} is not a value that JSON knows")


def _hint(line: str) -> str:
    """What a line that is not JSON probably belongs to."""
    if "\r" in line.rstrip("\r\n"):
        return "its lines seem to end in a carriage return alone; expected line feeds"
    if line.strip() in ("[", "{"):
        return "the file seems to be one JSON value over many lines; expected one object on each line"
    return "expected one object on each line"


def _rows_of_parquet(path: Path, name: str, text_field: str) -> Iterator[Document]:
    import pyarrow as pa  # takes long to import, and most sources need it not

    place, number = shown(path), 0
    try:
        for number, cell in enumerate(_cells_of_parquet(path, text_field), start=1):
            place = f"{shown(path)}, row {number}"
            text = text_of_record({text_field: _value_of(cell, place)}, text_field, place)
            if text.strip():
                yield Document(f"{name} row {number}", text)
    except UnicodeDecodeError as error:
        raise TextError(f"{place}: byte {error.start} of the text is not UTF-8 ({error.reason}); correct the row.") from None
    except pa.ArrowException as error:
        where = f" after row {number}" if number else ""
        raise TextError(f"{shown(path)}: is not a readable parquet file{where} ({_first_line(error)}); write it again.") from None


def _cells_of_parquet(path: Path, text_field: str) -> Iterator[Any]:
    """The cells of one column; a column is read page by page, so that a large row group need not fit into memory."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True) as table:
        fields = table.schema_arrow.names
        if text_field not in fields:
            raise no_field(fields, text_field, shown(path))
        if fields.count(text_field) > 1:
            raise TextError(f"{shown(path)}: has {fields.count(text_field)} columns named {text_field!r}; expected one. Write it again.")
        for batch in table.iter_batches(batch_size=64, columns=[text_field]):
            yield from batch.column(0)


def _value_of(cell: Any, place: str) -> Any:
    """A cell as Python has it; what is too large is refused before it is copied."""
    content = cell.as_buffer() if hasattr(cell, "as_buffer") else None
    if content is not None and content.size > LARGEST_DOCUMENT:
        raise too_large(f"{content.size} bytes", place)
    return cell.as_py()


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


READERS: dict[str, Callable[[Path, str, str], Iterator[Document]]] = {
    ".txt": _whole_file,
    ".md": _whole_file,
    ".jsonl": _rows_of_jsonl,
    ".parquet": _rows_of_parquet,
}
