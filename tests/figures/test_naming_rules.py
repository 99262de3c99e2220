from dataclasses import asdict

from confreg.figures.naming_rules import naming_rules
from confreg.settings import Settings


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
