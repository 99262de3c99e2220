import numpy as np
import pandas as pd
import pytest

from confreg.figures.comparison.measures import MEASURES, formed_over_steps, measures_over_steps, spectrum_tail
from confreg.figures.run_records import read_run


@pytest.fixture(scope="module")
def records(finished_run):
    return read_run(finished_run)


def test_every_measure_equals_the_slow_reading_of_the_records(records):
    table = measures_over_steps(records)
    assert list(table.columns) == list(MEASURES)
    for step in records.steps:
        model = records.model[records.model["step"] == step].iloc[0]
        neurons = records.neurons[records.neurons["step"] == step]
        values = [value for value in records.spectrum.loc[records.spectrum["step"] == step, "singular_value"] if value > 1e-9]
        assert table.loc[step, "loss_nats"] == model["loss_nats"]
        assert table.loc[step, "calibration_error"] == model["calibration_error"]
        assert table.loc[step, "n_frequency_neurons_control"] == model["n_frequency_neurons_control"]
        assert table.loc[step, "largest_entropy_effect"] == max(neurons["entropy_effect"])
        assert table.loc[step, "largest_null_space_share"] == max(neurons["null_space_share"])
        assert table.loc[step, "spectrum_tail"] == pytest.approx(min(values) / np.median(values))


def test_formed_neurons_over_steps_equal_the_slow_count(records):
    table, steps = measures_over_steps(records), records.steps
    for flag, column in (("is_entropy_neuron", "n_formed_entropy_neurons"), ("is_frequency_neuron", "n_formed_frequency_neurons")):
        named = {neuron: set(rows.loc[rows[flag], "step"]) for neuron, rows in records.neurons.groupby("neuron")}
        for at, step in enumerate(steps):
            windows = [steps[start : start + 3] for start in range(max(0, at - 2), at + 1) if start + 3 <= len(steps)]
            assert table.loc[step, column] == sum(any(set(window) <= spell for window in windows) for spell in named.values())
    assert table["n_formed_entropy_neurons"].iloc[-1] == 4


def test_two_namings_in_a_row_are_not_enough_and_a_gap_breaks_a_spell():
    named = {0: [1, 2, 3], 1: [2, 3], 2: [1, 2, 4, 8]}
    rows = [(1, neuron, step, step in steps, False) for neuron, steps in named.items() for step in (0, 1, 2, 3, 4, 8)]
    neurons = pd.DataFrame(rows, columns=["layer", "neuron", "step", "is_entropy_neuron", "is_frequency_neuron"])
    counts = formed_over_steps(neurons)["n_formed_entropy_neurons"]
    assert counts.to_dict() == {0: 0, 1: 1, 2: 1, 3: 1, 4: 0, 8: 0}


def test_the_tail_leaves_out_what_is_zero_by_construction():
    spectrum = pd.DataFrame({"step": [0] * 4 + [1] * 4, "index": [0, 1, 2, 3] * 2, "singular_value": [4, 2, 1, 1e-16, 8, 2, 0.5, 0]})
    assert spectrum_tail(spectrum).to_dict() == {0: 0.5, 1: 0.25}


def test_a_run_without_a_spectrum_and_without_a_known_language_has_nulls_there(make_run):
    table = measures_over_steps(read_run(make_run(steps=(0, 64), n_neurons=16, bayes=False, without=("spectrum",))))
    assert table[["spectrum_tail", "excess_loss_nats"]].isna().all(axis=None)
    assert table["loss_nats"].notna().all()
    assert list(table.index) == [0, 64]
