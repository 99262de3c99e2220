"""A Markov language whose confidence is hidden and changes along the text, with its Bayes-optimal prediction.

next ~ softmax(beta (u + lambda g[previous])), with Zipfian unigram log-probabilities u, transition scores g of low rank, and
g[v, v] = -inf: no token follows itself. The latent (beta, lambda) is drawn afresh from a finite grid with probability h at every
token, independently of the text. One document is one block, and document i of a part is a function of (seed, part, i).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from confreg.languages.truth import bayes_log_probs
from confreg.settings import SyntheticSettings

PARTS = {"train": 0, "reference": 1, "measured": 2}
DRAWS_PER_TOKEN = 3  # uniform numbers: the next token, whether the latent is redrawn, and which one it becomes
CHUNK_OF_DOCUMENTS = 8192  # bounds the memory of counting


def unigram_log_probs(settings: SyntheticSettings) -> Float[NDArray, "vocab"]:
    """Nats: Zipf's law over the token ids, the most frequent first."""
    scores = -settings.zipf_exponent * np.log(np.arange(1, settings.vocabulary_size + 1, dtype=np.float64))
    return scores - np.logaddexp.reduce(scores)


def transition_scores(settings: SyntheticSettings) -> Float[NDArray, "vocab vocab"]:
    """Nats: scores g[previous, next] of the given rank and standard deviation, with -inf from a token to itself."""
    generator = np.random.Generator(np.random.Philox(key=settings.language_seed))
    left, right = generator.standard_normal((2, settings.vocabulary_size, settings.rank))
    scores = left @ right.T * (settings.score_std / np.sqrt(settings.rank))
    np.fill_diagonal(scores, -np.inf)
    return scores


def latent_grid(settings: SyntheticSettings) -> Float[NDArray, "latent 2"]:
    """Every pair of an inverse temperature (log-spaced) and a back-off weight (evenly spaced)."""
    betas = np.geomspace(settings.inverse_temperature_min, settings.inverse_temperature_max, settings.n_inverse_temperatures)
    lambdas = np.linspace(settings.backoff_weight_min, settings.backoff_weight_max, settings.n_backoff_weights)
    return np.stack(np.meshgrid(betas, lambdas, indexing="ij"), axis=-1).reshape(-1, 2)


def transition_log_probs(settings: SyntheticSettings) -> Float[NDArray, "latent vocab vocab"]:
    """Nats: log P(next | previous, latent), as [latent, previous, next]."""
    unigram, scores = unigram_log_probs(settings), transition_scores(settings)
    forbidden = np.isneginf(scores)
    finite = np.where(forbidden, 0.0, scores)
    logits = np.stack([beta * (unigram + weight * finite) for beta, weight in latent_grid(settings)])
    logits[:, forbidden] = -np.inf  # for every latent, also where the back-off weight is zero
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


class SyntheticLanguage:
    """The language with a known confidence, as a ``Language``.

    Args:
        settings: sizes and latents of the language.
        seed: of the documents; the language itself follows ``settings.language_seed``.
    """

    n_train_blocks: int | None = None
    excluded_ids: tuple[int, ...] = ()

    def __init__(self, settings: SyntheticSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.vocabulary_size, self.block_length = settings.vocabulary_size, settings.block_length
        self.tokenizer: Any = number_tokenizer(settings.vocabulary_size)
        self.log_probs = transition_log_probs(settings)
        self._first_cumulative = np.cumsum(np.exp(unigram_log_probs(settings)))
        self._cumulative = np.cumsum(np.exp(self.log_probs), axis=-1)
        self.reference = torch.from_numpy(self.documents("reference", range(settings.n_reference))[0])
        self.measured = torch.from_numpy(self.documents("measured", range(settings.n_measured))[0])
        self.measured_documents = torch.arange(settings.n_measured)

    def documents(self, part: str, indices: Sequence[int]) -> tuple[Int[NDArray, "document token"], Int[NDArray, "document token"]]:
        """Token ids of these documents, and the latent (an index into the grid) under which each token was drawn."""
        draws = np.stack([self._draws(part, index) for index in indices])
        n_latents = len(self.log_probs)
        tokens = np.empty(draws.shape[:2], dtype=np.int64)
        latents = np.empty_like(tokens)
        tokens[:, 0] = _inverse_cumulative(self._first_cumulative[None], np.zeros(len(draws), dtype=np.int64), draws[:, 0, 0])
        latents[:, 0] = np.minimum((draws[:, 0, 2] * n_latents).astype(np.int64), n_latents - 1)
        rows = self._cumulative.reshape(-1, self.vocabulary_size)
        for position in range(1, self.block_length):
            redrawn = draws[:, position, 1] < self.settings.redraw_probability
            fresh = np.minimum((draws[:, position, 2] * n_latents).astype(np.int64), n_latents - 1)
            latents[:, position] = np.where(redrawn, fresh, latents[:, position - 1])
            row = latents[:, position] * self.vocabulary_size + tokens[:, position - 1]
            tokens[:, position] = _inverse_cumulative(rows, row, draws[:, position, 0])
        return tokens, latents

    def _draws(self, part: str, index: int) -> Float[NDArray, "token draw"]:
        bits = np.random.Philox(key=[self.seed, PARTS[part]], counter=[0, 1, index, self.settings.language_seed])
        return np.random.Generator(bits).random((self.block_length, DRAWS_PER_TOKEN))

    def train_blocks(self, indices: Sequence[int]) -> Int[Tensor, "block token"]:
        """Training documents of these numbers, generated fresh."""
        return torch.from_numpy(self.documents("train", indices)[0])

    def token_counts(self, n_samples: int) -> Int[Tensor, "vocab"]:
        """Counts over the first ``n_samples`` training documents: all that a run of this length reads."""
        counts = torch.zeros(self.vocabulary_size, dtype=torch.int64)
        for start in range(0, n_samples, CHUNK_OF_DOCUMENTS):
            blocks = self.train_blocks(range(start, min(start + CHUNK_OF_DOCUMENTS, n_samples)))
            counts += torch.bincount(blocks.flatten(), minlength=self.vocabulary_size)
        return counts

    def bayes_log_probs(self, blocks: Int[Tensor, "block token"]) -> Float[Tensor, "block token vocab"]:
        """Nats: the Bayes-optimal prediction of token t + 1 from tokens up to t, by the forward filter over the latents."""
        return bayes_log_probs(torch.from_numpy(self.log_probs), blocks, self.settings.redraw_probability)

    def held_out(self, n_blocks: int) -> tuple[Int[Tensor, "block token"], Int[Tensor, "block token"], Int[Tensor, "block"]]:
        """The first blocks of the reference and of the measured part, each a document of its own, and the latter's documents."""
        return self.reference[:n_blocks], self.measured[:n_blocks], self.measured_documents[:n_blocks]

    def facts(self) -> dict[str, Any]:
        """Sizes, the grid, and how near the pooled frequencies are to the unigram scores."""
        counts = self.token_counts(CHUNK_OF_DOCUMENTS // 4).double()
        direction = torch.log(counts + 1) - torch.log(counts + 1).mean()
        unigram = torch.from_numpy(unigram_log_probs(self.settings))
        cosine = torch.nn.functional.cosine_similarity(direction, unigram - unigram.mean(), dim=0)
        return {
            "kind": "synthetic",
            "vocabulary_size": self.vocabulary_size,
            "latents": latent_grid(self.settings).tolist(),
            "redraw_probability": self.settings.redraw_probability,
            "language_seed": self.settings.language_seed,
            "frequency_direction_cosine_with_unigram": float(cosine),
        }


def number_tokenizer(vocabulary_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose every token is its own id in decimal digits, ``17 4 200``; it has no special token and refuses all other text."""
    numbers = Tokenizer(models.WordLevel({str(token): token for token in range(vocabulary_size)}))
    numbers.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=numbers, clean_up_tokenization_spaces=False)


def _inverse_cumulative(
    rows: Float[NDArray, "row vocab"], row: Int[NDArray, "document"], uniform: Float[NDArray, "document"]
) -> Int[NDArray, "document"]:
    """The first token whose cumulative probability exceeds ``uniform``, by bisection: the same for any batch of documents.

    Bisection only ever ends on a token with probability above zero: before the last one the cumulative sum is flat over the others.
    """
    target = np.minimum(uniform * rows[row, -1], np.nextafter(rows[row, -1], 0.0))  # rounding may leave the total just off 1
    low, high = np.zeros(len(row), dtype=np.int64), np.full(len(row), rows.shape[1] - 1, dtype=np.int64)
    while (low < high).any():
        middle = (low + high) // 2
        above = rows[row, middle] > target
        low, high = np.where(above, low, np.minimum(middle + 1, high)), np.where(above, middle, high)
    return low
