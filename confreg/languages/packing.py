"""Tokens of every document, packed once into a memory-mapped file; the cache folder is complete or absent."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from confreg.languages.documents import Document, TextError
from confreg.languages.tokenizers import encode_documents
from confreg.records.durable import sha256_of, sync_path

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
BATCH_CHARACTERS = 1 << 21  # encoded at once: bounds the memory beside the packed tokens
ABANDONED_AFTER_SECONDS = 24 * 3600  # a temporary folder this old belongs to a killed process


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


def pack_documents(documents: Iterable[Document], parts: np.ndarray, tokenizer: Tokenizer, folder: Path) -> None:
    """Encode the documents and write ``tokens.npy`` and ``documents.npy`` into a folder.

    Args:
        documents: in the order of ``parts``.
        parts: of each document, as in ``PackedTokens``.
        tokenizer: gives ids below its ``get_vocab_size()``; they are checked.
        folder: exists.

    Raises:
        TextError: another number of documents than of ``parts``, or a token id outside the vocabulary.
    """
    vocabulary_size = tokenizer.get_vocab_size()
    dtype = np.uint16 if vocabulary_size <= 1 << 16 else np.int32
    packed: list[np.ndarray] = []
    for batch in _batches(documents):
        for document, ids in zip(batch, encode_documents(tokenizer, [each.text for each in batch]), strict=True):
            check_token_ids(ids, vocabulary_size, document.name)
            packed.append(ids.astype(dtype))
    if len(packed) != len(parts):
        raise TextError(f"{len(packed)} documents came to be packed; expected {len(parts)}. Start again when nobody writes to the text.")
    n_tokens = np.array([len(ids) for ids in packed], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(n_tokens)[:-1]]).astype(np.int64)
    np.save(folder / "tokens.npy", np.concatenate(packed), allow_pickle=False)
    np.save(folder / "documents.npy", np.stack([starts, n_tokens, parts.astype(np.int64)]), allow_pickle=False)


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


def complete_folder(target: Path, fill: Callable[[Path], None]) -> Path:
    """Make ``target`` with all that ``fill`` writes, or leave nothing: a temporary folder beside it, synced, then renamed.

    When two processes do so at once, the first to finish wins and the other uses the first one's.

    Raises:
        TextError: when the cache cannot be written. Whatever ``fill`` raises passes, after the temporary folder is removed.
    """
    if target.exists():
        return target
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.part"
    try:
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
            if time.time() - folder.stat().st_mtime > ABANDONED_AFTER_SECONDS:
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
    again = f"Delete the folder {folder} and start again: it is rebuilt from the text."
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


def open_packed(folder: Path, vocabulary_size: int) -> PackedTokens:
    """Open what ``pack_documents`` wrote; the tokens stay on disk and are mapped read-only.

    Raises:
        TextError: files that cannot be read or do not fit each other, or a token id outside the vocabulary.
    """
    again = f"Delete the folder {folder} and start again: it is rebuilt from the text."
    try:
        tokens = np.load(folder / "tokens.npy", mmap_mode="r", allow_pickle=False)
        starts, n_tokens, parts = np.load(folder / "documents.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise TextError(f"{folder}: the packed tokens cannot be read ({error}). {again}") from None
    if tokens.ndim != 1 or int(n_tokens.sum()) != len(tokens) or not np.array_equal(starts, np.cumsum(n_tokens) - n_tokens):
        raise TextError(f"{folder / 'tokens.npy'}: shape {tokens.shape}; expected ({int(n_tokens.sum())},) by documents.npy. {again}")
    check_token_ids(tokens, vocabulary_size, str(folder / "tokens.npy"))
    return PackedTokens(tokens=tokens, starts=starts, n_tokens=n_tokens, parts=parts.astype(np.uint8))
