"""What turns the residual into logits, as one matrix and one bias, on copies."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from confreg.models.families import family_of
from confreg.models.norms import NormReading


def effective_unembedding(
    model: PreTrainedModel, norm: NormReading, vocabulary_size: int | None
) -> tuple[Float[Tensor, "vocab d_model"], Float[Tensor, "vocab"]]:
    """Unembedding and bias with the final norm's gain and bias and the logits' multiplier folded in, and what that norm removes taken out.

    Args:
        model: any of the families; its own weights are left alone.
        norm: its final norm.
        vocabulary_size: token ids from here on are left out as padding; None: there are none.

    Raises:
        ValueError: for a vocabulary that the model has not.
    """
    unembedding, multiplier = model.get_output_embeddings(), family_of(model).logit_multiplier(model.config)
    if vocabulary_size is not None and vocabulary_size > len(unembedding.weight):
        raise ValueError(f"vocabulary_size is {vocabulary_size}; expected at most the {len(unembedding.weight)} token ids of the model.")
    weight = at_least_fp32(unembedding.weight[:vocabulary_size])
    effective = weight if norm.gain is None else weight * at_least_fp32(norm.gain)
    bias = weight.new_zeros(len(weight))
    if norm.bias is not None:
        bias = bias + weight @ at_least_fp32(norm.bias)
    if getattr(unembedding, "bias", None) is not None:
        bias = bias + at_least_fp32(unembedding.bias[:vocabulary_size])
    effective = norm.centred(effective)
    return (effective, bias) if multiplier == 1.0 else (multiplier * effective, multiplier * bias)


def at_least_fp32(parameter: Tensor) -> Tensor:
    """A parameter's values without its graph: float64 stays, what is shorter than fp32 becomes that."""
    values = parameter.detach()
    return values.to(torch.promote_types(values.dtype, torch.float32))
