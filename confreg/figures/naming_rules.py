"""The rules that name a neuron, in words, with the numbers of the run's own configuration."""

from __future__ import annotations

from typing import Any

from confreg.figures.histories import FORMED_AFTER
from confreg.figures.run_records import setting_of

REQUEST = "measure.request"
RULES = f"{REQUEST}.rules"
COUNTED = {
    "corpus": "The token frequencies are those of the training part.",
    "seen": "The token frequencies are those of the tokens that the training read before the checkpoint's step: at step 0 there are none.",
}
CONTROL = {
    "norm_drawn_from_layer": "a random output direction with a norm drawn from its layer, keeps the activations, and applies the same "
    "thresholds: what it names, chance would name.",
    "own_norm_and_null_space_share": "a random output direction of its own norm and null-space share, keeps the activations, "
    "and applies the same thresholds: what it names, those two alone would name.",
}
DIRECTIONS = {  # of the same, in a few words
    "norm_drawn_from_layer": "random output directions of the same norms",
    "own_norm_and_null_space_share": "random output directions of the same norms and null-space shares",
}
# The request's replacement in words, with its own number in braces.
REPLACED_BY = {
    "mean_over_reference_tokens": "by its mean over the reference tokens",
    "median_over_reference_tokens": "by its median over the reference tokens",
    "zero": "by zero",
    "fixed_value": "by {replacement_value}",
    "scaled_by_factor": "by {replacement_factor} times itself",
    "clipped_above_mean_over_reference_tokens": "by its mean over the reference tokens where it lies above that mean",
    "clipped_below_mean_over_reference_tokens": "by its mean over the reference tokens where it lies below that mean",
    "resampled_from_reference_tokens": "by its value at a reference token drawn for each position (seed {replacement_seed})",
}
REPLACEMENT_NUMBERS = ("replacement_value", "replacement_factor", "replacement_seed")


def naming_rules(config: dict[str, Any]) -> list[str]:
    """One sentence for each kind, then the control and the word "formed"; without numbers where the configuration has none."""
    sentences = [] if setting_of(config, RULES) is None else [_entropy_rule(config), _frequency_rule(config)]
    return [
        *sentences,
        f"The control gives every neuron {_control(config)}",
        f"A neuron counts as formed when it is named at {FORMED_AFTER} consecutive clock steps.",
        f"Effects are what changes when a neuron's activation is replaced {_replaced_by(config)}: the mean absolute change over scored "
        "positions, in nats. ± is one standard error over documents.",
    ]


def control_directions_in_words(config: dict[str, Any]) -> str:
    """What a run's control puts in the place of its neurons' writes."""
    name = _control_of(config)
    return DIRECTIONS.get(name, f"other output directions ({name})")


def _control_of(config: dict[str, Any]) -> str:
    """A configuration without the key measured with the default."""
    return str(setting_of(config, f"{REQUEST}.control", "norm_drawn_from_layer"))


def _control(config: dict[str, Any]) -> str:
    """In words."""
    name = _control_of(config)
    return CONTROL.get(name, f"another output direction ({name}), keeps the activations, and applies the same thresholds.")


def _replaced_by(config: dict[str, Any]) -> str:
    """In words; a configuration without the key measured with the default."""
    name = str(setting_of(config, f"{REQUEST}.replacement", "mean_over_reference_tokens"))
    numbers = {key: setting_of(config, f"{REQUEST}.{key}", "?") for key in REPLACEMENT_NUMBERS}
    return REPLACED_BY[name].format(**numbers) if name in REPLACED_BY else f"by {name}"


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
