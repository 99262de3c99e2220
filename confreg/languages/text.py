"""Real text as a ``Language``: its own tokenizer, and blocks of three parts that share no document."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from tokenizers import Tokenizer
from torch import Tensor

from confreg.languages.cache_folder import FORMAT_VERSION, cache_place, check_folder, complete_folder
from confreg.languages.documents import Documents, TextError
from confreg.languages.packing import open_packed, pack_documents
from confreg.languages.pretrained_tokenizer import PretrainedTokenizer
from confreg.languages.survey import Survey
from confreg.languages.tokenizers import MIN_FREQUENCY, excluded_ids, load_tokenizer, train_tokenizer, wrapped_tokenizer
from confreg.settings import TextSettings

if TYPE_CHECKING:
    from confreg.languages.shared_tokenizer import SharedTokenizer

PARTS = {"train": 0, "reference": 1, "measured": 2}
PASSAGE_BLOCKS = 32  # characters of a passage per token of a block: about eight blocks in each


def split_documents(n_documents: int, held_out_every: int) -> Int[NDArray, "document"]:
    """The part of each document: 0 train, 1 reference, 2 measured.

    One in every ``held_out_every`` is held out, from the middle of the stretch, by turns for the reference and the measured part;
    so all three parts run through the whole source and confound neither era nor subject with the part.
    """
    parts = np.full(n_documents, PARTS["train"], dtype=np.uint8)
    held_out = np.arange(held_out_every // 2, n_documents, held_out_every)
    parts[held_out[0::2]] = PARTS["reference"]
    parts[held_out[1::2]] = PARTS["measured"]
    return parts


def spread_blocks(n_blocks: Int[NDArray, "document"], at_most: int) -> Int[NDArray, "chosen 2"]:
    """Choose blocks evenly: every document has one before any has a second, and within a document they are evenly spaced.

    Args:
        n_blocks: how many blocks each document has.
        at_most: how many to choose; all when there are fewer.

    Returns:
        One row per chosen block, in order: the document's index and the block's index within it.
    """
    quota = np.zeros_like(n_blocks)
    while (open_documents := np.flatnonzero(quota < n_blocks)).size and (left := at_most - int(quota.sum())) > 0:
        n_now = min(left, open_documents.size)
        quota[open_documents[np.arange(n_now) * open_documents.size // n_now]] += 1
    chosen = [(document, (2 * i + 1) * int(n_blocks[document]) // (2 * int(n))) for document, n in enumerate(quota) for i in range(n)]
    return np.array(chosen, dtype=np.int64).reshape(-1, 2)


class TextLanguage:
    """Text as blocks of token ids, each within one document and without overlap; documents below one block give none.

    Nothing is inserted: no token marks a document's beginning or end. The split, the tokenizer and the blocks are functions of the
    text and the settings alone; ``seed`` is there because every language takes one.

    Args:
        settings: source, split and sizes.
        seed: plays no part.
        shared: the tokenizer of several texts, this one among them; None for one of its own.

    Raises:
        TextError: text that cannot be used, too little of it for one block in each part, or a damaged cache.
    """

    def __init__(self, settings: TextSettings, seed: int = 0, shared: SharedTokenizer | None = None) -> None:
        self.settings, self._shared = settings, shared
        self.block_length = settings.block_length
        self._documents = Documents(settings, PASSAGE_BLOCKS * self.block_length)
        self._survey, self._published = Survey(), None if settings.tokenizer is None else PretrainedTokenizer(settings.tokenizer)
        self.first_ids: tuple[int, ...] = self._published.first_ids if self._published else ()
        self._length = self.block_length - len(self.first_ids)  # of what is text in a block
        for _ in self._survey.passing(self._documents):
            pass
        self._parts = split_documents(len(self._survey.names), settings.held_out_every)
        self._check_documents()
        self.folder = complete_folder(cache_place(settings.cache) / self.fingerprint(), self._fill_cache)
        check_folder(self.folder)
        self._take_tokenizer()
        self._packed = open_packed(self.folder, self.vocabulary_size)
        self._n_blocks = self._packed.n_tokens // self._length
        self._check_blocks()
        self._train_documents = np.flatnonzero((self._parts == PARTS["train"]) & (self._n_blocks > 0))
        self._train_ends = np.cumsum(self._n_blocks[self._train_documents])  # blocks up to and with each of them
        self.n_train_blocks: int | None = int(self._train_ends[-1])
        self.reference, self.reference_documents = self._blocks_of("reference", settings.n_reference)
        self.measured, self.measured_documents = self._blocks_of("measured", settings.n_measured)

    def _take_tokenizer(self) -> None:
        if self._published is not None:
            known = self._published
            self.tokenizer, self.vocabulary_size, self.excluded_ids = known.wrapped, known.vocabulary_size, known.excluded_ids
            return
        bpe = load_tokenizer(self.folder / "tokenizer.json")
        self.tokenizer, self.vocabulary_size, self.excluded_ids = wrapped_tokenizer(bpe), bpe.get_vocab_size(), excluded_ids(bpe)

    def train_blocks(self, indices: Sequence[int]) -> Int[Tensor, "block token"]:
        """The training blocks of these numbers, from 0 to ``n_train_blocks - 1``, in the order of the text."""
        wanted = np.asarray(indices, dtype=np.int64).reshape(-1)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self._train_ends[-1]):
            raise IndexError(f"train_blocks got indices {wanted.min()} to {wanted.max()}; expected 0 to {self._train_ends[-1] - 1}.")
        row = np.searchsorted(self._train_ends, wanted, side="right")
        documents = self._train_documents[row]
        return self._blocks(documents, wanted - (self._train_ends[row] - self._n_blocks[documents]))

    def token_counts(self, n_samples: int = 0) -> Int[Tensor, "vocab"]:
        """How often each id occurs in all training documents, those below one block included; ``n_samples`` plays no part here."""
        return torch.from_numpy(np.pad(self._counts, (0, self.vocabulary_size - len(self._counts))))  # a model may have more ids

    def bayes_log_probs(self, blocks: Int[Tensor, "block token"]) -> Float[Tensor, "block token vocab"] | None:
        """None: nobody knows the true distribution of real text."""
        return None

    def fingerprint(self) -> str:
        """Name of the cache folder: SHA-256 of the documents' names and bytes and of every setting that shapes tokens or split."""
        shaping = {
            "format_version": FORMAT_VERSION,
            "vocabulary_size": self.settings.vocabulary_size,
            "min_frequency": MIN_FREQUENCY,
            "held_out_every": self.settings.held_out_every,
            "text_sha256": self._survey.text_sha256,
        }
        if self._published is not None:
            shaping["tokenizer_sha256"] = self._published.fingerprint()
        if self._shared is not None:
            shaping["tokenizer_texts_sha256"] = self._shared.fingerprint
        return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()

    def held_out(self, n_blocks: int) -> tuple[Int[Tensor, "block token"], Int[Tensor, "block token"], Int[Tensor, "block"]]:
        """At most so many blocks of each part, spread over all its documents as those of the whole part are, and the measured documents."""
        reference, _ = self._blocks_of("reference", min(n_blocks, self.settings.n_reference))
        return reference, *self._blocks_of("measured", min(n_blocks, self.settings.n_measured))

    def facts(self) -> dict[str, Any]:
        """What ``run.json`` says of the text: sizes by part, tokens, fingerprints, and the documents that are measured on."""
        return {
            "kind": "text",
            "source": self.settings.source,
            **self._documents.facts(),
            "n_documents": self._by_part(np.ones_like(self._n_blocks)),
            "n_tokens": self._by_part(self._packed.n_tokens),
            "n_blocks": self._by_part(self._n_blocks),
            "n_reference_blocks": len(self.reference),
            "n_measured_blocks": len(self.measured),
            "n_documents_below_one_block": int((self._n_blocks == 0).sum()),
            "block_length": self.block_length,
            "vocabulary_size": self.vocabulary_size,
            "vocabulary_size_asked": None if self._published else self.settings.vocabulary_size,
            "tokenizer": self.settings.tokenizer,
            "first_ids": list(self.first_ids),
            "characters_per_token": self._survey.n_characters / int(self._packed.n_tokens.sum()),
            "zero_count_share": (self.token_counts() == 0).double().mean().item(),
            "excluded_ids": list(self.excluded_ids),
            "text_sha256": self._survey.text_sha256,
            "fingerprint": self.fingerprint(),
            "reference_document_names": self._names(self.reference_documents),
            "measured_document_names": self._names(self.measured_documents),
        }

    def _fill_cache(self, folder: Path) -> None:
        """Train on the training documents, then pack all; the text is read anew for each, so that it need not fit into memory."""
        survey, known = Survey(), self._published
        documents = self._tracked(survey.passing(self._documents), "Packing tokens")
        if known is not None:
            pack_documents(documents, self._parts, known.backend, folder, known.vocabulary_size, in_pieces=False)
        else:
            tokenizer = self._own_tokenizer() if self._shared is None else self._shared.tokenizer
            tokenizer.save(str(folder / "tokenizer.json"))
            pack_documents(documents, self._parts, tokenizer, folder)
        if survey.text_sha256 != self._survey.text_sha256:
            raise TextError(f"data.source {self.settings.source!r} changed while it was read; start again when nobody writes to it.")

    def _own_tokenizer(self) -> Tokenizer:
        training = (document.text for document, part in zip(self._documents, self._parts, strict=False) if part == PARTS["train"])
        return train_tokenizer(self._tracked(training, "Training the tokenizer", part="train"), self.settings.vocabulary_size)

    def _tracked(self, items: Iterable[Any], description: str, part: str | None = None) -> Iterable[Any]:
        console = Console(stderr=True)
        total = len(self._parts) if part is None else int((self._parts == PARTS[part]).sum())
        return track(items, description, total=total, console=console, transient=True, disable=not console.is_terminal)

    def _check_documents(self) -> None:
        every, n_documents = self.settings.held_out_every, len(self._parts)
        n_needed = every // 2 + every + 1
        if n_documents < n_needed:
            raise TextError(
                f"data.source {self.settings.source!r} has {n_documents} documents of {self._survey.n_characters} characters in all; "
                f"expected at least {n_needed}, so that the train, reference and measured parts have one each. Give more documents or "
                f"lower data.held_out_every (now {every}); a txt file alone counts one for every {PASSAGE_BLOCKS} x data.block_length "
                f"= {PASSAGE_BLOCKS * self.block_length} characters."
            )

    def _check_blocks(self) -> None:
        for part, n_blocks in self._by_part(self._n_blocks).items():
            if n_blocks < 1:
                n_tokens = self._packed.n_tokens[self._parts == PARTS[part]]
                raise TextError(
                    f"data.source {self.settings.source!r}: the {part} part has no block. Its {len(n_tokens)} documents have "
                    f"{n_tokens.sum()} tokens in all and {n_tokens.max()} in the longest; expected one of {self.block_length} at least. "
                    f"Give longer documents or lower data.block_length."
                )

    def _blocks_of(self, part: str, at_most: int) -> tuple[Int[Tensor, "block token"], Int[Tensor, "block"]]:
        """Blocks of a held-out part and the document of each."""
        members = np.flatnonzero(self._parts == PARTS[part])
        rows, numbers = spread_blocks(self._n_blocks[members], at_most).T
        return self._blocks(members[rows], numbers), torch.from_numpy(members[rows])

    def _blocks(self, documents: Int[NDArray, "block"], numbers: Int[NDArray, "block"]) -> Int[Tensor, "block token"]:
        """Block ``numbers[i]`` of document ``documents[i]``."""
        starts = self._packed.starts[documents] + numbers * self._length
        text = torch.from_numpy(self._packed.tokens[starts[:, None] + np.arange(self._length)].astype(np.int64))
        return torch.cat([torch.tensor(self.first_ids, dtype=text.dtype).expand(len(text), -1), text], dim=1)

    @cached_property
    def _counts(self) -> Int[NDArray, "vocab"]:
        counts = np.zeros(self.vocabulary_size, dtype=np.int64)
        for document in np.flatnonzero(self._parts == PARTS["train"]):
            start = self._packed.starts[document]
            counts += np.bincount(self._packed.tokens[start : start + self._packed.n_tokens[document]], minlength=self.vocabulary_size)
        return counts

    def _by_part(self, values: Int[NDArray, "document"]) -> dict[str, int]:
        return {part: int(values[self._parts == number].sum()) for part, number in PARTS.items()}

    def _names(self, documents: Int[Tensor, "block"]) -> list[str]:
        return [self._survey.names[document] for document in torch.unique(documents).tolist()]
