"""The rules that name a neuron: every clause decides alone, and the control is judged by the layer's own thresholds."""

from dataclasses import fields, replace

import pytest
import torch

from confreg.neurons.selection import (
    Evidence,
    Thresholds,
    entropy_neurons,
    frequency_neurons,
    may_be_entropy_neurons,
    may_be_frequency_neurons,
    thresholds_of_layer,
)
from confreg.settings import SelectionRules

NAN = float("nan")
RULES = SelectionRules()
THRESHOLDS = Thresholds(entropy_effect=0.010, kl_from_frequency_effect=0.020, null_space_share=0.4)
# a neuron that passes both rules with no room to spare but for the strict inequality of the null space
PASSING = {
    "entropy_effect": 0.012,
    "entropy_effect_stderr": 0.0005,
    "entropy_norm_mediated_share_low": 0.5,
    "null_space_share": 0.41,
    "kl_from_frequency_effect": 0.026,
    "kl_from_frequency_effect_stderr": 0.0025,
    "frequency_mediated_share_low": 0.3,
    "frequency_cosine": 0.5,
}
ENTROPY_MISSES = {
    "an effect below the threshold": {"entropy_effect": 0.0105},
    "an effect whose two standard errors reach below the threshold": {"entropy_effect_stderr": 0.0011},
    "an effect without a standard error": {"entropy_effect_stderr": NAN},
    "less than half of it surely through the norm": {"entropy_norm_mediated_share_low": 0.499},
    "no lower bound of that share": {"entropy_norm_mediated_share_low": NAN},
    "a null-space share that chance reaches": {"null_space_share": 0.4},
    "no write at all": {"null_space_share": NAN},
}
FREQUENCY_MISSES = {
    "an effect below the threshold": {"kl_from_frequency_effect": 0.0245},
    "an effect whose two standard errors reach below the threshold": {"kl_from_frequency_effect_stderr": 0.0031},
    "an effect without a standard error": {"kl_from_frequency_effect_stderr": NAN},
    "less than three tenths surely through the frequency": {"frequency_mediated_share_low": 0.299},
    "no lower bound of that share": {"frequency_mediated_share_low": NAN},
    "a write away from the frequency direction": {"frequency_cosine": 0.499},
    "a write away from its opposite": {"frequency_cosine": -0.499},
    "no write at all": {"frequency_cosine": NAN},
}


def evidence_of(*neurons: dict[str, float]) -> Evidence:
    rows = [{**PASSING, **neuron} for neuron in neurons]
    return Evidence(**{each.name: torch.tensor([row[each.name] for row in rows], dtype=torch.float64) for each in fields(Evidence)})


@pytest.mark.parametrize("miss", ENTROPY_MISSES)
def test_each_clause_of_the_entropy_rule_alone_keeps_a_neuron_out(miss: str) -> None:
    assert entropy_neurons(evidence_of({}, ENTROPY_MISSES[miss]), THRESHOLDS, 16, RULES).tolist() == [True, False]


@pytest.mark.parametrize("miss", FREQUENCY_MISSES)
def test_each_clause_of_the_frequency_rule_alone_keeps_a_neuron_out(miss: str) -> None:
    assert frequency_neurons(evidence_of({}, FREQUENCY_MISSES[miss]), THRESHOLDS, 16, 0.0, RULES).tolist() == [True, False]


def test_what_one_rule_asks_is_nothing_to_the_other() -> None:
    nothing_of_frequency = {"kl_from_frequency_effect": 0.0, "frequency_mediated_share_low": -1.0, "frequency_cosine": 0.0}
    nothing_of_entropy = {"entropy_effect": 0.0, "entropy_norm_mediated_share_low": -1.0, "null_space_share": 0.0}
    both = evidence_of(nothing_of_frequency, nothing_of_entropy)
    assert entropy_neurons(both, THRESHOLDS, 16, RULES).tolist() == [True, False]
    assert frequency_neurons(both, THRESHOLDS, 16, 0.0, RULES).tolist() == [False, True]


def test_a_write_against_the_frequency_direction_is_named_too() -> None:
    assert frequency_neurons(evidence_of({"frequency_cosine": -0.9}), THRESHOLDS, 16, 0.0, RULES).tolist() == [True]


def test_fewer_than_sixteen_documents_name_nothing() -> None:
    assert entropy_neurons(evidence_of({}), THRESHOLDS, 15, RULES).tolist() == [False]
    assert frequency_neurons(evidence_of({}), THRESHOLDS, 15, 0.0, RULES).tolist() == [False]


def test_where_half_of_the_vocabulary_was_never_counted_no_frequency_neuron_is_named() -> None:
    assert frequency_neurons(evidence_of({}), THRESHOLDS, 16, 0.5, RULES).tolist() == [False]
    assert frequency_neurons(evidence_of({}), THRESHOLDS, 16, 0.499, RULES).tolist() == [True]


def test_thresholds_are_five_medians_where_these_exceed_a_thousandth_of_the_entropy() -> None:
    effects = [0.001, 0.002, 0.003, 0.004, 5.0]
    evidence = evidence_of(*({"entropy_effect": each, "kl_from_frequency_effect": 2 * each} for each in effects))
    found = thresholds_of_layer(evidence, entropy_nats=3.0, null_space_share_chance=0.37, rules=RULES)
    assert found.entropy_effect == pytest.approx(0.015)
    assert found.kl_from_frequency_effect == pytest.approx(0.030)
    assert found.null_space_share == 0.37


def test_the_median_of_an_even_number_of_neurons_lies_between_the_middle_two() -> None:
    evidence = evidence_of(*({"entropy_effect": each} for each in (0.001, 0.002, 0.004, 0.1)))
    assert thresholds_of_layer(evidence, 0.0, 0.4, RULES).entropy_effect == pytest.approx(0.015)


def test_in_a_layer_of_dead_neurons_a_thousandth_of_the_entropy_is_the_threshold() -> None:
    evidence = evidence_of(*({"entropy_effect": each, "kl_from_frequency_effect": each} for each in (0.0, 0.0, 0.004)))
    found = thresholds_of_layer(evidence, entropy_nats=3.0, null_space_share_chance=0.4, rules=RULES)
    assert found.entropy_effect == found.kl_from_frequency_effect == pytest.approx(0.003)


def test_every_number_of_the_rules_comes_from_the_settings() -> None:
    neuron = evidence_of({})
    stricter = {
        "n_stderr": 4.1,
        "norm_mediated_share_min": 0.51,
        "frequency_mediated_share_min": 0.31,
        "frequency_cosine_min": 0.51,
        "clusters_min": 17,
        "zero_count_share_max": 0.1,
    }
    named_by_entropy_rule, named_by_frequency_rule = set(), set()
    for name, value in stricter.items():
        rules = replace(RULES, **{name: value})
        if entropy_neurons(neuron, THRESHOLDS, 16, rules).item():
            named_by_entropy_rule.add(name)
        if frequency_neurons(neuron, THRESHOLDS, 16, 0.2, rules).item():
            named_by_frequency_rule.add(name)
    assert named_by_entropy_rule == {"frequency_mediated_share_min", "frequency_cosine_min", "zero_count_share_max"}
    assert named_by_frequency_rule == {"norm_mediated_share_min"}


def test_whoever_is_named_may_be_named_by_the_weights_alone_and_their_clauses_alone_decide_it() -> None:
    entropy, frequency = (evidence_of({}, *misses.values()) for misses in (ENTROPY_MISSES, FREQUENCY_MISSES))
    of_entropy = may_be_entropy_neurons(entropy.null_space_share, THRESHOLDS.null_space_share)
    assert of_entropy.tolist() == [True, *(not {"null_space_share"} & set(miss) for miss in ENTROPY_MISSES.values())]
    of_frequency = may_be_frequency_neurons(frequency.frequency_cosine, 0.5 - 1e-6, RULES)
    assert of_frequency.tolist() == [True, *(not {"frequency_cosine"} & set(miss) for miss in FREQUENCY_MISSES.values())]
    assert not may_be_frequency_neurons(frequency.frequency_cosine, 0.5, RULES).any()  # the frequencies themselves are hardly known
