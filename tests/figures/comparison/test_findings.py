from pathlib import Path

import pytest

from confreg.figures.comparison.conditions import conditions_of
from confreg.figures.comparison.findings import comparison_findings, what_is_compared

DECAYS = [{"optimizer.weight_decay": value} for value in (0.1, 1.0)]


@pytest.fixture
def conditions(make_compared):
    """Two conditions of three seeds: entropy neurons in two runs of the first, token-frequency neurons in none."""
    firsts = {0: [(256, 64), (), (1024,)], 1: [(), (), ()]}
    runs = [
        make_compared(
            f"{at}{seed}", settings, seed=seed, formed={"entropy": firsts[at][seed]}, excess_loss_nats=[2.0, 1.0, 0.1 * seed + at]
        )
        for at, settings in enumerate(DECAYS)
        for seed in range(3)
    ]
    return conditions_of(runs, Path("decay"))


def test_each_condition_tells_in_how_many_runs_which_kind_formed_and_the_loss(conditions):
    assert comparison_findings(conditions) == [
        (
            "optimizer.weight_decay=0.1",
            "Entropy neurons formed in 2 of 3 runs, first at steps 64 to 1,024 (median 544); token-frequency neurons formed in none of 3 "
            "runs; the loss ends 0.100 (0.000 to 0.200) nats above the best predictor.",
        ),
        (
            "optimizer.weight_decay=1.0",
            "Entropy neurons formed in none of 3 runs; token-frequency neurons formed in none of 3 runs; the loss ends 1.100 (1.000 to "
            "1.200) nats above the best predictor.",
        ),
    ]


def test_the_first_sentence_says_what_a_line_and_its_band_are(conditions):
    said = what_is_compared(conditions)
    assert said.startswith("6 runs of 2 conditions, each over seeds 0 to 2. A line is the mean")
    assert "from the lowest to the highest run" in said


def test_single_runs_are_told_as_such(make_compared):
    runs = [
        make_compared("1", formed={"entropy": (64, 8)}, loss_nats=[3, 2, 1.0]),
        make_compared("2", DECAYS[0], loss_nats=[3, 2, float("nan")]),
    ]
    conditions = conditions_of(runs, Path("x"))
    assert what_is_compared(conditions) == "2 runs of 2 conditions. One run each: differences may be those between seeds."
    assert dict(comparison_findings(conditions))["optimizer.weight_decay=1.0"] == (
        "2 entropy neurons formed, first at step 8; no token-frequency neuron formed; the loss ends at 1.000 nats."
    )
    assert dict(comparison_findings(conditions))["optimizer.weight_decay=0.1"].endswith("; no loss was recorded.")
    assert what_is_compared(conditions[:1]).endswith("There is nothing to compare it with yet.")


def test_unfinished_and_too_small_conditions_say_so(make_compared):
    runs = [
        make_compared("1", DECAYS[0], facts={"status": "running"}),
        make_compared("2", DECAYS[1], why_nothing_is_named="few", loss_nats=[1.0] * 3),
    ]
    first, second = (said for _, said in comparison_findings(conditions_of(runs, Path("x"))))
    assert first == "1 run, none finished."
    assert second.startswith("The measured text is too small for the rules to name a neuron; ")


def test_many_conditions_are_left_to_the_table(make_compared):
    runs = [make_compared(str(at), {"model.d_mlp": at}) for at in range(7)]
    assert comparison_findings(conditions_of(runs, Path("x"))) == []
