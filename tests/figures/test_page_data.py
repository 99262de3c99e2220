import json
import math

import numpy as np
import pytest

from confreg.figures import page_data as module
from confreg.figures.page_data import compact, neuron_columns, page_data, spectrum_columns
from confreg.figures.run_records import read_run


def test_numbers_are_rounded_and_what_is_not_finite_is_null():
    assert compact([0.123456, 123456.0, math.nan, math.inf, 0.0], 4) == [0.1235, 123500.0, None, None, 0.0]


def test_the_block_is_strict_json_and_follows_the_run(make_run):
    data = json.loads(json.dumps(page_data(read_run(make_run(steps=(0, 1, 4), n_neurons=16))), allow_nan=False))
    assert data["steps"] == [0, 1, 4]
    assert data["model"]["tokens_seen"] == [0, 4096, 16384]
    assert data["why_nothing_is_named"] is None


def test_columns_hold_each_neuron_at_its_own_place(make_run):
    neurons = read_run(make_run(steps=(0, 3, 300), n_neurons=8, n_layers=2)).neurons
    columns = neuron_columns(neurons)
    rows = neurons.set_index(["step", "layer", "neuron"])
    for position, step in enumerate((0, 3, 300)):
        for place, name in enumerate(columns["names"]):
            row = rows.loc[(step, *map(int, name.split(".")))]
            for column in ("w_out_norm", "logit_var", "null_space_share"):
                assert columns[column][position][place] == pytest.approx(row[column], rel=5e-3)  # shares keep three digits
            assert columns["kind"][position][place] == row["is_entropy_neuron"] + 2 * row["is_frequency_neuron"]


def test_medians_are_those_of_each_layer(make_run):
    neurons = read_run(make_run(steps=(3,), n_neurons=8, n_layers=2)).neurons
    layer = neurons[neurons["layer"] == 1]
    assert neuron_columns(neurons)["medians"][0]["1"][0] == pytest.approx(np.median(layer["w_out_norm"]), rel=1e-3)


def test_a_run_with_too_many_neurons_keeps_the_named_and_the_strongest(make_run, monkeypatch):
    monkeypatch.setattr(module, "POINT_BUDGET", 60)
    monkeypatch.setattr(module, "DETAIL_BUDGET", 36)
    neurons = read_run(make_run(steps=(0, 64, 1500), n_neurons=64)).neurons
    columns = neuron_columns(neurons)
    assert len(columns["names"]) == 20
    assert len(columns["loss_effect"][0]) == columns["n_detailed"] == 12
    assert columns["n_measured"] == 64
    assert set(columns["names"][:9]) == {f"1.{neuron}" for neuron in range(9)}
    last = neurons[neurons["step"] == 1500].nlargest(5, "entropy_effect")
    assert {f"1.{neuron}" for neuron in last["neuron"]} <= set(columns["names"])


def test_a_neuron_that_was_not_measured_at_a_step_is_null_there(make_run):
    neurons = read_run(make_run(steps=(0, 3), n_neurons=8)).neurons
    gone = neurons[~((neurons["step"] == 3) & (neurons["neuron"] == 5))]
    columns = neuron_columns(gone)
    place = columns["names"].index("1.5")
    assert columns["w_out_norm"][1][place] is None
    assert columns["w_out_norm"][0][place] is not None
    assert columns["kind"][1][place] == 0


def test_singular_values_that_are_null_by_construction_are_left_out_of_the_log_axis(make_run):
    columns = spectrum_columns(read_run(make_run(steps=(0, 3), n_neurons=8)).spectrum)
    assert columns["singular_value"][0][-1] is None
    assert columns["n_values"] == len(columns["index"]) == 64


def test_a_long_spectrum_is_thinned_but_for_its_small_values(make_run, monkeypatch):
    monkeypatch.setattr(module, "SPECTRUM_BUDGET", 20)
    columns = spectrum_columns(read_run(make_run(steps=(0, 3), n_neurons=8)).spectrum)
    assert columns["index"][0] == 0
    assert columns["index"][-10:] == list(range(54, 64))
    assert len(columns["index"]) <= 20


def test_the_timeline_lists_who_was_named_in_the_order_of_naming(make_run):
    spells = page_data(read_run(make_run(n_neurons=16)))["spells"]
    assert spells["order"][:3] == ["1.6", "1.4", "1.7"]
    assert spells["n_named"] == len(spells["order"]) == 9
    assert spells["first_step"] == sorted(spells["first_step"])


def test_the_best_predictor_s_entropy_is_the_model_s_less_the_excess(make_run):
    data = page_data(read_run(make_run(steps=(0, 64, 1500), n_neurons=8)))["model"]
    for own, excess, best in zip(data["entropy_nats"], data["excess_entropy_nats"], data["bayes_entropy_nats"], strict=True):
        assert best == pytest.approx(own - excess, rel=1e-5)


def test_without_the_language_s_truth_the_best_predictor_s_entropy_is_null(make_run):
    data = page_data(read_run(make_run(steps=(0, 64), n_neurons=8, bayes=False)))["model"]
    assert data["bayes_entropy_nats"] == [None, None]


def test_thresholds_stand_by_step_and_layer(make_run):
    data = page_data(read_run(make_run(steps=(0, 64), n_neurons=8, n_layers=2)))
    assert [set(layers) for layers in data["neurons"]["thresholds"]] == [{"0", "1"}] * 2
    assert data["neurons"]["thresholds"][0]["1"]["null_space_share_chance"] == 0.44
    assert data["rules"] == {"norm_mediated_share_min": 0.5, "frequency_mediated_share_min": 0.3, "frequency_cosine_min": 0.5}
