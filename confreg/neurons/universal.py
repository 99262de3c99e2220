"""Which tokens a neuron of any layer favours: moments of its cosines with the tokens, and the kinds of neurons that they tell apart.

``unembedding`` is the effective one of the readout: the final norm's gain folded in, the centring of a LayerNorm applied on the residual
side, and the vocabulary mean removed. ``w_out`` is centred in the same way where the final norm is a LayerNorm.

Source: Gurnee et al. 2024, arXiv 2401.12181 (Universal Neurons in GPT2 Language Models), and its released code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from confreg.neurons.writes import slices
from confreg.settings import UniversalRules

AT_ONCE = 512  # neurons and tokens of one part: 2 MiB of cosines, which stay near the processor
SPREAD_MIN = 1e-6  # standard deviation of cosines below which they are rounding: fp32 weights leave 5e-8 of what centring took out


@dataclass(frozen=True)
class TokenDirections:
    """Unit vectors of the tokens without their mean, made part by part: all of them would be a second unembedding in float64.

    The mean of a neuron's cosines is its cosine with the mean of the unit vectors. Taken out of these first, it is no large number from
    whose powers a small one would be subtracted afterwards.
    """

    unembedding: Float[Tensor, "vocab d_model"]
    mean: Float[Tensor, "d_model"]

    @classmethod
    def of(cls, unembedding: Float[Tensor, "vocab d_model"]) -> TokenDirections:
        """Of the effective unembedding; a token that it cannot tell from the vocabulary's mean stays zero."""
        return cls(unembedding, torch.stack([each.sum(0) for each in _units(unembedding)]).sum(0) / len(unembedding))

    def parts(self) -> Iterator[Float[Tensor, "part d_model"]]:
        """In float64, in the order of the vocabulary."""
        return (each - self.mean for each in _units(self.unembedding))


@dataclass(frozen=True)
class CosineMoments:
    """Of the cosines between each neuron's write and every token, over the vocabulary; float64."""

    variance: Float[Tensor, "neuron"]  # ddof 0; nan for a zero row
    skew: Float[Tensor, "neuron"]  # third standardised moment; nan where the variance is rounding
    kurtosis: Float[Tensor, "neuron"]  # fourth standardised moment, at least 1, 3 of a normal distribution; nan as the skew


def cosine_moments(w_out: Float[Tensor, "neuron d_model"], tokens: TokenDirections) -> CosineMoments:
    """Variance, skew and kurtosis over the vocabulary of the cosine between a neuron's write and each token.

    Args:
        w_out: what each neuron writes for one unit of activation, as the final norm sees it.
        tokens: those of the effective unembedding.

    Returns:
        Dimensionless; unchanged when a row of ``w_out`` is rescaled, and with the opposite skew when it is reversed. The variance is
        ``logit_var`` but for ddof, and about 1 / d_model for a random direction. The kurtosis has not 3 taken off.

    Source:
        arXiv 2401.12181, section 5; ddof 0 and plain standardised moments as in the released code.
    """
    sums = [_power_sums(w_out[neurons], tokens) for neurons in slices(len(w_out), AT_ONCE)]
    second, third, fourth = torch.cat(sums, dim=1) / len(tokens.unembedding)
    is_written = second > SPREAD_MIN**2  # else the cosines are rounding, and so is their shape
    variance = second.where(is_written, torch.nan)
    return CosineMoments(second, third / variance**1.5, fourth / variance.square())


def _power_sums(w_out: Float[Tensor, "neuron d_model"], tokens: TokenDirections) -> Float[Tensor, "3 neuron"]:
    """Sums over the vocabulary of the second, third and fourth power of the cosines without their mean."""
    rows = w_out.double()
    directions = rows / rows.norm(dim=-1, keepdim=True)
    sums = rows.new_zeros(3, len(rows))
    for part in tokens.parts():
        cosines = directions @ part.T
        squares = cosines.square()
        sums += torch.stack([squares.sum(-1), torch.linalg.vecdot(squares, cosines), torch.linalg.vecdot(squares, squares)])
    return sums


def _units(unembedding: Float[Tensor, "vocab d_model"]) -> Iterator[Float[Tensor, "part d_model"]]:
    for tokens in slices(len(unembedding), AT_ONCE):
        yield torch.nn.functional.normalize(unembedding[tokens].double(), dim=-1)


def prediction_neurons(moments: CosineMoments, rules: UniversalRules) -> Bool[Tensor, "neuron"]:
    """Neurons that raise the logits of a few tokens and leave the others as they are: a long tail of the cosines, to the right."""
    return (moments.kurtosis > rules.kurtosis_above) & (moments.skew > 0)


def suppression_neurons(moments: CosineMoments, rules: UniversalRules) -> Bool[Tensor, "neuron"]:
    """Neurons that lower the logits of a few tokens and leave the others as they are: a long tail of the cosines, to the left."""
    return (moments.kurtosis > rules.kurtosis_above) & (moments.skew < 0)


def partition_neurons(moments: CosineMoments, d_model: int, rules: UniversalRules) -> Bool[Tensor, "neuron"]:
    """Neurons that raise one large part of the vocabulary against another: cosines that vary more than those of random directions."""
    threshold = max(rules.partition_variance_above, rules.partition_variance_multiple / d_model)
    return moments.variance > threshold


def universal_columns(
    layers: Iterable[Float[Tensor, "_ d_model"]], unembedding: Float[Tensor, "vocab d_model"], rules: UniversalRules
) -> dict[str, object]:
    """Columns of the table ``universal``: one row for each neuron of each layer.

    Args:
        layers: what the neurons of each layer write for one unit of activation, as the final norm sees it, lowest layer first; no two
            layers are needed at once.
        unembedding: effective unembedding of the readout.
        rules: thresholds of the three kinds. A neuron may be of two kinds; one without a shape of its own is of none.
    """
    tokens = TokenDirections.of(unembedding)
    parts = [_layer_columns(layer, w_out, tokens, rules) for layer, w_out in enumerate(layers)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _layer_columns(layer: int, w_out: Float[Tensor, "neuron d_model"], tokens: TokenDirections, rules: UniversalRules) -> dict[str, Tensor]:
    moments, neurons = cosine_moments(w_out, tokens), torch.arange(len(w_out), device=w_out.device)
    return {
        "layer": torch.full_like(neurons, layer),
        "neuron": neurons,
        "w_out_norm": torch.cat([w_out[part].double().norm(dim=-1) for part in slices(len(w_out), AT_ONCE)]),
        "vocabulary_cosine_variance": moments.variance,
        "vocabulary_cosine_skew": moments.skew,
        "vocabulary_cosine_kurtosis": moments.kurtosis,
        "is_prediction_neuron": prediction_neurons(moments, rules),
        "is_suppression_neuron": suppression_neurons(moments, rules),
        "is_partition_neuron": partition_neurons(moments, w_out.shape[1], rules),
    }
