from pathlib import Path

import pytest

from confreg.figures.comparison.conditions import conditions_of
from confreg.figures.comparison.remarks import remarks
from confreg.figures.comparison.runs import ComparedRuns, RunLeftOut


@pytest.fixture
def said(make_compared):
    """Remarks on runs that are given as keywords, all of one condition unless their settings differ."""

    def say(*runs, left_out=()):
        compared = ComparedRuns(Path("x"), [make_compared(f"run{at}", **run) for at, run in enumerate(runs)], list(left_out))
        return remarks(compared, conditions_of(compared.runs, compared.folder))

    return say


def made(**changes):
    return {"versions": {"torch": "2.13.0"}, "git": {"commit": "a" * 40, "dirty": False}, "reproducibility": {"threads": 2}, **changes}


def test_runs_that_were_made_alike_need_no_remark(said):
    assert said({"seed": 0, "facts": made()}, {"seed": 1, "facts": made()}) == []


def test_other_versions_code_and_conditions_are_told_in_words(said):
    other = made(versions={"torch": "2.12.0"}, git={"commit": "b" * 40, "dirty": True}, reproducibility={"threads": 1})
    (sentence,) = said({"seed": 0, "facts": made()}, {"seed": 1, "facts": other})
    assert sentence == (
        "The runs are not strictly comparable, for they were made with different versions of torch; 2 different commits of the code; "
        "uncommitted changes in 1 of 2 runs; other conditions (threads). Small differences may come from there."
    )


def test_uncommitted_changes_are_told_although_every_run_has_them(said):
    dirty = made(git={"commit": "a" * 40, "dirty": True})
    assert "uncommitted changes in 2 of 2 runs" in said({"seed": 0, "facts": dirty}, {"seed": 1, "facts": dirty})[0]


@pytest.mark.parametrize("facts", [{}, {"git": None, "versions": "x"}])
def test_a_run_that_does_not_tell_what_it_was_made_with_differs_from_one_that_does(said, facts):
    (sentence,) = said({"seed": 0, "facts": made()}, {"seed": 1, "facts": facts})
    assert "different versions of torch" in sentence
    assert said({"seed": 0, "facts": facts}, {"seed": 1, "facts": facts}) == []


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("measure.n_blocks", "were measured differently (measure.n_blocks)"),
        ("measure.request.rules.median_multiple", "were measured differently (measure.request.rules.median_multiple)"),
        ("clock.per_doubling", "The clocks differ (clock.per_doubling)"),
        ("data.redraw_probability", "predict different texts (data.redraw_probability)"),
    ],
)
def test_settings_that_change_what_the_numbers_mean_are_told(said, key, words):
    sentences = said({"settings": {key: 1}}, {"settings": {key: 2}})
    assert len(sentences) == 1
    assert words in sentences[0]


def test_settings_that_one_wants_to_compare_are_not_told(said):
    assert said({"settings": {"data.batch_size": 8}}, {"settings": {"data.batch_size": 16}}) == []


def test_text_that_changed_under_one_configuration_is_told(said):
    runs = [{"seed": seed, "facts": {"language": {"text_sha256": digest}}} for seed, digest in enumerate(("1" * 64, "2" * 64))]
    assert said(*runs) == ["The text itself changed between runs of one configuration: x."]


def test_repeats_and_other_seeds_are_told(said):
    one, other = {"optimizer.weight_decay": 1}, {"optimizer.weight_decay": 2}
    sentences = said(*({"seed": seed, "settings": one} for seed in (0, 1, 1)), {"seed": 0, "settings": other})
    assert sentences == [
        "optimizer.weight_decay=1 has more than one run of seed 1: they are repeats, not independent draws.",
        "The seeds are not the same: optimizer.weight_decay=1: 0, 1, optimizer.weight_decay=2: 0.",
    ]


def test_runs_that_are_not_shown_or_not_finished_are_told_first_with_the_reason(said):
    sentences = said(
        {"seed": 0},
        {"seed": 1, "steps": (0, 64), "facts": {"status": "failed", "error": "ValueError: x"}},
        left_out=[RunLeftOut("gone", "damaged")],
    )
    assert sentences[0] == "1 run could not be read and is in no figure: gone. The reasons stand at the end."
    assert sentences[1].startswith("Not finished, so in the figures but not in the numbers of the conditions: ")
    assert sentences[1].endswith(": run1 (failed: ValueError: x; last step 64).")


def test_runs_that_end_at_other_steps_without_a_configuration_or_with_too_little_text_are_told(said):
    sentences = said({"seed": 0}, {"seed": 1, "steps": (0, 2000), "why_nothing_is_named": "Too few."})
    assert "The runs end at different steps (128, 2,000): the tables show each at its own end." in sentences
    assert "Too few documents for the rules to name anybody: run1." in sentences
    assert said({"settings": {}}) == ["Without config.yaml, so each stands alone: run0."]
