"""Columns of the weights, the activations and the model's predictions."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from confreg.neurons.summaries import activation_columns, model_columns, position_values, weight_columns
from confreg.neurons.weights import TokenMoments


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_weight_columns_equal_the_definitions_written_out() -> None:
    w_out, unembedding = normal(4, 6), normal(9, 6, seed=1)
    unembedding = unembedding - unembedding.mean(0)
    null, direction = torch.linalg.svd(unembedding)[2][-2:].T, normal(9, seed=2)
    direction = (direction - direction.mean()) / (direction - direction.mean()).norm()
    columns = weight_columns(w_out, TokenMoments.of(unembedding, direction), null)
    for neuron, write in enumerate(w_out):
        written = unembedding @ write
        cosines = [float(token @ write / token.norm() / write.norm()) for token in unembedding]
        expected = {
            "w_out_norm": math.sqrt(sum(each**2 for each in write.tolist())),
            "logit_var": float(np.var(cosines, ddof=1)),
            "null_space_share": math.sqrt(float((write @ null[:, 0]) ** 2 + (write @ null[:, 1]) ** 2)) / float(write.norm()),
            "unembedding_gain": float(written.norm() / write.norm()) / (float(unembedding.norm()) / math.sqrt(6)),
            "frequency_cosine": float(written @ direction / written.norm()),
        }
        assert {name: values[neuron].item() for name, values in columns.items()} == pytest.approx(expected)


def test_weight_columns_are_computed_in_float64_from_fp32_weights() -> None:
    columns = weight_columns(normal(4, 6).float(), TokenMoments.of(normal(9, 6, seed=1).float(), normal(9, seed=2).float()), normal(6, 2))
    assert {values.dtype for values in columns.values()} == {torch.float64}


def test_activation_columns_equal_numpy_and_scipy_neuron_by_neuron() -> None:
    activations, entropy = normal(60, 3).float(), normal(60, seed=1).float()
    activations[:, 1] = activations[:, 1].round()  # ties
    columns = activation_columns(activations, entropy)
    for neuron in range(3):
        values = activations[:, neuron].double().numpy()
        expected = {
            "activation_mean": values.mean(),
            "activation_std": values.std(ddof=0),
            "activation_entropy_pearson": stats.pearsonr(values, entropy.double().numpy()).statistic,
            "activation_entropy_spearman": stats.spearmanr(values, entropy.numpy()).statistic,
        }
        assert {name: each[neuron].item() for name, each in columns.items()} == pytest.approx(expected)


def test_a_neuron_that_never_moves_has_no_correlation_and_one_that_moves_with_the_entropy_has_rank_correlation_one() -> None:
    entropy = normal(50)
    columns = activation_columns(torch.stack([torch.full((50,), 0.3).double(), entropy.exp()], dim=1), entropy)
    assert columns["activation_entropy_pearson"][0].isnan()
    assert columns["activation_entropy_spearman"][0].isnan()
    assert columns["activation_entropy_spearman"][1].item() == pytest.approx(1)
    assert columns["activation_entropy_pearson"][1].item() < 0.99


@pytest.fixture
def predictions() -> dict[str, Tensor]:
    return {
        "log_probs": normal(30, 5).log_softmax(-1),
        "targets": torch.randint(0, 5, (30,), generator=torch.Generator().manual_seed(3)),
        "scale": normal(30, seed=4).abs(),
        "frequency_log_probs": normal(5, seed=5).log_softmax(-1),
        "truth_log_probs": normal(30, 5, seed=6).log_softmax(-1),
    }


def test_values_at_each_position_equal_the_sums_over_tokens(predictions: dict[str, Tensor]) -> None:
    values = position_values(**predictions)
    q = predictions["frequency_log_probs"]
    for position in range(30):
        log_p, truth = predictions["log_probs"][position], predictions["truth_log_probs"][position]
        target = int(predictions["targets"][position])
        top = max(range(5), key=lambda token, row=log_p: float(row[token]))
        expected = {
            "loss": -float(log_p[target]),
            "entropy": -sum(math.exp(each) * each for each in log_p.tolist()),
            "kl_from_frequency": float((q.exp() * (q - log_p)).sum()),
            "scale": float(predictions["scale"][position]),
            "top_probability": math.exp(log_p[top]),
            "top_is_target": top == target,
            "bayes_loss": -float(truth[target]),
            "bayes_entropy": -sum(math.exp(each) * each for each in truth.tolist()),
            "bayes_kl": float((truth.exp() * (truth - log_p)).sum()),
        }
        assert {name: each[position].item() for name, each in values.items()} == pytest.approx(expected)


def test_columns_of_the_model_are_means_over_positions(predictions: dict[str, Tensor]) -> None:
    values = position_values(**predictions)
    columns = model_columns(values)
    mean = {name: float(each.double().mean()) for name, each in values.items()}
    expected = {
        "loss_nats": mean["loss"],
        "entropy_nats": mean["entropy"],
        "kl_from_frequency": mean["kl_from_frequency"],
        "entropy_kl_pearson": stats.pearsonr(values["entropy"], values["kl_from_frequency"]).statistic,
        "final_norm_scale_mean": mean["scale"],
        "final_norm_scale_std": float(np.std(values["scale"].numpy())),
        "bayes_loss_nats": mean["bayes_loss"],
        "excess_loss_nats": mean["loss"] - mean["bayes_loss"],
        "excess_entropy_nats": mean["entropy"] - mean["bayes_entropy"],
        "bayes_kl_nats": mean["bayes_kl"],
    }
    assert 0 <= columns.pop("calibration_error") <= 1
    assert columns == pytest.approx(expected)


def test_without_the_truth_there_are_no_columns_of_it(predictions: dict[str, Tensor]) -> None:
    columns = model_columns(position_values(**{**predictions, "truth_log_probs": None}))
    assert not any("bayes" in name or "excess" in name for name in columns)


def test_a_model_that_knows_the_truth_has_no_excess(predictions: dict[str, Tensor]) -> None:
    columns = model_columns(position_values(**{**predictions, "log_probs": predictions["truth_log_probs"]}))
    for name in ("excess_loss_nats", "excess_entropy_nats", "bayes_kl_nats"):
        assert columns[name] == pytest.approx(0, abs=1e-12)
