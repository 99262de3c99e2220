"""What one reading of the documents tells, without keeping them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from confreg.languages.plain_text import Document


@dataclass
class Survey:
    """Names and sizes of the documents that passed.

    Attributes:
        names: of the documents, in their order.
        n_characters: of all of them together.
        text_sha256: of their names and bytes; known when the last has passed.
    """

    names: list[str] = field(default_factory=list)
    n_characters: int = 0
    text_sha256: str = ""

    def passing(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The same documents, noted while they pass."""
        digest = hashlib.sha256()
        for document in documents:
            self.names.append(document.name)
            self.n_characters += len(document.text)
            for content in (document.name.encode("utf-8", "surrogateescape"), document.text.encode("utf-8")):
                digest.update(len(content).to_bytes(8, "little") + content)
            yield document
        self.text_sha256 = digest.hexdigest()
