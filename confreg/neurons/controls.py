"""Random directions in place of the neurons' output weights: what the rules would name where nothing was learned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class ControlDraw:
    """Those directions of one draw whose effects the rules ask for; of the others their direction says that they cannot be named."""

    directions: Float[Tensor, "some d_model"]
    neurons: Int[Tensor, "some"]  # whose places they take


def control_directions(
    control: str,
    w_out: Float[Tensor, "neuron d_model"],
    null_directions: Float[Tensor, "d_model direction"],
    seed: int,
    residual_is_centred: bool,
) -> Float[Tensor, "neuron d_model"]:
    """One draw of the control that the request names; a function of its seed, and every other generator stays as it is.

    Args:
        control: ``norm_drawn_from_layer`` or ``own_norm_and_null_space_share``.
        w_out: output weights, centred where the final norm centres.
        null_directions: orthonormal columns, the effective null space.
        seed: of this draw.
        residual_is_centred: whether the final norm centres; then the directions are centred too.

    Returns:
        One direction for each neuron, of the dtype and on the device of ``w_out``.

    Raises:
        ValueError: for any other control.
    """
    if control == "norm_drawn_from_layer":
        return random_directions(w_out, seed, residual_is_centred)
    if control == "own_norm_and_null_space_share":
        return matched_directions(w_out, null_directions, seed, residual_is_centred)
    raise ValueError(f"control is {control!r}; expected norm_drawn_from_layer or own_norm_and_null_space_share.")


def random_directions(w_out: Float[Tensor, "neuron d_model"], seed: int, residual_is_centred: bool) -> Float[Tensor, "neuron d_model"]:
    """Random directions whose norms are drawn, with replacement, from the layer's own: their null-space share is chance."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(w_out.shape, generator=generator, dtype=torch.float64)
    if residual_is_centred:
        directions -= directions.mean(-1, keepdim=True)
    drawn = torch.randint(len(w_out), (len(w_out),), generator=generator)
    norms = w_out.norm(dim=-1).double().cpu()[drawn]
    return (directions * (norms / directions.norm(dim=-1)).unsqueeze(-1)).to(w_out)


def matched_directions(
    w_out: Float[Tensor, "neuron d_model"],
    null_directions: Float[Tensor, "d_model direction"],
    seed: int,
    residual_is_centred: bool,
) -> Float[Tensor, "neuron d_model"]:
    """For each neuron a random direction of its own norm and its own null-space share.

    Its part inside the null space and its part outside keep their lengths; each points anywhere within its subspace alike.
    """
    generator = torch.Generator().manual_seed(seed)
    inside = torch.randn(len(w_out), null_directions.shape[1], generator=generator, dtype=torch.float64)
    outside = torch.randn(w_out.shape, generator=generator, dtype=torch.float64)
    if residual_is_centred:
        outside -= outside.mean(-1, keepdim=True)
    writes, basis = w_out.double().cpu(), null_directions.double().cpu()
    outside -= outside @ basis @ basis.T
    coordinates = writes @ basis
    rest = writes - coordinates @ basis.T
    within = _of_length(inside, coordinates.norm(dim=-1)) @ basis.T
    return (within + _of_length(outside, rest.norm(dim=-1))).to(w_out)


def _of_length(directions: Float[Tensor, "neuron axis"], lengths: Float[Tensor, "neuron"]) -> Float[Tensor, "neuron axis"]:
    return torch.nn.functional.normalize(directions, dim=-1) * lengths.unsqueeze(-1)  # a direction of length zero stays zero
