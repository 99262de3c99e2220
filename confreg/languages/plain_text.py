"""What counts as text: UTF-8 without NUL, of a length that fits into memory; and how to say where something is not."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

LARGEST_DOCUMENT = 32 << 20  # bytes: with its characters spread out to four bytes each it still fits into 512 MiB several times
LONGEST_STRETCH = 1 << 20  # characters without a place to cut: the tokenizer takes such a stretch whole, a hundred bytes for each
CHUNK_BYTES = 1 << 20
CUT = re.compile(r"(?<=\w)(?=[ \n])|(?<=[^\W_])(?=[.,;:!?()。，、！？；：])")  # the byte-level pre-tokenizer always cuts here
SIGNATURES = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"\x84\x31\x95\x33", "GB18030"),
    (b"+/v8-", "UTF-7"),
    (b"%PDF-", "a PDF"),
    (b"{\\rtf", "RTF"),
    (b"\x1f\x8b", "a gzip file"),
    (b"PK\x03\x04", "a zip archive (docx and odt are such)"),
    (b"BZh91AY&SY", "a bzip2 file"),
    (b"\xfd7zXZ", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"PAR1", "a parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
)
SPELT_IN_ASCII = (b"+/v8-", b"%PDF-", b"{\\rtf", b"BZh91AY&SY", b"PAR1", b"ARROW1", b"SQLite format 3")  # may decode without complaint


class TextError(ValueError):
    """Text that cannot be used; the message names the file, the line or byte, the reason and the next move."""


@dataclass(frozen=True)
class Document:
    """One document: its name within the source (file, and line, row or passage) and its text."""

    name: str
    text: str


def shown(name: object) -> str:
    """A name that a terminal, a JSON file and a page can hold: what is not printable, or was not UTF-8, is spelt with a backslash."""
    decoded_name = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in decoded_name)


def decoded_chunks(file: BinaryIO, place: str) -> Iterator[str]:
    """The text of a file, piece by piece, without the byte order mark at its beginning.

    Raises:
        TextError: with the offset of the first byte that is no UTF-8, or is NUL; and when the file is of another kind.
    """
    offset, rest, at_end = 0, b"", False
    while not at_end:
        data = file.read(CHUNK_BYTES)
        at_end = not data
        block = rest + data
        if offset == 0 and block.startswith(SPELT_IN_ASCII):
            raise TextError(f"{place}: {_likely(block)} (byte 0). Convert it to UTF-8 text or remove it.")
        text, n_bytes = _decoded(block, place, offset, at_end)
        yield text.removeprefix("\ufeff") if offset == 0 else text
        offset, rest = offset + n_bytes, block[n_bytes:]


def decoded_line(data: bytes, place: str, offset: int) -> str:
    """The text of some bytes that begin ``offset`` bytes into a file.

    Raises:
        TextError: as ``decoded_chunks``.
    """
    return _decoded(data, place, offset, is_final=True)[0]


def _decoded(data: bytes, place: str, offset: int, is_final: bool) -> tuple[str, int]:
    try:
        text, n_bytes = codecs.utf_8_decode(data, "strict", is_final)
    except UnicodeDecodeError as error:
        at = offset + error.start
        raise TextError(f"{place}: byte {at} is not UTF-8 ({error.reason}); {_likely(data)}. Convert it to UTF-8 or remove it.") from None
    if "\0" in text:
        at = offset + data.index(b"\0")
        raise TextError(f"{place}: a NUL character at byte {at}; {_likely(data)}. Convert it to UTF-8 text or remove it.")
    return text, n_bytes


def _likely(data: bytes) -> str:
    """What undecodable bytes probably are."""
    start = data[:8192]
    for signature, kind in SIGNATURES:
        if start.startswith(signature):
            return f"it looks like {kind}"
    columns = [start[place::4] for place in range(4)]
    in_four = [column.count(0) > 0.8 * len(column) for column in columns]  # which byte of every four is nearly always zero
    if sum(in_four) == 3:
        return "it looks like UTF-32"
    if in_four in ([True, False, True, False], [False, True, False, True]):
        return "it looks like UTF-16"
    return "it looks like a binary file" if 0 in start else "it may be Latin-1, Windows-1252, or cut in the middle of a character"


def text_of_record(record: dict[str, Any], text_field: str, place: str) -> str:
    """The text of a row, checked.

    Raises:
        TextError: no such field, no string, or a string that is no text or too long.
    """
    if text_field not in record:
        raise no_field(list(record), text_field, place)
    text = record[text_field]
    if not isinstance(text, str):
        raise TextError(
            f"{place}: field {text_field!r} is {type(text).__name__}; expected a string. Correct the row or set data.text_field."
        )
    return checked_text(text, place)


def no_field(fields: list[str], text_field: str, place: str) -> TextError:
    """The error that says which fields there are."""
    names = ", ".join(repr(field[:40]) for field in fields[:10]) or "none"
    return TextError(f"{place}: has no field {text_field!r}; its fields are {names}. Set data.text_field.")


def checked_text(text: str, place: str) -> str:
    """The same text, if it is one that can be stored, held in memory and tokenized.

    Raises:
        TextError: NUL or half of a surrogate pair (JSON can spell them), too long, or a stretch that cannot be cut.
    """
    plain = text.isascii() and "\0" not in text  # quick to tell, and most texts are
    if not plain and (found := re.search("[\0\ud800-\udfff]", text)):
        what = "a NUL character" if found.group() == "\0" else "half of a surrogate pair"
        raise TextError(f"{place}: {what} (U+{ord(found.group()):04X}) at character {found.start()} of the text; remove it.")
    if len(text) > LARGEST_DOCUMENT:
        raise too_large(f"{len(text)} characters", place)
    start = 0
    while len(text) - start > LONGEST_STRETCH:
        cut = _last_cut(text, start + 1, start + LONGEST_STRETCH)
        if cut is None:
            raise TextError(
                f"{place}: {LONGEST_STRETCH} characters from character {start} on without a blank, a line's end or a word's end; "
                "that is no prose (base64, a minified file?). Remove it or break it into lines."
            )
        start = cut
    return text


def _last_cut(text: str, start: int, stop: int) -> int | None:
    """The last place to cut in a stretch; the last, so that the whole text is looked through only once or twice."""
    blank = max(text.rfind(" ", start, stop), text.rfind("\n", start, stop))
    if blank >= 0:
        return blank
    places = [found.start() for found in CUT.finditer(text, start, stop)]
    return places[-1] if places else None


def too_large(size: str, place: str) -> TextError:
    """The error for a document that would not fit into memory."""
    limit = f"expected at most {LARGEST_DOCUMENT >> 20} MiB"
    return TextError(f"{place}: one document of {size}; {limit}. Split it (a txt file that is itself data.source is cut into passages).")
