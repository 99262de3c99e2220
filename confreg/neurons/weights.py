"""What the weights alone say: where a neuron writes, and what the unembedding cannot see.

``unembedding`` is the effective one of the readout: the final norm's gain folded in, the centring of a LayerNorm applied on the residual
side, and the vocabulary mean removed. ``w_out`` is centred in the same way where the final norm is a LayerNorm.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from confreg.neurons.writes import ELEMENTS_AT_ONCE, slices

GAIN_MIN = 1e-7  # what is left of a write below it is rounding


@dataclass(frozen=True)
class TokenMoments:
    """All that measures of the weights ask of an unembedding, whatever the neurons: sums over the vocabulary, float64, taken in parts."""

    gram: Float[Tensor, "d_model d_model"]  # (CŨ)ᵀ CŨ
    unit_covariance: Float[Tensor, "d_model d_model"]  # ddof 1, of the tokens' unit vectors
    along_frequency: Float[Tensor, "d_model"]  # (CŨ)ᵀ u, zero where there is no frequency direction

    @classmethod
    def of(cls, unembedding: Float[Tensor, "vocab d_model"], frequency_direction: Float[Tensor, "vocab"] | None = None) -> TokenMoments:
        """Of the effective unembedding, and where it matters the frequency direction, a unit vector or zero."""
        n_tokens, d_model = unembedding.shape
        gram, unit_gram = (torch.zeros(d_model, d_model, dtype=torch.float64, device=unembedding.device) for _ in range(2))
        unit_sum, along = gram.new_zeros(d_model), gram.new_zeros(d_model)
        for part in slices(n_tokens, ELEMENTS_AT_ONCE // d_model):
            tokens = unembedding[part].double()
            units = torch.nn.functional.normalize(tokens, dim=-1)  # a token that the readout cannot tell from the mean stays zero
            gram += tokens.T @ tokens
            unit_gram += units.T @ units
            unit_sum += units.sum(0)
            if frequency_direction is not None:
                along += frequency_direction[part].double() @ tokens
        mean = unit_sum / n_tokens
        return cls(gram, (unit_gram - n_tokens * mean.outer(mean)) / (n_tokens - 1), along)


def logit_var(w_out: Float[Tensor, "neuron d_model"], tokens: TokenMoments) -> Float[Tensor, "neuron"]:
    """Variance over the vocabulary (ddof 1) of the cosine between a neuron's write and each token.

    Small values mark entropy neurons: a large write that favours no token. Computed as a quadratic form in the covariance of the
    unit token directions, so that neurons x vocabulary is never stored.

    Returns:
        Dimensionless, not negative; unchanged when a row of ``w_out`` is rescaled; about 1 / d_model for a random direction.
        A zero row gives nan.

    Source:
        arXiv 2406.16254, Eq. 3; ddof 1 as in the released code.
    """
    directions = w_out / w_out.norm(dim=-1, keepdim=True)
    return ((directions @ tokens.unit_covariance) * directions).sum(-1).clamp(min=0)


def unembedding_gain(w_out: Float[Tensor, "neuron d_model"], tokens: TokenMoments) -> Float[Tensor, "neuron"]:
    """How much longer a neuron's write becomes in the logits than a random direction would: |CŨw| / |w| over |CŨ|_F / sqrt(d_model).

    Returns:
        Dimensionless, not negative; 1 for an average direction, near 0 in the null space. Needs no choice of dimensions.
        A zero row gives nan.
    """
    written = ((w_out @ tokens.gram) * w_out).sum(-1).clamp(min=0).sqrt()
    return written / w_out.norm(dim=-1) / (tokens.gram.trace() / len(tokens.gram)).sqrt()


def frequency_cosine(w_out: Float[Tensor, "neuron d_model"], tokens: TokenMoments) -> Float[Tensor, "neuron"]:
    """Cosine between what a neuron writes to the vocabulary-centred logits and the frequency direction.

    Returns:
        nan for a row that writes nothing to the logits, and for all where there is no such direction.
    """
    written = ((w_out @ tokens.gram) * w_out).sum(-1).clamp(min=0).sqrt()
    is_written = (unembedding_gain(w_out, tokens) > GAIN_MIN) & tokens.along_frequency.any()
    return torch.where(is_written, w_out @ tokens.along_frequency / written, torch.nan)


def singular_directions(
    unembedding: Float[Tensor, "vocab d_model"], residual_is_centred: bool
) -> tuple[Float[Tensor, "direction"], Float[Tensor, "d_model direction"]]:
    """Singular values of the unembedding, largest first, with their directions in the residual stream.

    From the d_model x d_model Gram matrix in float64. Where a LayerNorm centres the residual, its exact null direction (all ones) is left
    out: no neuron can write there.

    Returns:
        d_model values and directions, one fewer for a centred residual.

    Raises:
        ValueError: where a weight is not finite.
    """
    if not unembedding.isfinite().all():
        raise ValueError(
            "The unembedding, with the final norm's gain, holds weights that are not finite; expected a model that can predict. "
            "Has its training diverged? A smaller learning rate or an earlier step may help."
        )
    basis = _basis_of_residual(unembedding.shape[1], residual_is_centred).to(unembedding.device)
    reduced = (unembedding[tokens].double() @ basis for tokens in slices(len(unembedding), ELEMENTS_AT_ONCE // unembedding.shape[1]))
    squares, vectors = torch.linalg.eigh(sum((each.T @ each for each in reduced), torch.zeros(()).to(basis)))
    return squares.flip(0).clamp(min=0).sqrt(), (basis @ vectors).flip(1)


def _basis_of_residual(d_model: int, residual_is_centred: bool) -> Float[Tensor, "d_model direction"]:
    """Orthonormal directions of what the final norm lets through."""
    identity = torch.eye(d_model, dtype=torch.float64)
    if not residual_is_centred:
        return identity
    ones_first = torch.cat([torch.ones(d_model, 1, dtype=torch.float64), identity[:, 1:]], dim=1)
    return torch.linalg.qr(ones_first)[0][:, 1:]


def default_null_dimensions(d_model: int, vocabulary_size: int, residual_is_centred: bool) -> int:
    """max(4, 5 % of d_model), and at least the exact null space of an unembedding with fewer tokens than dimensions."""
    usable = d_model - int(residual_is_centred)
    exact = max(0, usable - (vocabulary_size - 1))  # removing the vocabulary mean costs one rank
    return min(usable, max(4, round(0.05 * d_model), exact))


def null_space_share(
    w_out: Float[Tensor, "neuron d_model"], null_directions: Float[Tensor, "d_model direction"]
) -> Float[Tensor, "neuron"]:
    """Norm of a neuron's write inside the effective null space over its whole norm.

    Returns:
        In [0, 1]: a ratio of norms, not of squares. A zero row gives nan.

    Source:
        arXiv 2406.16254, Fig. 2.
    """
    return (w_out @ null_directions.to(w_out.dtype)).norm(dim=-1) / w_out.norm(dim=-1)


def null_space_share_chance(n_neurons: int, null_dimensions: int, usable_dimensions: int, quantile: float = 0.95) -> float:
    """Quantile of the largest null-space share among so many random directions.

    The square of one share is Beta(k / 2, (d - k) / 2) distributed for k null directions among d usable ones.
    """
    if null_dimensions >= usable_dimensions:
        return 1.0
    single = quantile ** (1 / n_neurons)
    return float(stats.beta.ppf(single, null_dimensions / 2, (usable_dimensions - null_dimensions) / 2) ** 0.5)
