"""Several languages and texts as one ``Language``: every block is from one part, dealt out by weight.

Token ids: the parts are ordered by name. Synthetic parts of the same vocabulary size share one range of ids (so that confidences can be
mixed), all texts share another and one tokenizer, trained on the training documents of all of them; ranges follow one another in the
order in which their first parts come. Block i of the training is a function of the weights, the seed and i alone: a finite part is
repeated pass after pass, each shuffled by (seed, name, pass); an endless one is read from its front.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from confreg.languages.blocks import Language
from confreg.languages.interleaving import Interleaving
from confreg.languages.order import BlockOrder
from confreg.languages.shared_tokenizer import SharedTokenizer, naming_part
from confreg.languages.synthetic import SyntheticLanguage, unigram_log_probs
from confreg.languages.text import TextLanguage
from confreg.languages.token_counts import read_token_counts
from confreg.languages.truth import mixture_log_probs
from confreg.settings import MixtureSettings, PartSettings, TextSettings, is_all_synthetic

SEED_DIGITS = 12  # hex digits of a part's seed: 48 bits


@dataclass(frozen=True)
class Part:
    """One language of a mixture and its place in it."""

    name: str
    weight: float
    language: Language
    first_id: int  # of its range of token ids
    order: BlockOrder

    def train_blocks(self, samples: Sequence[int]) -> Int[Tensor, "block token"]:
        """The blocks that are read as these samples of the part, in the ids of the mixture."""
        return self.language.train_blocks(self.order.numbers(samples).tolist()) + self.first_id


class MixtureLanguage:
    """Languages and texts read side by side.

    Args:
        settings: weights and sources of the parts.
        seed: the run's; every part has one of its own, made of it and the part's name.

    Raises:
        TextError: for a text that cannot be used, naming its part.
    """

    n_train_blocks: int | None = None

    def __init__(self, settings: MixtureSettings, seed: int) -> None:
        self.settings, self.seed, self.block_length = settings, seed, settings.block_length
        named = settings.ordered()
        shared = _shared_tokenizer(settings)
        languages = [_language_of(settings, name, part, seed, shared) for name, part in named]
        first_ids, self.vocabulary_size = _first_ids(languages)
        self.parts = [
            Part(name, part.weight, language, first_id, BlockOrder(language.n_train_blocks, part_seed(seed, name)))
            for (name, part), language, first_id in zip(named, languages, first_ids, strict=True)
        ]
        self._interleaving = Interleaving([part.weight for part in self.parts])
        self.excluded_ids = tuple(sorted({part.first_id + token for part in self.parts for token in part.language.excluded_ids}))
        self.tokenizer: Any = languages[0].tokenizer if len(set(first_ids)) == 1 else None  # one for all, or none that fits
        self.reference, self.measured, self.measured_documents = self._mixed(
            [(part.language.reference, part.language.measured, part.language.measured_documents) for part in self.parts]
        )

    def train_blocks(self, indices: Sequence[int]) -> Int[Tensor, "block token"]:
        """The training blocks of these numbers; each is from the part to which its number falls."""
        owners, samples = self._interleaving.places(indices)
        blocks = torch.empty(len(owners), self.block_length, dtype=torch.int64)
        for number, part in enumerate(self.parts):
            if (mine := owners == number).any():
                blocks[torch.from_numpy(mine)] = part.train_blocks(samples[mine])
        return blocks

    def held_out(self, n_blocks: int) -> tuple[Int[Tensor, "block token"], Int[Tensor, "block token"], Int[Tensor, "block"]]:
        """At most so many blocks of each part, as many of each language as its weight says, and the measured documents."""
        n_of_each = self._interleaving.counts(np.array([n_blocks]))[0].tolist()
        reference, measured, documents = self._mixed(
            [part.language.held_out(int(n)) for part, n in zip(self.parts, n_of_each, strict=True)]
        )
        return reference[:n_blocks], measured[:n_blocks], documents[:n_blocks]

    def token_counts(self, n_samples: int) -> Int[Tensor, "vocab"]:
        """Counts over the first ``n_samples`` blocks, all that a run of this length reads: each part weighs as much as it is read."""
        return read_token_counts(self, BlockOrder(None, self.seed), 0, n_samples)

    def bayes_log_probs(self, blocks: Int[Tensor, "block token"]) -> Float[Tensor, "block token vocab"] | None:
        """Nats: the best prediction of a reader who does not know the part, where all parts are synthetic; None where one is text."""
        if not is_all_synthetic(self.settings):
            return None
        log_probs = torch.full((*blocks.shape, self.vocabulary_size), -torch.inf, dtype=torch.float64)
        for first_id in {part.first_id for part in self.parts}:
            sharing = [part for part in self.parts if part.first_id == first_id]
            ids = slice(first_id, first_id + sharing[0].language.vocabulary_size)
            mine = ((blocks >= ids.start) & (blocks < ids.stop)).all(1)
            if mine.any():
                log_probs[mine, :, ids] = _mixed_truth(sharing, blocks[mine] - first_id)
        return log_probs

    def facts(self) -> dict[str, Any]:
        """What ``run.json`` says of the mixture, and of every part under its name."""
        total = sum(part.weight for part in self.parts)
        measured = self._interleaving.counts(np.array([len(self.reference), len(self.measured)]))
        about = {}
        for part, (n_reference, n_measured) in zip(self.parts, measured.T.tolist(), strict=True):
            ids = [part.first_id, part.first_id + part.language.vocabulary_size - 1]
            sizes = {"n_reference_blocks_in_mixture": n_reference, "n_measured_blocks_in_mixture": n_measured}
            about[part.name] = {"share_of_blocks": part.weight / total, "token_ids": ids, **sizes, **part.language.facts()}
        return {
            "kind": "mixture",
            "vocabulary_size": self.vocabulary_size,
            "excluded_ids": list(self.excluded_ids),
            "n_reference_blocks": len(self.reference),
            "n_measured_blocks": len(self.measured),
            "parts": about,
        }

    def _mixed(self, held_out: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """Reference blocks, measured blocks and documents of all languages, in the mixture's ids."""
        references, measured, documents = zip(*held_out, strict=True)
        with_ids = ([rows + part.first_id for part, rows in zip(self.parts, each, strict=True)] for each in (references, measured))
        return *map(self._interleaved, with_ids), self._interleaved(_distinct(documents))  # type: ignore[return-value]

    def _interleaved(self, rows: Sequence[Tensor]) -> Tensor:
        """Rows of every part dealt out by weight, until one part has no more of them: so any start has the right proportions."""
        parts, numbers = self._interleaving.places(np.arange(sum(map(len, rows)) + 1))
        n_there = np.array([len(each) for each in rows])
        n_rows = int((numbers >= n_there[parts]).argmax())
        return torch.stack([rows[part][number] for part, number in zip(parts[:n_rows], numbers[:n_rows], strict=True)])


def part_seed(seed: int, name: str) -> int:
    """The seed of a part: two parts of one language do not read the same documents."""
    return int(hashlib.sha256(f"{seed} {name}".encode()).hexdigest()[:SEED_DIGITS], 16)


def _shared_tokenizer(settings: MixtureSettings) -> SharedTokenizer | None:
    """None where one text has a tokenizer of its own."""
    sources = {name: settings.data_of(part) for name, part in settings.ordered()}
    texts = {name: data for name, data in sources.items() if isinstance(data, TextSettings)}
    return SharedTokenizer(texts) if len(texts) > 1 else None


def _language_of(settings: MixtureSettings, name: str, part: PartSettings, seed: int, shared: SharedTokenizer | None) -> Language:
    data = settings.data_of(part)
    if not isinstance(data, TextSettings):
        return SyntheticLanguage(data, part_seed(seed, name))
    with naming_part(name):
        return TextLanguage(data, seed, shared)


def _first_ids(languages: Sequence[Language]) -> tuple[list[int], int]:
    """The first token id of every language, and the size of the whole vocabulary."""
    starts: dict[object, int] = {}
    vocabulary_size, first_ids = 0, []
    for language in languages:
        range_shared = "text" if isinstance(language, TextLanguage) else language.vocabulary_size
        if range_shared not in starts:
            starts[range_shared] = vocabulary_size
            vocabulary_size += language.vocabulary_size
        first_ids.append(starts[range_shared])
    return first_ids, vocabulary_size


def _distinct(documents: Sequence[Int[Tensor, "block"]]) -> list[Int[Tensor, "block"]]:
    """Ids of documents, moved apart so that no two parts share one."""
    starts = np.cumsum([0, *(int(each.max()) + 1 if len(each) else 0 for each in documents)])
    return [each + int(start) for each, start in zip(documents, starts[:-1], strict=True)]


def _mixed_truth(parts: Sequence[Part], blocks: Int[Tensor, "block token"]) -> Float[Tensor, "block token vocab"]:
    languages = [part.language for part in parts]
    synthetic = [each for each in languages if isinstance(each, SyntheticLanguage)]
    return mixture_log_probs(
        torch.tensor([part.weight for part in parts], dtype=torch.float64),
        torch.stack([torch.from_numpy(unigram_log_probs(each.settings)) for each in synthetic]),
        torch.stack([each.bayes_log_probs(blocks) for each in synthetic]),
        blocks,
    )
