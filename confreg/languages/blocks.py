"""Fixed blocks of token ids: what a measurement reads, and what a source of text must offer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FIRST_SCORED_POSITION = 3  # as in the paper's code: the first positions are unlike all others


@dataclass(frozen=True)
class Blocks:
    """The two parts of one measurement.

    Args:
        reference: token ids; every position gives replacement values.
        measured: token ids; effects are measured here.
        scored: which positions of ``measured`` count; position t is scored by its prediction of token t + 1, so the last
            position never counts. None: positions 3 to T - 2 whose token and next token are not in ``excluded_ids``.
        documents: one id for each measured block, the clusters of the standard errors. None: each block its own.
        excluded_ids: token ids whose predictions and predictors are not scored (BOS, end of text, newline).
        bayes_log_probs: nats, the language's own log P(token t + 1 | tokens up to t) at position t, where known.

    Raises:
        ValueError: where token ids are no whole numbers in two dimensions, there is no reference block, or
            ``bayes_log_probs`` is not that of the measured blocks.
    """

    reference: Int[Tensor, "reference_block token"]
    measured: Int[Tensor, "block token"]
    scored: Bool[Tensor, "block token"] | None = None
    documents: Int[Tensor, "block"] | None = None
    excluded_ids: tuple[int, ...] = ()
    bayes_log_probs: Float[Tensor, "block token vocab"] | None = None

    def __post_init__(self) -> None:
        for name in ("reference", "measured"):
            _check_token_ids(name, getattr(self, name))
        if not self.reference.numel():
            raise ValueError(f"Blocks.reference has shape {tuple(self.reference.shape)}; expected at least one reference block.")
        truth = self.bayes_log_probs
        if truth is not None and truth.shape[:-1] != self.measured.shape:
            raise ValueError(
                f"Blocks.bayes_log_probs has shape {tuple(truth.shape)}; "
                f"expected that of measured, {tuple(self.measured.shape)}, and one entry for each vocabulary id."
            )

    def check_vocabulary(self, size: int) -> None:
        """Raise ValueError where a token id is none of a model with so many."""
        for name in ("reference", "measured"):
            smallest, largest = (int(each) for each in getattr(self, name).aminmax()) if getattr(self, name).numel() else (0, 0)
            if smallest < 0 or largest >= size:
                raise ValueError(
                    f"Blocks.{name} has token ids from {smallest} to {largest}; expected 0 to {size - 1}, those of the model. "
                    "Were they made with another tokenizer?"
                )

    def scored_positions(self) -> Bool[Tensor, "block token"]:
        """The positions that count, the default applied and the last position taken out.

        Raises:
            ValueError: where no position is left, or ``scored`` has no booleans or another shape than ``measured``.
        """
        scored = default_scored(self.measured, self.excluded_ids) if self.scored is None else self.scored.clone()
        if scored.shape != self.measured.shape or scored.dtype != torch.bool:
            raise ValueError(
                f"Blocks.scored is {scored.dtype} of shape {tuple(scored.shape)}; "
                f"expected torch.bool of shape {tuple(self.measured.shape)}, that of measured."
            )
        scored[:, -1] = False
        if not scored.any():
            raise ValueError(
                f"No scored position in measured blocks of shape {tuple(self.measured.shape)}; expected at least one. "
                "Give longer blocks, fewer excluded_ids, or scored positions of your own."
            )
        return scored

    def clusters(self) -> Int[Tensor, "block"]:
        """The document of each measured block as 0, 1, 2, …"""
        if self.documents is None:
            return torch.arange(len(self.measured))
        if not isinstance(self.documents, Tensor):
            raise ValueError(
                f"Blocks.documents is a {type(self.documents).__name__}; expected a tensor with one id for each measured block."
            )
        if len(self.documents) != len(self.measured):
            raise ValueError(
                f"Blocks.documents has {len(self.documents)} ids; expected one for each of {len(self.measured)} measured blocks."
            )
        return torch.unique(self.documents, return_inverse=True)[1]


def _check_token_ids(name: str, value: Any) -> None:
    if isinstance(value, Tensor) and value.ndim == 2 and not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool):
        return
    what = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise ValueError(f"Blocks.{name} is {what}; expected token ids, a tensor of whole numbers of shape [block, token].")


def default_scored(measured: Int[Tensor, "block token"], excluded_ids: Sequence[int] = ()) -> Bool[Tensor, "block token"]:
    """Positions 3 to T - 2 whose token and next token are not excluded."""
    kept = ~torch.isin(measured, torch.tensor(list(excluded_ids), dtype=measured.dtype, device=measured.device))
    scored = torch.zeros_like(kept)
    scored[:, FIRST_SCORED_POSITION:-1] = (kept[:, :-1] & kept[:, 1:])[:, FIRST_SCORED_POSITION:]
    return scored


def sample_scored(scored: Bool[Tensor, "block token"], n_per_block: int, seed: int) -> Bool[Tensor, "block token"]:
    """At most ``n_per_block`` of the scored positions of each block, drawn by ``seed`` without replacement."""
    order = torch.rand(scored.shape, generator=torch.Generator().manual_seed(seed))
    order[~scored] = 2.0
    rank = order.argsort(dim=1).argsort(dim=1)
    return scored & (rank < n_per_block)


class Language(Protocol):
    """What training and measuring need of a source of text."""

    vocabulary_size: int  # token ids lie below it
    block_length: int  # tokens
    excluded_ids: tuple[int, ...]
    n_train_blocks: int | None  # None: endless, every index is a fresh document
    reference: Int[Tensor, "block token"]
    measured: Int[Tensor, "block token"]
    measured_documents: Int[Tensor, "block"]
    tokenizer: Any

    def train_blocks(self, indices: Sequence[int]) -> Int[Tensor, "block token"]:
        """The training blocks of these numbers."""
        ...

    def token_counts(self, n_samples: int) -> Int[Tensor, "vocab"]:
        """Counts over the training part; ``n_samples`` blocks of it where the language is endless."""
        ...

    def held_out(self, n_blocks: int) -> tuple[Int[Tensor, "block token"], Int[Tensor, "block token"], Int[Tensor, "block"]]:
        """At most so many blocks of the reference and of the measured part, from as many documents as there can be, and the latter's
        documents."""
        ...

    def bayes_log_probs(self, blocks: Int[Tensor, "block token"]) -> Float[Tensor, "block token vocab"] | None:
        """Nats: log P(token t + 1 | tokens up to t) at position t, or None where the truth is unknown."""
        ...

    def facts(self) -> dict[str, Any]:
        """What ``run.json`` says of the language; plain values only."""
        ...
