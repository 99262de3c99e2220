from pathlib import Path

import pytest

from confreg.figures.comparison.conditions import conditions_of, differing_keys, value_text

LITTLE = {"optimizer.weight_decay": 0.25}
MUCH = {"optimizer.weight_decay": 0.25, "optimizer.learning_rate": 0.5, "optimizer.beta1": 0.5, "optimizer.beta2": 0.5}


@pytest.fixture
def grouped(make_compared):
    """Conditions of runs that are given as (name, seed) or (name, seed, settings)."""

    def group(*runs):
        return conditions_of([make_compared(name, *settings, seed=seed) for name, seed, *settings in runs], Path("/somewhere/decay"))

    return group


def test_runs_that_differ_only_in_the_seed_are_one_condition_named_by_their_folder(grouped):
    (condition,) = grouped(("a", 2), ("b", 10), ("c", 0), ("d", None))
    assert condition.label == "decay"
    assert [run.seed for run in condition.runs] == [0, 2, 10, None]


def test_conditions_are_named_and_ordered_by_the_values_in_which_they_differ(grouped):
    conditions = grouped(("1", 0), ("2", 0, LITTLE), ("3", 1), ("4", 1, LITTLE))
    assert [condition.label for condition in conditions] == ["optimizer.weight_decay=0.25", "optimizer.weight_decay=1.0"]
    assert [[run.name for run in condition.runs] for condition in conditions] == [["2", "4"], ["1", "3"]]
    assert conditions[0].settings == {"optimizer.weight_decay": "0.25"}


def test_where_much_differs_the_folders_name_the_conditions_in_the_order_given(grouped):
    conditions = grouped(("z/seed=0", 0), ("a/seed=0", 0, MUCH), ("z/seed=1", 1))
    assert [condition.label for condition in conditions] == ["z", "a"]
    assert set(conditions[1].settings) == set(MUCH)


def test_where_folders_do_not_tell_them_apart_letters_do(grouped):
    conditions = grouped(("x/a", 0), ("y/b", 0, MUCH), ("x/c", 1, MUCH), ("y/d", 1))
    assert [condition.label for condition in conditions] == ["A: x/a", "B: y/b"]


def test_a_run_without_a_configuration_stands_alone(grouped):
    conditions = grouped(("1", 0, {}), ("2", 0, {}), ("3", 0))
    assert [condition.label for condition in conditions] == ["1", "2", "3"]


def test_a_hundred_conditions_have_a_hundred_labels(grouped):
    conditions = grouped(*((f"{at % 7}/{at}", 0, {key: [at] for key in MUCH}) for at in range(100)))
    assert len({condition.label for condition in conditions}) == 100


def test_final_values_are_those_of_finished_runs(make_compared):
    runs = [
        make_compared("1", excess_loss_nats=[3.0, 2.0, 1.0]),
        make_compared("2", excess_loss_nats=[3.0, 2.0, 9.0], facts={"status": "running"}),
        make_compared("3", excess_loss_nats=[3.0, 2.0, float("nan")]),
    ]
    (condition,) = conditions_of(runs, Path("x"))
    assert [run.name for run in condition.finished] == ["1", "3"]
    assert condition.finals("excess_loss_nats").tolist() == [1.0]


def test_null_and_absent_are_the_same_and_lists_are_compared_as_a_whole():
    assert differing_keys([{"a": None, "b": [1, 2]}, {"b": [1, 3]}, {}]) == ["b"]
    assert differing_keys([{"a": 1}, {"a": 1.5}]) == ["a"]
    assert differing_keys([]) == []


def test_values_read_as_on_a_command_line():
    assert [value_text(value) for value in (0.1, True, None, "x", [1, 2], 1e-05)] == ["0.1", "true", "–", "x", "[1, 2]", "1e-05"]
    assert len(value_text("y" * 500)) == 60


def test_no_runs_are_no_conditions():
    assert conditions_of([], Path("x")) == []
