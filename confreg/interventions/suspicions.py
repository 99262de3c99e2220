"""Which detail of an architecture explains that a prediction about a model failed, judged from the numbers, and the error that says so."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

TABLE, NORMS_TABLE = "confreg.models.families", "confreg.models.norms"


class SelfCheckError(RuntimeError):
    """A prediction about the run's own model that failed; the message names the check, the error and the suspected detail."""

    def __init__(self, check: str, suspicion: str, error: float | None = None, tolerance: float | None = None) -> None:
        measured = "" if error is None else f" (relative error {error:.2g}, tolerance {tolerance:.0e})"
        super().__init__(
            f"Self-check of the interventions failed: {check}{measured}. Suspected: {suspicion}. Nothing that is measured of this model "
            "could be trusted. Mend what is suspected, or train without measuring (callbacks.measure=false)."
        )


def relative_error(actual: Tensor, expected: Tensor, size: Tensor | None = None) -> float:
    """Largest difference over the largest value of ``size`` (default: of what was expected); infinite where one is not finite."""
    largest = (expected if size is None else size).abs().max().item()
    error = (actual - expected).abs().max().item()
    if not (torch.isfinite(actual).all() and torch.isfinite(expected).all()):
        return float("inf")
    return error / largest if largest else error


def of_the_final_norm(actual: Float[Tensor, "position d_model"], expected: Float[Tensor, "position d_model"], tolerance: float) -> str:
    """Why a final norm does not give ``gain * (x, centred or not) / scale`` as it was read; what is read as its bias is taken off both."""
    offset = (actual - expected)[:1]
    if relative_error(actual - expected, offset.expand_as(actual), expected) <= tolerance:
        return f"the final norm's bias is misread in {NORMS_TABLE}"
    gains = _factors(actual, expected, 0)
    if relative_error(actual, gains * expected) <= tolerance:
        span = f"{gains.min().item():.4g} to {gains.max().item():.4g}"
        return f"the final norm's gain is misread: it acts as {span} times what {NORMS_TABLE} says (one plus the weight?)"
    if relative_error(actual, _factors(actual, expected, 1) * expected) <= tolerance:
        return f"the final norm's scale is misread: its epsilon, or what it divides by, in {NORMS_TABLE}"
    return f"the final norm: what it centres, its gain or its scale is not as {NORMS_TABLE} says"


def of_the_head(logits: Float[Tensor, "position vocab"], expected: Float[Tensor, "position vocab"], tolerance: float) -> str:
    """Why logits are not those that the unembedding makes of the normed residual, with the multiplier and soft-cap of the family's row."""
    factor = _factors(logits.flatten(), expected.flatten(), 0).item()
    if relative_error(logits, factor * expected, logits) <= tolerance:
        return f"the head multiplies its logits by {factor:.4g} more than logit_multiplier in {TABLE} says"
    offset = (logits - expected)[:1]
    if relative_error(logits - expected, offset.expand_as(logits), logits) <= tolerance:
        return "the head adds a bias that is not the unembedding's own (get_output_embeddings().bias)"
    if _is_monotone(logits, expected, tolerance):
        return f"a soft-cap bends the logits, and softcap in {TABLE} does not say so (or says another)"
    return "the unembedding: get_output_embeddings() is not what makes the logits of the normed residual"


def of_the_write(actual: Float[Tensor, "position d_model"], expected: Float[Tensor, "position d_model"], tolerance: float) -> str:
    """Why the residual does not change along the neuron's row of the down projection when its activation does."""
    if relative_error(actual, torch.zeros_like(actual), expected) <= tolerance:
        return f"the wrong down projection: what enters it does not reach the final residual; see down_projection in {TABLE}"
    factor = _factors(actual.flatten(), expected.flatten(), 0).item()
    if relative_error(actual, factor * expected) <= tolerance:
        return f"what the MLP adds is multiplied by {factor:.4g} more than residual_multiplier in {TABLE} says"
    if relative_error(actual, actual[:1].expand_as(actual)) > tolerance:
        return f"a post-MLP norm, or another function of the MLP's whole output, behind the down projection; see post_mlp_norm in {TABLE}"
    return f"the wrong down projection, its weight read the wrong way round, or a linear map behind it; see down_projection in {TABLE}"


def _factors(actual: Tensor, expected: Tensor, dimension: int) -> Tensor:
    """What the expected values are best multiplied by, along one dimension."""
    products, squares = (actual * expected).sum(dimension, keepdim=True), expected.square().sum(dimension, keepdim=True)
    return products / squares.clamp(min=torch.finfo(squares.dtype).tiny)


def _is_monotone(values: Tensor, of: Tensor, tolerance: float) -> bool:
    """Whether values never fall, by more than rounding, where ``of`` grows."""
    ordered = values.flatten()[of.flatten().argsort()]
    fall = (ordered.cummax(0).values - ordered).max().item()
    return fall <= tolerance * ordered.abs().max().item()
