"""The scalars of one step, as loggers show them."""

import math
from pathlib import Path

import pytest

from confreg.records.scalars import clock_scalars
from confreg.records.schema import table_of
from confreg.records.store import RecordStore


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    store = RecordStore(tmp_path)
    identity = {"step": 8, "tokens_seen": 1024, "weights_sha256": "ab"}
    store.write("model", 8, table_of("model", {"loss_nats": 2.5, "n_documents": 18, "bayes_loss_nats": math.nan}, 1, identity))
    neurons = {
        "layer": 0,
        "neuron": range(3),
        "w_out_norm": [1.0, 4.0, 2.0],
        "null_space_share": [0.25, math.nan, 0.125],
        "entropy_effect": [0.5, 0.75, 0.25],
        "is_entropy_neuron": [True, False, True],
        "is_frequency_neuron": False,
    }
    store.write("neurons", 8, table_of("neurons", neurons, 3, identity))
    return store


def test_scalars_are_the_models_measures_a_few_of_the_layer_and_the_leading_named_neurons_and_leave_out_what_is_null(
    store: RecordStore,
) -> None:
    assert clock_scalars(store, 8) == {
        "model/loss_nats": 2.5,
        "model/n_documents": 18.0,
        "model/tokens_seen": 1024.0,
        "neurons/w_out_norm_max": 4.0,
        "neurons/w_out_norm_median": 2.0,
        "neurons/null_space_share_max": 0.25,
        "neurons/entropy_effect_max": 0.75,
        "neurons/entropy_effect_median": 0.5,
        "neurons/top_entropy_w_out_norm": 1.0,
        "neurons/top_entropy_null_space_share": 0.25,
    }


def test_groups_that_are_replaced_together_have_scalars_of_their_own(store: RecordStore) -> None:
    without, identity = clock_scalars(store, 8), {"step": 8, "tokens_seen": 1024, "weights_sha256": "ab"}
    groups = {"group": ["pair", "trio"], "loss_effect": [0.5, 0.25], "norm_mediated_share": [math.nan, 0.75], "loss_change": 1.0}
    store.write("groups", 8, table_of("groups", groups, 2, identity))
    expected = {"groups/pair_loss_effect": 0.5, "groups/trio_loss_effect": 0.25, "groups/trio_norm_mediated_share": 0.75}
    assert clock_scalars(store, 8) == without | expected


def test_every_scalar_is_a_finite_float(store: RecordStore) -> None:
    assert all(type(value) is float and math.isfinite(value) for value in clock_scalars(store, 8).values())
