"""What an ablated activation is replaced by. The name says the set and the axis."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor


def mean_over_reference_tokens(activations: Iterable[Float[Tensor, "... neuron"]]) -> Float[Tensor, "neuron"]:
    """Mean activation of each neuron over every position of every given batch, the first positions included.

    Returns:
        float64.

    Raises:
        ValueError: where no position is given.

    Source:
        arXiv 2406.16254, released code; there the evaluated rows are part of the reference, here they never are.
    """
    total, n_positions = torch.zeros(()), 0
    for batch in activations:
        flat = batch.reshape(-1, batch.shape[-1]).double()
        total = total.to(flat.device) + flat.sum(0)
        n_positions += len(flat)
    if not n_positions:
        raise ValueError("mean_over_reference_tokens got no position; expected at least one reference block.")
    return total / n_positions
