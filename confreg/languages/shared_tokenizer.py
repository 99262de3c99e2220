"""One tokenizer for several texts that are read side by side."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property

from tokenizers import Tokenizer

from confreg.languages.documents import Documents, TextError
from confreg.languages.survey import Survey
from confreg.languages.text import PARTS, PASSAGE_BLOCKS, split_documents
from confreg.languages.tokenizers import train_tokenizer
from confreg.settings import TextSettings


@contextlib.contextmanager
def naming_part(name: str) -> Iterator[None]:
    """An error about a text of a mixture says of which part it is."""
    try:
        yield
    except TextError as error:
        raise TextError(f"data.parts.{name}.text: {error}") from error


class SharedTokenizer:
    """A byte-level BPE of the training documents of several texts, one text after the other.

    Args:
        settings: of the texts by the names of their parts, in a fixed order; their vocabulary sizes are the same.

    Raises:
        TextError: of text that cannot be used, naming its part.
    """

    def __init__(self, settings: Mapping[str, TextSettings]) -> None:
        self._rows: list[tuple[TextSettings, Documents, Survey]] = []
        for name, each in settings.items():
            with naming_part(name):
                documents, survey = Documents(each, PASSAGE_BLOCKS * each.block_length), Survey()
                for _ in survey.passing(documents):
                    pass
                self._rows.append((each, documents, survey))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of every text and of how it is split: the same for the same training documents."""
        shaping = [f"{survey.text_sha256} {each.held_out_every}" for each, _, survey in self._rows]
        return hashlib.sha256("\n".join(shaping).encode()).hexdigest()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Trained when it is first asked for, and then kept."""
        return train_tokenizer(self._training_texts(), self._rows[0][0].vocabulary_size)

    def _training_texts(self) -> Iterator[str]:
        for settings, documents, before in self._rows:
            survey, parts = Survey(), iter(split_documents(len(before.names), settings.held_out_every))
            for document in survey.passing(documents):
                if next(parts, None) == PARTS["train"]:
                    yield document.text
            if survey.text_sha256 != before.text_sha256:
                raise TextError(f"data.source {settings.source!r} changed while it was read; start again when nobody writes to it.")
