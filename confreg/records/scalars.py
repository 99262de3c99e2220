"""The scalars of one clock step, as loggers show them."""

from __future__ import annotations

import pyarrow.compute as pc

from confreg.records.schema import IDENTITY, MODEL
from confreg.records.store import RecordStore


def clock_scalars(store: RecordStore, step: int) -> dict[str, float]:
    """``model/<measure>`` of the model's row, and the extremes of the layer as ``neurons/<measure>_max``; nulls are left out."""
    row = store.read("model", step).to_pylist()[0]
    scalars = {f"model/{name}": row[name] for name in MODEL.names if name not in IDENTITY and row[name] is not None}
    scalars["model/tokens_seen"] = row["tokens_seen"]
    neurons = store.read("neurons", step)
    for name in ("null_space_share", "entropy_effect", "kl_from_frequency_effect", "loss_effect", "w_out_norm"):
        scalars[f"neurons/{name}_max"] = pc.max(neurons[name]).as_py()
    return {name: float(value) for name, value in scalars.items() if value is not None}
