"""A byte-level BPE of the language's own: trained on the training documents, exact on every text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from confreg.languages.plain_text import CUT, TextError

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0
MIN_FREQUENCY = 2  # a pair seen once is not worth an entry
PIECE_CHARACTERS = 1 << 16  # of a long document
PIECES_AT_ONCE = 64  # encoded together: bounds the memory, an encoding takes a hundred bytes for each token


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Train a byte-level BPE: the end-of-text token is id 0, the 256 bytes follow, then the merges.

    The same texts give the same tokenizer. Short texts may give fewer entries than asked for: see ``get_vocab_size()``.

    Args:
        texts: the training documents; held-out ones must not be among them.
        vocabulary_size: entries, at least 257.

    Raises:
        TextError: when the vocabulary cannot hold all bytes.
    """
    if vocabulary_size < 257:
        raise TextError(f"data.vocabulary_size is {vocabulary_size}; expected at least 257: 256 bytes and the end-of-text token.")
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,  # the reading of the documents is what our own bar shows
    )
    pieces = (piece for text in texts for piece in split_text(text))
    tokenizer.train_from_iterator(pieces, trainer)
    return _as_plain_text(tokenizer)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json`` that ``train_tokenizer`` made.

    Raises:
        TextError: when the file is not such a tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises bare Exception
        raise TextError(f"{path}: is not a tokenizer ({error}). Delete the folder {path.parent} and start again.") from None
    if tokenizer.token_to_id(END_OF_TEXT) != END_OF_TEXT_ID:
        raise TextError(f"{path}: {END_OF_TEXT} does not have id {END_OF_TEXT_ID}. Delete the folder {path.parent} and start again.")
    return _as_plain_text(tokenizer)


def _as_plain_text(tokenizer: Tokenizer) -> Tokenizer:
    """Text that spells the special token stays text; the setting is not kept in ``tokenizer.json``."""
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode_documents(tokenizer: Tokenizer, texts: Sequence[str], in_pieces: bool = True) -> list[np.ndarray]:
    """Token ids of each text (int32), with nothing special before, after or within.

    Args:
        tokenizer: of this module's kind, or any other with ``in_pieces=False``.
        texts: any number.
        in_pieces: encode long texts piecewise, which bounds the memory and is exact for a tokenizer that cuts where ``split_text`` does.
    """
    pieces = [list(split_text(text)) if in_pieces else [text] for text in texts]
    encoded = _encode_pieces(tokenizer, [piece for each in pieces for piece in each])
    return [np.concatenate([next(encoded) for _ in each]) for each in pieces]


def _encode_pieces(tokenizer: Tokenizer, pieces: Sequence[str]) -> Iterator[np.ndarray]:
    for start in range(0, len(pieces), PIECES_AT_ONCE):
        for encoding in tokenizer.encode_batch_fast(pieces[start : start + PIECES_AT_ONCE], add_special_tokens=False):
            yield np.asarray(encoding.ids, dtype=np.int32)


def split_text(text: str, n_characters: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Cut a long text where the pre-tokenizer always cuts: after a word's character and before a blank or a sign.

    So the tokens of the pieces, joined, are the tokens of the text. A text without any such place stays whole.
    """
    start = 0
    while len(text) - start > n_characters:
        found = CUT.search(text, start + n_characters)
        if found is None:
            break
        yield text[start : found.start()]
        start = found.start()
    yield text[start:]


def excluded_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids whose positions are not scored: the end of text, and every token whose text has a newline (the paper drops these)."""
    ids = range(tokenizer.get_vocab_size())
    return tuple(i for i in ids if i == END_OF_TEXT_ID or "\n" in tokenizer.decode([i], skip_special_tokens=False))


def wrapped_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The same tokenizer for transformers and its users; text that spells the special token stays text there too."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
