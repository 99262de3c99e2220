"""The tables that a measurement fills: columns, types, and what is null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from confreg.settings import MeasurementRequest

IDENTITY = {"step": pa.int64(), "tokens_seen": pa.int64(), "weights_sha256": pa.string()}

# Means over scored positions with a standard error clustered over documents; nats but for the last two.
EFFECTS = (
    "loss_effect",  # mean |ΔL| of the total effect
    "loss_effect_frozen_norm",
    "loss_effect_scale_only",
    "loss_effect_frozen_frequency",
    "entropy_effect",  # mean |ΔH|
    "entropy_effect_frozen_norm",
    "loss_change",  # mean ΔL, signed
    "entropy_change",
    "kl_from_frequency_change",  # mean ΔD(P_freq || P_model), signed
    "kl_from_frequency_effect",
    "kl_to_frequency_effect",
    "reciprocal_rank_effect",
)
# 1 - a ratio of means, or a share of positions; each with its standard error and its lower 95 % bound.
SHARES = ("norm_mediated_share", "frequency_mediated_share", "entropy_norm_mediated_share", "argmax_change_share", "temperature_share")
WEIGHT_MEASURES = ("w_out_norm", "logit_var", "null_space_share", "null_space_share_chance", "unembedding_gain", "frequency_cosine")
ACTIVATION_MEASURES = ("activation_mean", "activation_std", "activation_entropy_pearson", "activation_entropy_spearman")

NEURONS = pa.schema(
    list(IDENTITY.items())
    + [("layer", pa.int64()), ("neuron", pa.int64())]
    + [(name, pa.float64()) for name in (*WEIGHT_MEASURES, *ACTIVATION_MEASURES)]
    + [(f"{name}{suffix}", pa.float64()) for name in EFFECTS for suffix in ("", "_stderr")]
    + [(f"{name}{suffix}", pa.float64()) for name in SHARES for suffix in ("", "_stderr", "_low")]
    + [("replacement", pa.string()), ("is_entropy_neuron", pa.bool_()), ("is_frequency_neuron", pa.bool_())]
)

MODEL_MEASURES = (
    "loss_nats",
    "entropy_nats",
    "calibration_error",  # top-1 probability against accuracy, 15 equal-mass bins
    "kl_from_frequency",
    "entropy_kl_pearson",
    "final_norm_scale_mean",
    "final_norm_scale_std",
    "n_entropy_neurons_control",  # mean over the control draws
    "n_frequency_neurons_control",
    "zero_count_share",
    "bayes_loss_nats",
    "excess_loss_nats",
    "excess_entropy_nats",  # mean of H_model - H_Bayes
    "bayes_kl_nats",  # mean D(p_Bayes || p_model)
)
MODEL_COUNTS = ("null_dimensions", "n_entropy_neurons", "n_frequency_neurons", "n_positions", "n_documents")
MODEL = pa.schema(
    list(IDENTITY.items()) + [(name, pa.float64()) for name in MODEL_MEASURES] + [(name, pa.int64()) for name in MODEL_COUNTS]
)

SPECTRUM = pa.schema([*IDENTITY.items(), ("index", pa.int64()), ("singular_value", pa.float64())])

# Signed means over scored positions of (replacement - activation) times a gradient, with standard errors clustered over documents; nats.
ATTRIBUTIONS = tuple(
    f"{quantity}_attribution{part}"
    for quantity in ("entropy", "loss")
    for part in (
        "",  # through the layers above; the next two add up to it
        "_frozen_norm",
        "_norm",
        "_direct_path",  # past the layers above, straight to the final norm
        "_direct_path_frozen_norm",
        "_direct_path_norm",
        "_direct_path_absolute",  # mean absolute
    )
)
ATTRIBUTIONS_TABLE = pa.schema(
    [*IDENTITY.items(), ("layer", pa.int64()), ("neuron", pa.int64())]
    + [(f"{name}{suffix}", pa.float64()) for name in ATTRIBUTIONS for suffix in ("", "_stderr")]
    + [("replacement", pa.string())]
)

# Of the cosines between a neuron's write and every token, over the vocabulary; dimensionless.
UNIVERSAL_MEASURES = ("vocabulary_cosine_variance", "vocabulary_cosine_skew", "vocabulary_cosine_kurtosis")
UNIVERSAL_KINDS = ("is_prediction_neuron", "is_suppression_neuron", "is_partition_neuron")
UNIVERSAL = pa.schema(
    [*IDENTITY.items(), ("layer", pa.int64()), ("neuron", pa.int64()), ("w_out_norm", pa.float64())]
    + [(name, pa.float64()) for name in UNIVERSAL_MEASURES]
    + [(name, pa.bool_()) for name in UNIVERSAL_KINDS]
)

EFFECT_COLUMNS = [(f"{name}{suffix}", pa.float64()) for name in EFFECTS for suffix in ("", "_stderr")]
EFFECT_COLUMNS += [(f"{name}{suffix}", pa.float64()) for name in SHARES for suffix in ("", "_stderr", "_low")]
GROUPS = pa.schema(
    [
        *IDENTITY.items(),
        ("layer", pa.int64()),
        ("group", pa.string()),
        ("n_neurons", pa.int64()),
        *EFFECT_COLUMNS,
        ("replacement", pa.string()),
    ]
)

TABLES = {"neurons": NEURONS, "model": MODEL, "spectrum": SPECTRUM}  # of every measurement
# of those whose request says true to a setting of the same name
OPTIONAL_TABLES = {"attributions": ATTRIBUTIONS_TABLE, "groups": GROUPS, "universal": UNIVERSAL}


def tables_asked_for(request: MeasurementRequest | None) -> list[str]:
    """The tables of one measurement; None is the default request."""
    return [*TABLES, *(name for name in OPTIONAL_TABLES if getattr(request or MeasurementRequest(), name))]


def table_of(name: str, columns: Mapping[str, Any], n_rows: int, identity: Mapping[str, Any]) -> pa.Table:
    """Rows of a table from columns of arrays or single values; what is missing, nan or infinite becomes null.

    Raises:
        KeyError: for a column that the table does not have.
    """
    schema = {**TABLES, **OPTIONAL_TABLES}[name]
    values = {**identity, **columns}
    unknown = set(values) - set(schema.names)
    if unknown:
        raise KeyError(f"Table {name!r} got the columns {sorted(unknown)}; expected only {schema.names}.")
    return pa.table({field.name: _column(values.get(field.name), field.type, n_rows) for field in schema}, schema=schema)


def _column(values: Any, kind: pa.DataType, n_rows: int) -> pa.Array:
    if values is None:
        return pa.nulls(n_rows, kind)
    if pa.types.is_floating(kind):
        numbers = np.broadcast_to(np.asarray(values, dtype=np.float64), (n_rows,))
        return pa.array(numbers, kind, mask=~np.isfinite(numbers))
    return pa.array(np.broadcast_to(np.asarray(values), (n_rows,)).tolist(), kind)
