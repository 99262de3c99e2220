"""Columns that are computed once for each measurement: of the weights, of the activations, of the model's predictions."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from scipy import stats
from torch import Tensor

from confreg.neurons.predictions import calibration_error, entropy_nats, kl_from_frequency, kl_from_truth, loss_nats, pearson
from confreg.neurons.weights import TokenMoments, frequency_cosine, logit_var, null_space_share, unembedding_gain

Columns = dict[str, Tensor]
VALUES = ("loss", "entropy", "kl_from_frequency", "scale", "top_probability", "top_is_target")  # at each scored position
VALUES_WITH_TRUTH = ("bayes_loss", "bayes_entropy", "bayes_kl")
POSITION_VALUES = (*VALUES, *VALUES_WITH_TRUTH)


def weight_columns(
    w_out: Float[Tensor, "neuron d_model"], tokens: TokenMoments, null_directions: Float[Tensor, "d_model direction"]
) -> Columns:
    """What the weights alone say of each neuron, in float64."""
    w_out = w_out.double()
    return {
        "w_out_norm": w_out.norm(dim=-1),
        "logit_var": logit_var(w_out, tokens),
        "null_space_share": null_space_share(w_out, null_directions),
        "unembedding_gain": unembedding_gain(w_out, tokens),
        "frequency_cosine": frequency_cosine(w_out, tokens),
    }


def activation_columns(activations: Float[Tensor, "position neuron"], entropy: Float[Tensor, "position"]) -> Columns:
    """Mean, standard deviation (ddof 0) and correlations with the model's entropy, over the scored positions; nan for a constant neuron."""
    ranks = torch.from_numpy(stats.rankdata(activations.cpu().numpy(), axis=0)), torch.from_numpy(stats.rankdata(entropy.cpu().numpy()))
    return {
        "activation_mean": activations.double().mean(0),
        "activation_std": activations.double().std(0, correction=0),
        "activation_entropy_pearson": pearson(activations, entropy),
        "activation_entropy_spearman": pearson(*ranks),
    }


def position_values(
    log_probs: Float[Tensor, "position vocab"],
    targets: Int[Tensor, "position"],
    scale: Float[Tensor, "position"],
    frequency_log_probs: Float[Tensor, "vocab"],
    truth_log_probs: Float[Tensor, "position vocab"] | None,
) -> Columns:
    """What the model predicts at each scored position, one value each; nats."""
    top_probability, top = log_probs.exp().max(-1)
    values = {
        "loss": loss_nats(log_probs, targets),
        "entropy": entropy_nats(log_probs),
        "kl_from_frequency": kl_from_frequency(log_probs, frequency_log_probs),
        "scale": scale,
        "top_probability": top_probability,
        "top_is_target": top == targets,
    }
    if truth_log_probs is not None:
        values["bayes_loss"] = loss_nats(truth_log_probs, targets)
        values["bayes_entropy"] = entropy_nats(truth_log_probs)
        values["bayes_kl"] = kl_from_truth(truth_log_probs, log_probs.double())
    return values


def model_columns(values: Columns) -> dict[str, float]:
    """The model table's measures from the values at all scored positions."""
    mean = {name: each.double().mean().item() for name, each in values.items()}
    correct: Bool[Tensor, "position"] = values["top_is_target"].bool()
    columns = {
        "loss_nats": mean["loss"],
        "entropy_nats": mean["entropy"],
        "calibration_error": calibration_error(values["top_probability"], correct).item(),
        "kl_from_frequency": mean["kl_from_frequency"],
        "entropy_kl_pearson": pearson(values["kl_from_frequency"], values["entropy"]).item(),
        "final_norm_scale_mean": mean["scale"],
        "final_norm_scale_std": values["scale"].double().std(correction=0).item(),
    }
    if "bayes_loss" in values:
        columns |= {
            "bayes_loss_nats": mean["bayes_loss"],
            "excess_loss_nats": mean["loss"] - mean["bayes_loss"],
            "excess_entropy_nats": mean["entropy"] - mean["bayes_entropy"],
            "bayes_kl_nats": mean["bayes_kl"],
        }
    return columns
