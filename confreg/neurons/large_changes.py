"""Effects of pairs whose logits change by much, where sums of changes would lose digits."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from confreg.neurons.ablation import Baseline


def exact_changes(
    baseline: Baseline, writes: Float[Tensor, "neuron vocab"], pair: tuple[Tensor, Tensor], coefficients: tuple[Tensor, ...]
) -> dict[str, Float[Tensor, "pair"]]:
    """Changes for some pairs of position and neuron: the new logits, then subtraction, in float64.

    Args:
        baseline: the unablated prediction.
        writes: what each neuron writes to the logits.
        pair: positions and neurons, one of each for every pair.
        coefficients: for every pair, of the baseline logits, of the write (scale recomputed), of the write (scale frozen), and of the
            frequency direction.

    Returns:
        float64, by the names of ``EffectChanges``.
    """
    position, neuron = pair
    shrink, along, frozen_along, kept = (each.unsqueeze(-1) for each in coefficients)
    scaled, write, direction = baseline.scaled_logits.double()[position], writes.double()[neuron], baseline.frequency_direction.double()
    before = scaled + baseline.output_bias.double()
    variants = {
        "": before + shrink * scaled + along * write,
        "_frozen_norm": before + frozen_along * write,
        "_scale_only": before + shrink * scaled,
    }
    variants["_frozen_frequency"] = variants[""] + kept * direction
    log_p, log_q, targets = before.log_softmax(-1), baseline.frequency_log_probs.double(), baseline.targets[position].unsqueeze(-1)
    changed = {name: logits.log_softmax(-1) for name, logits in variants.items()}
    exact = {f"loss{name}": (log_p - new).gather(-1, targets).squeeze(-1) for name, new in changed.items()}
    entropy = _negative_entropy(log_p)
    exact["entropy"] = entropy - _negative_entropy(changed[""])
    exact["entropy_frozen_norm"] = entropy - _negative_entropy(changed["_frozen_norm"])
    exact["kl_from_frequency"] = (log_p - changed[""]) @ log_q.exp()
    exact["kl_to_frequency"] = -exact["entropy"] - (changed[""].exp() - log_p.exp()) @ log_q
    return exact


def _negative_entropy(log_probs: Float[Tensor, "pair vocab"]) -> Float[Tensor, "pair"]:
    return (log_probs.exp() * log_probs).sum(-1)
