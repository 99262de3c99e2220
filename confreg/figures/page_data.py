"""The one JSON block of the page: a run's frames as compact columns, bounded in size whatever the run's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from confreg.figures.findings import why_nothing_is_named
from confreg.figures.histories import FORMED_AFTER, KINDS, formed_neurons, naming_spells
from confreg.figures.naming_thresholds import layer_thresholds, rule_numbers
from confreg.figures.run_records import MODEL_FLOATS, RunRecords

# With plotly.js (4.8 MB) these budgets keep the page near 7 MB and a step of the slider quick: about 7 bytes for an effect, 6 for a share.
POINT_BUDGET = 30_000  # neuron x step, drawn as points
DETAIL_BUDGET = 9_000  # neuron x step, with every column for the hover text and the table
SPECTRUM_BUDGET = 400  # singular values of a step
# Columns of the planes and trajectories, with their significant digits: shares are read to two decimals, effects to four.
POINT_COLUMNS = {
    "w_out_norm": 4,
    "logit_var": 4,
    "entropy_effect": 4,
    "kl_from_frequency_effect": 4,
    "null_space_share": 3,
    "entropy_norm_mediated_share": 3,
    "frequency_mediated_share": 3,
    "frequency_cosine": 3,
}
DETAIL_COLUMNS = ("entropy_effect_stderr", "kl_from_frequency_effect_stderr", "loss_effect", "loss_effect_stderr")
EXACT_NULL = 1e-6  # of the largest singular value; below it a direction is null by construction, not by training
TIMELINE_ROWS = 40
NEURON_DIGITS = 4
MODEL_DIGITS = 6


def page_data(records: RunRecords) -> dict[str, Any]:
    """Everything that the page's script draws.

    Returns:
        ``steps`` (the slider), ``model`` (columns over its own steps), ``neurons`` (columns as [step][neuron], null where not measured),
        ``rules`` (thresholds of the run), ``spells`` (who was named when) and ``spectrum``. Plain lists, rounded, without NaN.
    """
    return {
        "run": records.name,
        "steps": records.steps,
        "model": model_columns(records.model),
        "neurons": {**neuron_columns(records.neurons), "thresholds": threshold_columns(records)},
        "rules": rule_numbers(records.config),
        "spells": _spells(records.neurons),
        "spectrum": spectrum_columns(records.spectrum),
        "why_nothing_is_named": why_nothing_is_named(records),
    }


def compact(values: Any, digits: int) -> list[float | None]:
    """Numbers with so many significant digits; what is not finite becomes null."""
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in np.asarray(values, dtype="float64")]


def model_columns(model: pd.DataFrame) -> dict[str, Any]:
    """Columns of the ``model`` table over its steps, and the best predictor's own entropy, which the excess is measured from (nats)."""
    columns = {name: compact(model[name], MODEL_DIGITS) for name in MODEL_FLOATS}
    bayes_entropy = compact(model["entropy_nats"] - model["excess_entropy_nats"], MODEL_DIGITS)
    return {"step": model["step"].tolist(), **columns, "bayes_entropy_nats": bayes_entropy}


def threshold_columns(records: RunRecords) -> list[dict[str, dict[str, float | None]]]:
    """For each step: layer -> name of a threshold that the layer sets for itself -> its value."""
    table = layer_thresholds(records.neurons, records.model, records.config)
    return [
        {str(layer): dict(zip(table.columns, compact(row, NEURON_DIGITS), strict=True)) for layer, row in rows.droplevel("step").iterrows()}
        for _, rows in table.groupby(level="step")
    ]


def neuron_columns(neurons: pd.DataFrame) -> dict[str, Any]:
    """Columns of the ``neurons`` table as [step][neuron], the neurons in one order for all steps.

    Neurons that were ever named come first, then those that rank high in ``entropy_effect`` at some step. Where there are too many for a
    page, the end of that order is left out; standard errors and the effect on the loss are kept for its beginning (``n_detailed``).
    """
    order, n_steps = _order(neurons), neurons["step"].nunique()
    shown = order[: max(1, POINT_BUDGET // n_steps)]
    n_detailed = min(len(shown), max(1, DETAIL_BUDGET // n_steps))
    by_step = [_rows_in_order(rows, shown) for _, rows in neurons.groupby("step")]
    columns = {name: [compact(rows[name].to_numpy(), digits) for rows in by_step] for name, digits in POINT_COLUMNS.items()}
    details = {name: [compact(rows[name].to_numpy()[:n_detailed], NEURON_DIGITS) for rows in by_step] for name in DETAIL_COLUMNS}
    is_kind = [rows[list(KINDS.values())].eq(True).to_numpy() for rows in by_step]
    return {
        "names": [f"{layer}.{neuron}" for layer, neuron in shown],
        "layer": [int(layer) for layer, _ in shown],
        "n_measured": len(order),
        "n_detailed": n_detailed,
        "kind": [(flags @ np.array([1, 2])).tolist() for flags in is_kind],  # 1: entropy, 2: token-frequency, 3: both
        "medians": _layer_medians(neurons),
        **columns,
        **details,
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
        return {"steps": [], "index": [], "singular_value": [], "n_values": 0}
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
        "n_values": n_values,
    }
