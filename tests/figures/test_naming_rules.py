from dataclasses import asdict

import pytest

from confreg.figures.naming_rules import CONTROL, REPLACED_BY, naming_rules
from confreg.settings import Settings
from confreg.settings.measure import CONTROLS, REPLACEMENTS


def test_the_rules_carry_the_numbers_of_the_configuration():
    config = asdict(Settings())
    config["measure"]["request"]["rules"]["median_multiple"] = 7.5
    entropy, frequency, *_ = naming_rules(config)
    assert "at least 7.5 times the layer's median and 0.001 of the model's mean entropy" in entropy
    assert "at least 0.5 of that effect" in entropy
    assert "cosine at least 0.5 in size" in frequency
    assert "?" not in entropy + frequency


def test_without_a_configuration_no_number_is_claimed():
    assert not any("Entropy neuron" in sentence for sentence in naming_rules({}))
    assert any("3 consecutive clock steps" in sentence for sentence in naming_rules({}))


def test_the_rules_say_which_tokens_were_counted():
    said = {each: naming_rules(asdict(Settings(frequency=each)))[1] for each in ("corpus", "seen")}
    assert "those of the training part" in said["corpus"]
    assert "before the checkpoint's step: at step 0 there are none" in said["seen"]


@pytest.mark.parametrize(
    ("request_keys", "words"),
    [
        ({}, "replaced by its mean over the reference tokens: the mean absolute"),
        ({"replacement": "zero"}, "replaced by zero: "),
        ({"replacement": "fixed_value", "replacement_value": -0.5}, "replaced by -0.5: "),
        ({"replacement": "scaled_by_factor", "replacement_factor": 2.0}, "replaced by 2.0 times itself: "),
        ({"replacement": "resampled_from_reference_tokens"}, "drawn for each position (seed 0): "),
        ({"replacement": "fixed_value", "replacement_value": None}, "replaced by ?: "),  # a file edited by hand
        ({"replacement": ["{"]}, "replaced by ['{']: "),
    ],
)
def test_the_page_says_what_activations_were_replaced_by(request_keys, words):
    config = asdict(Settings())
    config["measure"]["request"].update(request_keys)
    assert words in naming_rules(config)[-1]


def test_every_replacement_there_is_has_its_words():
    assert set(REPLACED_BY) == set(REPLACEMENTS)


def test_a_configuration_that_names_no_replacement_measured_with_the_mean():
    assert "replaced by its mean over the reference tokens" in naming_rules({})[-1]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "a norm drawn from its layer, keeps the activations"),
        ({"control": "norm_drawn_from_layer"}, "a norm drawn from its layer, keeps the activations"),
        ({"control": "own_norm_and_null_space_share"}, "its own norm and null-space share, keeps the activations"),
        ({"control": "by_hand"}, "(by_hand), keeps the activations"),
    ],
)
def test_the_page_says_what_the_control_keeps(config, words):
    assert any(words in sentence for sentence in naming_rules({"measure": {"request": config}}))


def test_every_control_there_is_has_its_words():
    assert set(CONTROL) == set(CONTROLS)
