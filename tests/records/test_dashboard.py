"""The top of a step's neurons, and values for histograms."""

import math
from pathlib import Path

import pytest

from confreg.records.dashboard import HISTOGRAM_COLUMNS, TOP_COLUMNS, histogram_values, top_neurons
from confreg.records.schema import NEURONS, table_of
from confreg.records.store import RecordStore

IDENTITY = {"step": 8, "tokens_seen": 1024, "weights_sha256": "ab"}


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    store = RecordStore(tmp_path)
    neurons = {
        "layer": 0,
        "neuron": range(5),
        "entropy_effect": [0.5, 0.125, math.nan, 0.25, 0.75],
        "logit_var": math.nan,
        "is_entropy_neuron": [False, True, False, False, False],
        "is_frequency_neuron": [False, False, False, True, False],
    }
    store.write("neurons", 8, table_of("neurons", neurons, 5, IDENTITY))
    return store


def test_named_neurons_come_first_then_the_largest_effect_on_entropy_and_what_has_none_last(store: RecordStore) -> None:
    assert top_neurons(store, 8, 5)["neuron"].to_pylist() == [3, 1, 4, 0, 2]
    assert top_neurons(store, 8, 2)["neuron"].to_pylist() == [3, 1]
    assert len(top_neurons(store, 8, 100)) == 5


def test_the_top_has_the_records_own_columns_and_every_effect_its_standard_error() -> None:
    assert set(TOP_COLUMNS) <= set(NEURONS.names)
    with_stderr = {name.removesuffix("_stderr") for name in NEURONS.names if name.endswith("_stderr")}
    assert all(f"{name}_stderr" in TOP_COLUMNS for name in TOP_COLUMNS if name in with_stderr)


def test_a_histogram_gets_no_nulls_and_a_column_of_nothing_else_gets_no_histogram(store: RecordStore) -> None:
    assert histogram_values(store, 8) == {"entropy_effect": [0.5, 0.125, 0.25, 0.75]}
    assert set(HISTOGRAM_COLUMNS) <= set(NEURONS.names)
