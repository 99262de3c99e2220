"""The forward filter against every path that the latents can take."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from confreg.languages.synthetic import SyntheticLanguage
from confreg.languages.truth import bayes_log_probs
from confreg.settings import SyntheticSettings

N_LATENTS, N_VOCAB = 3, 4
SETTINGS = {
    "vocabulary_size": N_VOCAB,
    "rank": 2,
    "block_length": 24,
    "n_inverse_temperatures": N_LATENTS,
    "n_backoff_weights": 1,
    "backoff_weight_min": 1.0,
    "n_reference": 1,
    "n_measured": 1,
}


def language_with(redraw_probability: float) -> SyntheticLanguage:
    return SyntheticLanguage(SyntheticSettings(**SETTINGS, redraw_probability=redraw_probability), seed=0)


def slow_prediction(log_probs: Tensor, text: list[int], redraw_probability: float) -> list[float]:
    """P(next | text), summed over every path of the latents of all tokens and of the next one."""
    joint = [0.0] * N_VOCAB
    for path in itertools.product(range(N_LATENTS), repeat=len(text) + 1):
        weight = 1 / N_LATENTS
        for before, after in itertools.pairwise(path):
            weight *= (1 - redraw_probability) * (before == after) + redraw_probability / N_LATENTS
        for position in range(1, len(text)):
            weight *= math.exp(log_probs[path[position], text[position - 1], text[position]])
        for following in range(N_VOCAB):
            joint[following] += weight * math.exp(log_probs[path[-1], text[-1], following])
    return [each / sum(joint) for each in joint]


@pytest.mark.parametrize("redraw_probability", [0.0, 0.05, 0.5, 1.0])
def test_the_filter_equals_the_sum_over_all_paths_of_the_latents(redraw_probability: float) -> None:
    log_probs = torch.from_numpy(language_with(redraw_probability).log_probs)
    blocks = torch.tensor([[0, 1, 0, 2, 0], [3, 1, 3, 2, 1]])
    found = bayes_log_probs(log_probs, blocks, redraw_probability).exp()
    for block, text in enumerate(blocks.tolist()):
        for position in range(5):
            expected = slow_prediction(log_probs, text[: position + 1], redraw_probability)
            assert found[block, position].tolist() == pytest.approx(expected, abs=1e-13)


def test_predictions_are_distributions_that_rule_out_a_repetition() -> None:
    language = language_with(0.1)
    blocks = language.train_blocks(range(5))
    found = language.bayes_log_probs(blocks)
    assert found.shape == (5, 24, N_VOCAB)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(5, 24, dtype=torch.float64))
    assert found.gather(-1, blocks.unsqueeze(-1)).isneginf().all()


def test_a_prediction_does_not_look_ahead_or_at_another_block() -> None:
    language = language_with(0.1)
    blocks = language.train_blocks(range(3))
    whole = language.bayes_log_probs(blocks)
    torch.testing.assert_close(language.bayes_log_probs(blocks[1:2, :9])[0], whole[1, :9], atol=1e-13, rtol=0)


def test_a_known_latent_is_found_out_from_a_long_text_that_never_redraws() -> None:
    language = language_with(0.0)
    tokens, latents = language.documents("train", range(200))
    found = language.bayes_log_probs(torch.from_numpy(tokens))[:, -1].exp().numpy()
    with_latent = np.exp(language.log_probs[latents[:, -1], tokens[:, -1]])
    without = np.exp(language.log_probs[:, tokens[:, -1]]).mean(0)
    assert np.abs(found - with_latent).mean() < 0.5 * np.abs(without - with_latent).mean()


def test_when_every_token_redraws_the_context_beyond_the_last_token_says_nothing() -> None:
    language = language_with(1.0)
    blocks = language.train_blocks(range(4))
    mean = np.exp(language.log_probs).mean(0)[blocks.numpy()]
    torch.testing.assert_close(language.bayes_log_probs(blocks).exp(), torch.from_numpy(mean), atol=1e-13, rtol=0)


@pytest.mark.parametrize("redraw_probability", [0.0, 0.1])
def test_the_loss_of_the_optimal_prediction_equals_its_entropy_on_average(redraw_probability: float) -> None:
    language = language_with(redraw_probability)
    blocks = language.train_blocks(range(1500))
    log_probs = language.bayes_log_probs(blocks)[:, :-1]
    loss = -log_probs.gather(-1, blocks[:, 1:].unsqueeze(-1)).squeeze(-1)
    entropy = -(log_probs.exp() * log_probs.masked_fill(log_probs.isneginf(), 0)).sum(-1)
    gap = (loss - entropy).mean(1)
    assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(1500)


def test_a_filter_that_believes_in_another_redraw_rate_predicts_worse() -> None:
    language = language_with(0.02)
    blocks = language.train_blocks(range(1500))
    log_probs = torch.from_numpy(language.log_probs)

    def loss(believed: float) -> Tensor:
        predicted = bayes_log_probs(log_probs, blocks, believed)[:, :-1]
        return -predicted.gather(-1, blocks[:, 1:].unsqueeze(-1)).squeeze(-1).mean(1)

    for believed in (0.0, 0.3, 1.0):
        excess = loss(believed) - loss(0.02)
        assert excess.mean() > 3 * excess.std() / math.sqrt(1500)


@pytest.mark.parametrize("redraw_probability", [0.0, 0.1])
def test_a_block_that_is_all_but_impossible_under_every_latent_has_a_prediction(redraw_probability: float) -> None:
    """Each token has a probability of e^-900 at most, which is zero in float64; the latents still differ by what they say of it."""
    log_probs = torch.full((2, 3, 3), -900.0, dtype=torch.float64)
    log_probs[1] = -1000.0
    log_probs[:, :, 0] = torch.tensor([0.25, 0.75], dtype=torch.float64).log()[:, None]  # and the rest lies elsewhere
    found = bayes_log_probs(log_probs, torch.tensor([[2, 1, 2, 1]]), redraw_probability)
    assert not found.isnan().any()
    likely = (1 - redraw_probability / 2) * 0.25 + redraw_probability / 2 * 0.75  # the first latent, e^100 times as likely at every token
    assert found[0, 1:, 0].exp().tolist() == pytest.approx([likely] * 3)
