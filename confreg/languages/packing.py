"""Tokens of every document, packed once into a memory-mapped file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tokenizers import Tokenizer

from confreg.languages.plain_text import Document, TextError
from confreg.languages.tokenizers import encode_documents

BATCH_CHARACTERS = 1 << 21  # encoded at once: bounds the memory


@dataclass(frozen=True)
class PackedTokens:
    """All tokens of a text, one document after the other.

    Attributes:
        tokens: ids [token], memory-mapped, uint16 or int32.
        starts: offset of each document's first token [document], int64.
        n_tokens: length of each document [document], int64, tokens.
        parts: of each document [document], uint8: 0 train, 1 reference, 2 measured.
    """

    tokens: np.ndarray
    starts: np.ndarray
    n_tokens: np.ndarray
    parts: np.ndarray


def check_token_ids(ids: np.ndarray, vocabulary_size: int, name: str) -> None:
    """Refuse ids outside the vocabulary, naming the text they come from and the offset of the first bad one.

    Raises:
        TextError: an id below zero, or not below ``vocabulary_size``, or ids that are not whole numbers.
    """
    if not np.issubdtype(ids.dtype, np.integer):
        raise TextError(f"{name}: token ids are {ids.dtype}; expected whole numbers. Encode the text again.")
    if not ids.size or (ids.min() >= 0 and ids.max() < vocabulary_size):
        return
    offset = int(np.flatnonzero((ids < 0) | (ids >= vocabulary_size))[0])
    raise TextError(
        f"{name}: token {offset} has id {int(ids.reshape(-1)[offset])}; expected ids from 0 to {vocabulary_size - 1}. "
        "Encode the text again with the tokenizer of this vocabulary."
    )


def pack_documents(
    documents: Iterable[Document],
    parts: np.ndarray,
    tokenizer: Tokenizer,
    folder: Path,
    vocabulary_size: int | None = None,
    in_pieces: bool = True,
) -> None:
    """Encode the documents and write ``tokens.npy`` and ``documents.npy`` into a folder.

    Args:
        documents: in the order of ``parts``.
        parts: of each document, as in ``PackedTokens``.
        tokenizer: gives ids below the size of the vocabulary; they are checked.
        folder: exists.
        vocabulary_size: of a tokenizer that leaves ids out; default: its ``get_vocab_size()``.
        in_pieces: whether it cuts where ``split_text`` does, as a BPE of one's own.

    Raises:
        TextError: another number of documents than of ``parts``, or a token id outside the vocabulary.
    """
    size = vocabulary_size or tokenizer.get_vocab_size()
    encode = partial(encode_documents, tokenizer, in_pieces=in_pieces)
    dtype = np.dtype(np.uint16 if size <= 1 << 16 else np.int32)
    with (folder / "tokens.npy").open("wb") as file:
        _write_header(file, dtype, 0)
        lengths = [_write(each, dtype, file) for each in _encoded(documents, encode, size)]
        file.seek(0)
        _write_header(file, dtype, sum(lengths))
    if len(lengths) != len(parts):
        raise TextError(f"{len(lengths)} documents came to be packed; expected {len(parts)}. Start again when nobody writes to the text.")
    n_tokens = np.array(lengths, dtype=np.int64)
    np.save(folder / "documents.npy", np.stack([np.cumsum(n_tokens) - n_tokens, n_tokens, parts.astype(np.int64)]), allow_pickle=False)


def _write_header(file: BinaryIO, dtype: np.dtype, n_tokens: int) -> None:
    """NumPy leaves room in the header for the first axis to grow: the one for the final length is as long as the one for none."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (n_tokens,)}
    np.lib.format.write_array_header_1_0(file, header)


def _encoded(documents: Iterable[Document], encode: Callable[[Sequence[str]], list[np.ndarray]], size: int) -> Iterator[np.ndarray]:
    """The tokens of each document as they come."""
    for batch in _batches(documents):
        for document, ids in zip(batch, encode([each.text for each in batch]), strict=True):
            check_token_ids(ids, size, document.name)
            yield ids


def _write(ids: np.ndarray, dtype: np.dtype, file: BinaryIO) -> int:
    """Append a document's tokens; how many there are."""
    file.write(ids.astype(dtype).tobytes())
    return len(ids)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    n_characters = 0
    for document in documents:
        batch.append(document)
        n_characters += len(document.text)
        if n_characters >= BATCH_CHARACTERS:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch


def open_packed(folder: Path, vocabulary_size: int) -> PackedTokens:
    """Open what ``pack_documents`` wrote; the tokens stay on disk and are mapped read-only.

    Raises:
        TextError: files that cannot be read or do not fit each other, or a token id outside the vocabulary.
    """
    again = f"Delete the folder {folder} and start again: it is made anew."
    try:
        tokens = np.load(folder / "tokens.npy", mmap_mode="r", allow_pickle=False)
        starts, n_tokens, parts = np.load(folder / "documents.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise TextError(f"{folder}: the packed tokens cannot be read ({error}). {again}") from None
    if tokens.ndim != 1 or int(n_tokens.sum()) != len(tokens) or not np.array_equal(starts, np.cumsum(n_tokens) - n_tokens):
        raise TextError(f"{folder / 'tokens.npy'}: shape {tokens.shape}; expected ({int(n_tokens.sum())},) by documents.npy. {again}")
    check_token_ids(tokens, vocabulary_size, str(folder / "tokens.npy"))
    return PackedTokens(tokens=tokens, starts=starts, n_tokens=n_tokens, parts=parts.astype(np.uint8))
