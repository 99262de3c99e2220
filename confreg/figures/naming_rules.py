"""The rules that name a neuron, in words, with the numbers of the run's own configuration."""

from __future__ import annotations

from typing import Any

from confreg.figures.histories import FORMED_AFTER
from confreg.figures.run_records import setting_of

RULES = "measure.request.rules"
COUNTED = {
    "corpus": "The token frequencies are those of the training part.",
    "seen": "The token frequencies are those of the tokens that the training read before the checkpoint's step: at step 0 there are none.",
}


def naming_rules(config: dict[str, Any]) -> list[str]:
    """One sentence for each kind, then the control and the word "formed"; without numbers where the configuration has none."""
    sentences = [] if setting_of(config, RULES) is None else [_entropy_rule(config), _frequency_rule(config)]
    return [
        *sentences,
        "The control gives every neuron a random output direction with a norm drawn from its layer, keeps the activations, and applies the "
        "same thresholds: what it names, chance would name.",
        f"A neuron counts as formed when it is named at {FORMED_AFTER} consecutive clock steps.",
        "Effects are what changes when a neuron's activation is replaced by its mean: the mean absolute change over scored positions, "
        "in nats. ± is one standard error over documents.",
    ]


def _number(config: dict[str, Any], name: str) -> str:
    value = setting_of(config, f"{RULES}.{name}")
    return "?" if value is None else f"{value:g}" if isinstance(value, int | float) else str(value)


def _effect_floor(config: dict[str, Any], effect: str) -> str:
    return (
        f"{effect}, less {_number(config, 'n_stderr')} standard errors, is at least {_number(config, 'median_multiple')} times the layer's "
        f"median and {_number(config, 'entropy_share_floor')} of the model's mean entropy"
    )


def _entropy_rule(config: dict[str, Any]) -> str:
    return (
        f"Entropy neuron: {_effect_floor(config, 'its effect on entropy')}; at least {_number(config, 'norm_mediated_share_min')} of that "
        "effect passes through the final norm (lower 95 % bound); and more of its output weight lies in the unembedding's effective null "
        "space than the best of as many random directions would reach in 95 % of draws."
    )


def _frequency_rule(config: dict[str, Any]) -> str:
    return (
        f"Token-frequency neuron: {_effect_floor(config, 'its effect on the divergence from the token frequencies')}; at least "
        f"{_number(config, 'frequency_mediated_share_min')} of its effect on the loss passes through the frequency direction (lower 95 % "
        f"bound); and its output points along that direction (cosine at least {_number(config, 'frequency_cosine_min')} in size). "
        f"None is named where {_number(config, 'zero_count_share_max')} or more of the vocabulary was never counted. "
        f"{COUNTED.get(setting_of(config, 'frequency') or 'corpus', '')}"
    )
