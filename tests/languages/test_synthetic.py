"""The language with a known confidence does what its formula says."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from confreg.languages.synthetic import (
    PARTS,
    SyntheticLanguage,
    latent_grid,
    number_tokenizer,
    transition_log_probs,
    transition_scores,
    unigram_log_probs,
)
from confreg.settings import SyntheticSettings


def tiny(**changes: float) -> SyntheticSettings:
    sizes = {"vocabulary_size": 5, "rank": 2, "block_length": 12, "n_inverse_temperatures": 3, "n_backoff_weights": 2}
    return SyntheticSettings(**{**sizes, "n_reference": 4, "n_measured": 6, "redraw_probability": 0.2, **changes})


def test_unigram_probabilities_are_those_of_zipf() -> None:
    found = np.exp(unigram_log_probs(tiny(zipf_exponent=1.3)))
    weights = [rank**-1.3 for rank in range(1, 6)]
    assert found.tolist() == pytest.approx([weight / sum(weights) for weight in weights])


def test_transition_scores_have_the_rank_and_the_spread_of_the_settings_and_no_self_loop() -> None:
    settings = tiny(vocabulary_size=200, rank=3, score_std=1.5)
    scores = transition_scores(settings)
    assert np.isneginf(np.diag(scores)).all()
    off_diagonal = scores[~np.eye(200, dtype=bool)]
    assert np.isfinite(off_diagonal).all()
    assert off_diagonal.std() == pytest.approx(1.5, rel=0.15)
    assert np.linalg.matrix_rank(scores[:100, 100:]) == 3  # a corner that the diagonal does not touch


def test_the_language_is_a_function_of_its_own_seed() -> None:
    assert np.array_equal(transition_scores(tiny(language_seed=3)), transition_scores(tiny(language_seed=3)))
    assert not np.array_equal(transition_scores(tiny(language_seed=3)), transition_scores(tiny(language_seed=4)))


def test_the_grid_is_log_spaced_in_beta_and_even_in_lambda() -> None:
    settings = tiny(n_inverse_temperatures=5, n_backoff_weights=4)
    pairs = {(round(beta, 9), round(weight, 9)) for beta, weight in latent_grid(settings).tolist()}
    assert pairs == {(beta, weight) for beta in (0.25, 0.5, 1.0, 2.0, 4.0) for weight in (0.0, 0.5, 1.0, 1.5)}


def test_transition_probabilities_equal_the_formula_written_out() -> None:
    settings = tiny()
    unigram, scores, found = unigram_log_probs(settings), transition_scores(settings), np.exp(transition_log_probs(settings))
    for latent, (beta, weight) in enumerate(latent_grid(settings).tolist()):
        for previous in range(5):
            odds = {v: math.exp(beta * (unigram[v] + weight * scores[previous, v])) for v in range(5) if v != previous}
            expected = [odds.get(v, 0.0) / sum(odds.values()) for v in range(5)]
            assert found[latent, previous].tolist() == pytest.approx(expected)


def test_no_token_follows_itself_whatever_the_latent() -> None:
    language = SyntheticLanguage(tiny(), seed=0)
    assert (np.exp(language.log_probs)[:, range(5), range(5)] == 0).all()
    tokens, _ = language.documents("train", range(2000))
    assert (tokens[:, 1:] != tokens[:, :-1]).all()
    assert tokens.min() == 0
    assert tokens.max() == 4


def test_a_document_does_not_depend_on_the_batch_that_it_is_generated_in() -> None:
    language = SyntheticLanguage(tiny(), seed=7)
    together, latents = language.documents("train", [5, 0, 10**12, 3])
    for place, index in enumerate([5, 0, 10**12, 3]):
        alone, its_latents = language.documents("train", [index])
        assert np.array_equal(alone[0], together[place])
        assert np.array_equal(its_latents[0], latents[place])
    again = SyntheticLanguage(tiny(), seed=7).train_blocks([0, 3])
    assert torch.equal(again, torch.from_numpy(together[[1, 3]]))


def test_documents_of_other_numbers_parts_and_seeds_differ() -> None:
    settings = tiny(block_length=40)
    texts = [SyntheticLanguage(settings, seed).documents(part, range(20))[0] for seed in (0, 1) for part in PARTS]
    assert len({row.tobytes() for row in np.concatenate(texts)}) == 2 * 3 * 20


def test_the_parts_have_the_sizes_of_the_settings_and_one_document_in_each_block() -> None:
    language = SyntheticLanguage(tiny(), seed=0)
    assert language.reference.shape == (4, 12)
    assert language.measured.shape == (6, 12)
    assert language.measured_documents.tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(language.measured, torch.from_numpy(language.documents("measured", range(6))[0]))
    assert language.measured.dtype == torch.int64
    assert language.n_train_blocks is None
    assert language.excluded_ids == ()


def test_tokens_of_a_large_sample_follow_the_distribution_given_latent_and_previous_token() -> None:
    language = SyntheticLanguage(tiny(), seed=1)
    tokens, latents = language.documents("train", range(4000))
    counts = np.zeros((6, 5, 5))
    np.add.at(counts, (latents[:, 1:], tokens[:, :-1], tokens[:, 1:]), 1)
    expected = np.exp(language.log_probs) * counts.sum(-1, keepdims=True)
    kept = expected > 5
    chi_square = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    degrees = kept.sum() - 30
    assert abs(chi_square - degrees) < 5 * math.sqrt(2 * degrees)


def test_first_tokens_follow_the_unigram_distribution_and_the_first_latent_is_even() -> None:
    language = SyntheticLanguage(tiny(), seed=1)
    tokens, latents = language.documents("train", range(6000))
    unigram = np.exp(unigram_log_probs(tiny()))
    shares = np.bincount(tokens[:, 0], minlength=5) / 6000
    assert (np.abs(shares - unigram) < 4.5 * np.sqrt(unigram * (1 - unigram) / 6000)).all()
    assert np.abs(np.bincount(latents[:, 0], minlength=6) / 6000 - 1 / 6).max() < 4.5 * math.sqrt(5 / 36 / 6000)


@pytest.mark.parametrize("redraw_probability", [0.0, 0.1, 1.0])
def test_latents_are_redrawn_at_the_rate_of_the_settings(redraw_probability: float) -> None:
    _, latents = SyntheticLanguage(tiny(redraw_probability=redraw_probability), seed=2).documents("train", range(2000))
    changed = (latents[:, 1:] != latents[:, :-1]).mean()
    expected = redraw_probability * 5 / 6  # one redraw in six falls on the latent there was
    assert changed == pytest.approx(expected, abs=4.5 * math.sqrt(expected * (1 - expected) / (2000 * 11)))


def test_redraws_do_not_depend_on_the_text() -> None:
    _, latents = SyntheticLanguage(tiny(), seed=2).documents("train", range(50))
    _, of_another_language = SyntheticLanguage(tiny(score_std=0.1, zipf_exponent=0.0), seed=2).documents("train", range(50))
    assert np.array_equal(latents, of_another_language)


def test_token_counts_are_those_of_the_first_training_documents() -> None:
    language = SyntheticLanguage(tiny(), seed=0)
    expected = np.bincount(language.documents("train", range(9000))[0].ravel(), minlength=5)  # more than one chunk
    assert language.token_counts(9000).tolist() == expected.tolist()


def test_no_document_is_drawn_from_the_same_random_numbers_as_another_or_as_the_language_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    starts, philox = [], np.random.Philox

    def recorded(**arguments: Any) -> np.random.Philox:
        bits = philox(**arguments)
        state = bits.state["state"]
        starts.append((*state["key"].tolist(), *state["counter"].tolist()))
        return bits

    monkeypatch.setattr(np.random, "Philox", recorded)
    language = SyntheticLanguage(tiny(language_seed=0), seed=0)
    language.train_blocks(range(3))
    assert len(starts) == 1 + 4 + 6 + 3
    assert len(set(starts)) == len(starts)


def test_the_facts_are_plain_values_and_tell_the_cosine_with_the_unigram() -> None:
    language = SyntheticLanguage(tiny(), seed=0)
    facts = json.loads(json.dumps(language.facts()))
    counts = language.token_counts(2048).double() + 1
    direction = counts.log() - counts.log().mean()
    unigram = torch.from_numpy(unigram_log_probs(tiny()))
    unigram = unigram - unigram.mean()
    expected = float(direction @ unigram / direction.norm() / unigram.norm())
    assert facts["frequency_direction_cosine_with_unigram"] == pytest.approx(expected)
    assert facts["latents"] == latent_grid(tiny()).tolist()


def test_the_tokenizer_writes_ids_as_numbers_and_reads_them_again() -> None:
    language = SyntheticLanguage(tiny(), seed=0)
    ids = language.measured[0].tolist()
    text = language.tokenizer.decode(ids)
    assert text == " ".join(str(each) for each in ids)
    assert language.tokenizer(text).input_ids == ids
    assert language.tokenizer(" 4   0\n3 ").input_ids == [4, 0, 3]
    assert len(number_tokenizer(300)) == 300


@pytest.mark.parametrize("text", ["5", "04", "one", "-1", "1.5"])
def test_text_that_is_no_id_of_the_language_is_refused_rather_than_read_as_something_else(text: str) -> None:
    with pytest.raises(Exception, match="Missing"):
        number_tokenizer(5)(text)
