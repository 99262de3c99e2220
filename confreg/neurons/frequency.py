"""The token frequencies: their distribution, and their direction among the logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Frequency:
    """The unigram distribution of the training text, in the dtype and on the device of the measurement."""

    log_probs: Float[Tensor, "vocab"]  # nats
    direction: Float[Tensor, "vocab"]  # unit vector, or zero
    zero_count_share: float

    @property
    def has_direction(self) -> bool:
        """Whether there is a frequency direction: not where all tokens are equally frequent, as before anything was read."""
        return bool(self.direction.any())

    @classmethod
    def of(cls, token_counts: Int[Tensor, "vocab"], vocabulary_size: int, like: Tensor) -> Frequency:
        """Frequencies from counts.

        Raises:
            ValueError: where the counts are not those of this vocabulary.
        """
        if len(token_counts) != vocabulary_size:
            raise ValueError(
                f"token_counts has {len(token_counts)} entries; expected one for each of the model's {vocabulary_size} token ids."
            )
        log_probs = frequency_log_probs(token_counts)
        return cls(log_probs.to(like), frequency_direction(log_probs).to(like), zero_count_share(token_counts))


def frequency_log_probs(token_counts: Tensor) -> Float[Tensor, "vocab"]:
    """Nats, float64: log of (count + 1) / sum (count + 1).

    Args:
        token_counts: int64 [vocab]; checked here, since it comes from the user.

    Raises:
        ValueError: where a count is negative or there is none.

    Source:
        arXiv 2406.16254, released code.
    """
    if token_counts.ndim != 1 or not len(token_counts) or (token_counts < 0).any():
        raise ValueError(
            f"token_counts has shape {tuple(token_counts.shape)} and a smallest value of "
            f"{token_counts.min().item() if token_counts.numel() else 'none'}; expected one count, not negative, for each vocabulary id."
        )
    smoothed = token_counts.double() + 1
    return smoothed.log() - smoothed.sum().log()


def frequency_direction(frequency_log_probs: Float[Tensor, "vocab"]) -> Float[Tensor, "vocab"]:
    """Unit vector of the centred log-frequencies, the direction in which logits move towards the unigram distribution.

    Returns:
        Zero where all frequencies are equal: then there is no such direction.

    Source:
        arXiv 2406.16254, Eq. 7.
    """
    centred = frequency_log_probs - frequency_log_probs.mean()
    norm = centred.norm()
    return centred / norm if norm > 1e-12 * len(centred) else torch.zeros_like(centred)


def zero_count_share(token_counts: Int[Tensor, "vocab"]) -> float:
    """Share of vocabulary ids that were never counted."""
    return (token_counts == 0).double().mean().item()
