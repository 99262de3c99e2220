"""The rules that name a neuron. Thresholds come from the settings; the control is judged by the real layer's thresholds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from confreg.settings import SelectionRules


@dataclass(frozen=True)
class Evidence:
    """What the rules look at, one value for each neuron; nan where undefined, which names nothing."""

    entropy_effect: Float[Tensor, "neuron"]
    entropy_effect_stderr: Float[Tensor, "neuron"]
    entropy_norm_mediated_share_low: Float[Tensor, "neuron"]
    null_space_share: Float[Tensor, "neuron"]
    kl_from_frequency_effect: Float[Tensor, "neuron"]
    kl_from_frequency_effect_stderr: Float[Tensor, "neuron"]
    frequency_mediated_share_low: Float[Tensor, "neuron"]
    frequency_cosine: Float[Tensor, "neuron"]


@dataclass(frozen=True)
class Thresholds:
    """What a layer's neurons must exceed; nats, but for the share."""

    entropy_effect: float
    kl_from_frequency_effect: float
    null_space_share: float


def thresholds_of_layer(evidence: Evidence, entropy_nats: float, null_space_share_chance: float, rules: SelectionRules) -> Thresholds:
    """Thresholds from the layer itself: a multiple of its median effect, and a share of the model's mean entropy."""
    floor = rules.entropy_share_floor * entropy_nats
    return Thresholds(
        max(rules.median_multiple * evidence.entropy_effect.quantile(0.5).item(), floor),
        max(rules.median_multiple * evidence.kl_from_frequency_effect.quantile(0.5).item(), floor),
        null_space_share_chance,
    )


def may_be_entropy_neurons(null_space_share: Float[Tensor, "neuron"], chance: float) -> Bool[Tensor, "neuron"]:
    """Neurons that write into the effective null space more than chance: of no other do the rules ask for an effect."""
    return null_space_share > chance


def may_be_frequency_neurons(
    frequency_cosine: Float[Tensor, "neuron"], zero_count_share: float, rules: SelectionRules
) -> Bool[Tensor, "neuron"]:
    """Neurons that write along the token frequencies, where these are known well enough: of no other do the rules ask for an effect."""
    if zero_count_share >= rules.zero_count_share_max:
        return torch.zeros_like(frequency_cosine, dtype=torch.bool)
    return frequency_cosine.abs() >= rules.frequency_cosine_min


def entropy_neurons(evidence: Evidence, thresholds: Thresholds, n_clusters: int, rules: SelectionRules) -> Bool[Tensor, "neuron"]:
    """Neurons that move the entropy, mostly through the norm, and write into the effective null space more than chance."""
    if n_clusters < rules.clusters_min:
        return torch.zeros_like(evidence.entropy_effect, dtype=torch.bool)
    sure = evidence.entropy_effect - rules.n_stderr * evidence.entropy_effect_stderr
    return (
        (sure >= thresholds.entropy_effect)
        & (evidence.entropy_norm_mediated_share_low >= rules.norm_mediated_share_min)
        & may_be_entropy_neurons(evidence.null_space_share, thresholds.null_space_share)
    )


def frequency_neurons(
    evidence: Evidence, thresholds: Thresholds, n_clusters: int, zero_count_share: float, rules: SelectionRules
) -> Bool[Tensor, "neuron"]:
    """Neurons that move the prediction towards or away from the token frequencies, along that very direction."""
    if n_clusters < rules.clusters_min:
        return torch.zeros_like(evidence.kl_from_frequency_effect, dtype=torch.bool)
    sure = evidence.kl_from_frequency_effect - rules.n_stderr * evidence.kl_from_frequency_effect_stderr
    return (
        (sure >= thresholds.kl_from_frequency_effect)
        & (evidence.frequency_mediated_share_low >= rules.frequency_mediated_share_min)
        & may_be_frequency_neurons(evidence.frequency_cosine, zero_count_share, rules)
    )
