"""What the neurons of every layer write to the residual stream, as the final norm sees it, on copies."""

from __future__ import annotations

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from confreg.models.families import blocks_of, down_projection, family_of, final_norm, output_rows
from confreg.models.norms import read_norm
from confreg.models.post_mlp_norm import PostMlpNorm
from confreg.models.unembedding import at_least_fp32


def layer_writes(model: PreTrainedModel) -> Iterator[Float[Tensor, "neuron d_model"]]:
    """What each neuron writes for one unit of activation, layer by layer from the lowest, past all layers above.

    The gain of a norm behind the MLP (not its scale) and the family's residual multiplier are folded in, and the mean over d_model is taken
    out where the final norm takes it out. Of the last layer these are the rows of ``Readout.w_out``.

    Args:
        model: any of the families; its own weights are left alone.

    Yields:
        One layer at a time, fp32, or float64 where the weights are so.

    Raises:
        ValueError: for an architecture or a norm without a row.
    """
    family, final = family_of(model), read_norm(final_norm(model))
    multiplier = family.residual_multiplier(model.config)
    for layer, block in enumerate(blocks_of(model)):
        rows = output_rows(down_projection(model, layer))
        behind = None if family.post_mlp_norm is None else read_norm(block.get_submodule(family.post_mlp_norm))
        post = None if behind is None else PostMlpNorm.of(behind, rows, multiplier)
        yield final.centred(written(rows, post, multiplier))


def written(rows: Float[Tensor, "neuron d_model"], post: PostMlpNorm | None, multiplier: float) -> Float[Tensor, "neuron d_model"]:
    """What the rows of a down projection add to the residual, in fp32 at least, the gain of the norm behind them folded in.

    Args:
        rows: as the model stores them.
        post: the norm behind the MLP, made from these rows; None: there is none.
        multiplier: the family's, of what the MLP adds; ``post`` holds it already.
    """
    values = at_least_fp32(rows)
    if post is not None:
        return (post.gain * post.rows).to(values.dtype)
    return values if multiplier == 1.0 else multiplier * values
