"""The tables have the columns that the design promises, and nulls instead of nan."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from confreg.records.schema import EFFECTS, OPTIONAL_TABLES, TABLES, table_of, tables_asked_for
from confreg.settings import MeasurementRequest

IDENTITY = {"step": pa.int64(), "tokens_seen": pa.int64(), "weights_sha256": pa.string()}
WEIGHTS = "w_out_norm logit_var null_space_share null_space_share_chance unembedding_gain frequency_cosine"
ACTIVATIONS = "activation_mean activation_std activation_entropy_pearson activation_entropy_spearman"
WITH_STDERR = """loss_effect loss_effect_frozen_norm loss_effect_scale_only loss_effect_frozen_frequency entropy_effect
entropy_effect_frozen_norm loss_change entropy_change kl_from_frequency_change kl_from_frequency_effect kl_to_frequency_effect
reciprocal_rank_effect"""
WITH_STDERR_AND_LOW = "norm_mediated_share frequency_mediated_share entropy_norm_mediated_share argmax_change_share temperature_share"
MODEL = """loss_nats entropy_nats calibration_error kl_from_frequency entropy_kl_pearson final_norm_scale_mean final_norm_scale_std
n_entropy_neurons_control n_frequency_neurons_control zero_count_share bayes_loss_nats excess_loss_nats excess_entropy_nats bayes_kl_nats"""
ATTRIBUTED = """attribution attribution_frozen_norm attribution_norm attribution_direct_path attribution_direct_path_frozen_norm
attribution_direct_path_norm attribution_direct_path_absolute"""
UNIVERSAL = "w_out_norm vocabulary_cosine_variance vocabulary_cosine_skew vocabulary_cosine_kurtosis"
KINDS = "is_prediction_neuron is_suppression_neuron is_partition_neuron"
MODEL_COUNTS = "null_dimensions n_entropy_neurons n_frequency_neurons n_positions n_documents"


def expected_columns(table: str) -> dict[str, pa.DataType]:
    if table == "spectrum":
        return {**IDENTITY, "index": pa.int64(), "singular_value": pa.float64()}
    if table == "model":
        return {**IDENTITY, **dict.fromkeys(MODEL.split(), pa.float64()), **dict.fromkeys(MODEL_COUNTS.split(), pa.int64())}
    if table == "attributions":
        names = [f"{quantity}_{name}" for quantity in ("entropy", "loss") for name in ATTRIBUTED.split()]
        floats = dict.fromkeys((f"{name}{suffix}" for name in names for suffix in ("", "_stderr")), pa.float64())
        return {**IDENTITY, "layer": pa.int64(), "neuron": pa.int64(), **floats, "replacement": pa.string()}
    if table == "universal":
        names = {"layer": pa.int64(), "neuron": pa.int64(), **dict.fromkeys(UNIVERSAL.split(), pa.float64())}
        return {**IDENTITY, **names, **dict.fromkeys(KINDS.split(), pa.bool_())}
    effects = [f"{name}{suffix}" for name in WITH_STDERR.split() for suffix in ("", "_stderr")]
    effects += [f"{name}{suffix}" for name in WITH_STDERR_AND_LOW.split() for suffix in ("", "_stderr", "_low")]
    if table == "groups":
        names = {"layer": pa.int64(), "group": pa.string(), "n_neurons": pa.int64(), "replacement": pa.string()}
        return {**IDENTITY, **names, **dict.fromkeys(effects, pa.float64())}
    floats = [*WEIGHTS.split(), *ACTIVATIONS.split(), *effects]
    names = {"layer": pa.int64(), "neuron": pa.int64(), "replacement": pa.string()}
    flags = {"is_entropy_neuron": pa.bool_(), "is_frequency_neuron": pa.bool_()}
    return {**IDENTITY, **names, **dict.fromkeys(floats, pa.float64()), **flags}


@pytest.mark.parametrize("table", ["neurons", "model", "spectrum", "attributions", "groups", "universal"])
def test_columns_and_types_are_those_of_the_design(table: str) -> None:
    schema = (TABLES | OPTIONAL_TABLES)[table]
    assert dict(zip(schema.names, schema.types, strict=True)) == expected_columns(table)
    assert schema.names[:3] == list(IDENTITY)


def test_there_are_no_other_tables() -> None:
    assert set(TABLES) == {"neurons", "model", "spectrum"}
    assert set(OPTIONAL_TABLES) == {"attributions", "groups", "universal"}


def test_an_optional_table_is_there_where_the_request_asks_for_it() -> None:
    assert tables_asked_for(None) == tables_asked_for(MeasurementRequest()) == ["neurons", "model", "spectrum"]
    assert tables_asked_for(MeasurementRequest(attributions=True)) == ["neurons", "model", "spectrum", "attributions"]
    assert tables_asked_for(MeasurementRequest(groups={"pair": [3, 17]})) == ["neurons", "model", "spectrum", "groups"]
    assert tables_asked_for(MeasurementRequest(universal=True)) == ["neurons", "model", "spectrum", "universal"]


def test_what_is_missing_nan_or_infinite_becomes_null_and_never_nan() -> None:
    columns = {"layer": 1, "neuron": range(3), "logit_var": [0.5, math.nan, math.inf], "w_out_norm": torch.tensor([1.0, 2.0, -math.inf])}
    rows = table_of("neurons", columns, 3, {"step": 4})
    assert rows["logit_var"].to_pylist() == [0.5, None, None]
    assert rows["w_out_norm"].to_pylist() == [1.0, 2.0, None]
    assert rows["layer"].to_pylist() == [1, 1, 1]
    assert rows["neuron"].to_pylist() == [0, 1, 2]
    assert rows["tokens_seen"].to_pylist() == [None] * 3
    assert all(rows[name].null_count == 3 for name in EFFECTS)
    assert rows.schema.equals(TABLES["neurons"])


def test_single_values_fill_the_column_and_an_unknown_step_is_null() -> None:
    rows = table_of("spectrum", {"index": range(2), "singular_value": 1.5}, 2, {"step": None, "weights_sha256": "ab"})
    assert rows.to_pylist() == [
        {"step": None, "tokens_seen": None, "weights_sha256": "ab", "index": index, "singular_value": 1.5} for index in (0, 1)
    ]


def test_large_steps_and_flags_of_numpy_keep_their_value() -> None:
    flags = np.array([True, False])
    columns = {"is_entropy_neuron": flags, "is_frequency_neuron": torch.tensor([False, False]), "layer": 0, "neuron": range(2)}
    rows = table_of("neurons", columns, 2, {"step": 2**53 + 1})
    assert rows["step"].to_pylist() == [2**53 + 1] * 2
    assert rows["is_entropy_neuron"].to_pylist() == [True, False]


def test_a_column_that_the_table_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(KeyError, match=r"'spectrum' got the columns \['loss'\]; expected only"):
        table_of("spectrum", {"loss": 1.0}, 1, {})


def test_columns_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        table_of("spectrum", {"index": range(3), "singular_value": [1.0, 2.0]}, 3, {})
