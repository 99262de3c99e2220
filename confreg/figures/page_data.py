"""The one JSON block of the page: a run's frames as compact columns, bounded in size whatever the run's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from confreg.figures.findings import why_nothing_is_named
from confreg.figures.histories import FORMED_AFTER, KINDS, formed_neurons, naming_spells
from confreg.figures.run_records import MODEL_FLOATS, NEURON_FLOATS, RunRecords

# With plotly.js (4.8 MB) these budgets keep the page under 8 MB: at most about 8 bytes for a number.
POINT_BUDGET = 50_000  # neuron x step, drawn as points
DETAIL_BUDGET = 9_000  # neuron x step, with every column for the hover text and the table
SPECTRUM_BUDGET = 400  # singular values of a step
POINT_COLUMNS = ("w_out_norm", "logit_var", "entropy_effect", "entropy_norm_mediated_share")
DETAIL_COLUMNS = tuple(name for name in NEURON_FLOATS if name not in POINT_COLUMNS and not name.endswith("_low"))
EXACT_NULL = 1e-6  # of the largest singular value; below it a direction is null by construction, not by training
TIMELINE_ROWS = 40
NEURON_DIGITS = 4
MODEL_DIGITS = 6


def page_data(records: RunRecords) -> dict[str, Any]:
    """Everything that the page's script draws.

    Returns:
        ``steps`` (the slider), ``model`` (columns over its own steps), ``neurons`` (columns as [step][neuron], null where not measured),
        ``spells`` (who was named when) and ``spectrum``. Plain lists, rounded, without NaN.
    """
    return {
        "run": records.name,
        "steps": records.steps,
        "model": {"step": records.model["step"].tolist(), **{name: compact(records.model[name], MODEL_DIGITS) for name in MODEL_FLOATS}},
        "neurons": neuron_columns(records.neurons),
        "spells": _spells(records.neurons),
        "spectrum": spectrum_columns(records.spectrum),
        "why_nothing_is_named": why_nothing_is_named(records),
    }


def compact(values: Any, digits: int) -> list[float | None]:
    """Numbers with so many significant digits; what is not finite becomes null."""
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in np.asarray(values, dtype="float64")]


def neuron_columns(neurons: pd.DataFrame) -> dict[str, Any]:
    """Columns of the ``neurons`` table as [step][neuron], the neurons in one order for all steps.

    Neurons that were ever named come first, then those that rank high in ``entropy_effect`` at some step. Where there are too many for a
    page, the end of that order is left out; every column is kept for its beginning (``n_detailed``).
    """
    order, n_steps = _order(neurons), neurons["step"].nunique()
    shown = order[: max(1, POINT_BUDGET // n_steps)]
    n_detailed = min(len(shown), max(1, DETAIL_BUDGET // n_steps))
    by_step = [_rows_in_order(rows, shown) for _, rows in neurons.groupby("step")]
    kept = {name: len(shown) for name in POINT_COLUMNS} | dict.fromkeys(DETAIL_COLUMNS, n_detailed)
    columns = {name: [compact(rows[name].to_numpy()[:count], NEURON_DIGITS) for rows in by_step] for name, count in kept.items()}
    is_kind = [rows[list(KINDS.values())].eq(True).to_numpy() for rows in by_step]
    return {
        "names": [f"{layer}.{neuron}" for layer, neuron in shown],
        "layer": [int(layer) for layer, _ in shown],
        "n_measured": len(order),
        "n_detailed": n_detailed,
        "kind": [(flags @ np.array([1, 2])).tolist() for flags in is_kind],  # 1: entropy, 2: token-frequency, 3: both
        "medians": _layer_medians(neurons),
        **columns,
    }


def _order(neurons: pd.DataFrame) -> pd.MultiIndex:
    """Every (layer, neuron), those that matter most at any step first."""
    ranks = neurons.groupby("step")["entropy_effect"].rank(ascending=False, na_option="bottom", method="first")
    keyed = neurons.assign(rank=ranks, plain=~neurons[list(KINDS.values())].any(axis=1)).groupby(["layer", "neuron"])
    best = keyed.agg(plain=("plain", "min"), rank=("rank", "min")).reset_index()
    return pd.MultiIndex.from_frame(best.sort_values(["plain", "rank", "layer", "neuron"])[["layer", "neuron"]])


def _rows_in_order(rows: pd.DataFrame, order: pd.MultiIndex) -> pd.DataFrame:
    return rows.drop_duplicates(["layer", "neuron"], keep="last").set_index(["layer", "neuron"]).reindex(order)


def _layer_medians(neurons: pd.DataFrame) -> list[dict[str, list[float | None]]]:
    """For each step: layer -> medians of (w_out_norm, logit_var) over all of its measured neurons, shown or not."""
    medians = neurons.groupby(["step", "layer"])[["w_out_norm", "logit_var"]].median()
    return [
        {str(layer): compact(row.to_numpy(), NEURON_DIGITS) for layer, row in rows.droplevel("step").iterrows()}
        for _, rows in medians.groupby(level="step")
    ]


def _spells(neurons: pd.DataFrame) -> dict[str, Any]:
    """Rows of the timeline: the neurons that formed first, then those named for longest; each with its spells."""
    spells = naming_spells(neurons)
    formed = formed_neurons(neurons)
    spells["name"] = spells["layer"].astype(str) + "." + spells["neuron"].astype(str)
    totals = spells.groupby("name").agg(longest=("n_clock_steps", "max"), first=("first_step", "min"))
    chosen = totals.sort_values(["longest", "first"], ascending=[False, True]).head(TIMELINE_ROWS).sort_values(["first", "longest"])
    drawn = spells[spells["name"].isin(chosen.index)]
    keys = formed["kind"] + " " + formed["layer"].astype(str) + "." + formed["neuron"].astype(str)
    since = {key: int(step) for key, step in zip(keys, formed["formed_since"], strict=True) if not pd.isna(step)}
    return {
        "order": chosen.index.tolist(),
        "n_named": len(totals),
        "formed_after": FORMED_AFTER,
        "formed_since": since,  # "kind layer.neuron" -> optimizer step
        **{name: drawn[name].tolist() for name in ("name", "kind", "first_step", "last_step", "n_clock_steps")},
    }


def spectrum_columns(spectrum: pd.DataFrame) -> dict[str, Any]:
    """Singular values as [step][index], thinned where there are many: the small ones, where a null space grows, are all kept."""
    if spectrum.empty:
        return {"steps": [], "index": [], "singular_value": [], "n_exact_null": 0, "n_values": 0}
    table = spectrum.drop_duplicates(["step", "index"], keep="last").pivot(index="step", columns="index", values="singular_value")
    largest = table.max(axis=1)
    drawn = table.where(table.gt(EXACT_NULL * largest, axis=0))
    n_values = table.shape[1]
    tail = np.arange(max(0, n_values - SPECTRUM_BUDGET // 2), n_values)
    head = np.linspace(0, n_values - 1, SPECTRUM_BUDGET // 2).round().astype(int)
    kept = np.unique(np.concatenate([head, tail])) if n_values > SPECTRUM_BUDGET else np.arange(n_values)
    return {
        "steps": [int(step) for step in table.index],
        "index": [int(index) for index in table.columns[kept]],
        "singular_value": [compact(row, NEURON_DIGITS) for row in drawn.to_numpy()[:, kept]],
        "n_exact_null": int(drawn.iloc[-1].isna().sum()),
        "n_values": n_values,
    }
