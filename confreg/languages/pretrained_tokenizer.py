"""The tokenizer of a pretrained model: what it makes of text, and which of its tokens are no text."""

from __future__ import annotations

import hashlib
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from confreg.languages.model_sources import ModelSource, ModelSourceError

IDS_AT_ONCE = 4096


class PretrainedTokenizer:
    """A tokenizer of transformers, read for blocks of plain text.

    What is special about it comes from itself, never from a model's name: ``first_ids`` is what it puts before every text (a beginning of
    text, or nothing), and so stands before every block; ``excluded_ids`` are its special tokens and all whose text has a newline.

    Args:
        source: as of ``model.source``; a run's tokenizer is that of its language.

    Raises:
        ModelSourceError: where there is none, or it is not a fast one.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        place = ModelSource.of(source).tokenizer()
        with place.explained("tokenizer"):
            self.wrapped: Any = AutoTokenizer.from_pretrained(**place.arguments())
        found = getattr(self.wrapped, "backend_tokenizer", None)
        if not isinstance(found, Tokenizer):
            raise ModelSourceError(f"{source}: its tokenizer ({type(self.wrapped).__name__}) is not one of the tokenizers library.")
        self.backend = found
        self.backend.encode_special_tokens = True  # text that spells a special token stays text
        self.vocabulary_size = max(len(self.wrapped), max(self.wrapped.get_vocab().values()) + 1)
        self.first_ids = self._first_ids()
        self.excluded_ids = self._excluded_ids()

    def fingerprint(self) -> str:
        """SHA-256 of all that it does."""
        return hashlib.sha256(self.backend.to_str().encode()).hexdigest()

    def _first_ids(self) -> tuple[int, ...]:
        """What stands before a text, where the tokenizer's own template puts something there."""
        with_special, plain = (list(self.wrapped("a", add_special_tokens=each)["input_ids"]) for each in (True, False))
        n_before = next((n for n in range(len(with_special)) if with_special[n : n + len(plain)] == plain), 0)
        return tuple(with_special[:n_before])

    def _excluded_ids(self) -> tuple[int, ...]:
        special, found = set(self.wrapped.all_special_ids), []
        for start in range(0, self.vocabulary_size, IDS_AT_ONCE):
            ids = range(start, min(start + IDS_AT_ONCE, self.vocabulary_size))
            texts = self.backend.decode_batch([[each] for each in ids], skip_special_tokens=False)
            found += [each for each, text in zip(ids, texts, strict=True) if each in special or "\n" in text]
        return tuple(found)
