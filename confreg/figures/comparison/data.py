"""The one JSON block of a comparison: for each figure the single runs, and each condition as a mean with its range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from confreg.figures.comparison.aggregates import over_runs
from confreg.figures.comparison.conditions import Condition
from confreg.figures.comparison.measures import MEASURES
from confreg.figures.comparison.panels import PANELS, Panel
from confreg.figures.page_data import compact

DIGITS = 4


def comparison_data(conditions: Sequence[Condition]) -> dict[str, Any]:
    """Everything that the page's script draws.

    Returns:
        ``steps`` (the union of all clocks) and ``model`` (as the axis of steps asks for them), ``panels`` (those with a value),
        ``conditions`` (label, runs, and for each measure ``step``, ``mean``, ``low``, ``high``, ``n``) and ``runs`` (name, index of the
        condition, and for each measure its values over ``step``). Plain lists, rounded, without NaN.
    """
    steps = sorted({int(step) for condition in conditions for run in condition.runs for step in run.over_steps.index})
    return {
        "steps": steps,
        "model": {"step": []},
        "panels": [_panel(panel) for panel in shown_panels(conditions)],
        "conditions": [_condition(condition) for condition in conditions],
        "runs": [_run(index, run.name, run.over_steps) for index, condition in enumerate(conditions) for run in condition.runs],
    }


def shown_panels(conditions: Sequence[Condition]) -> list[Panel]:
    """The panels whose measure has a value in at least one run."""
    tables = [run.over_steps for condition in conditions for run in condition.runs]
    return [panel for panel in PANELS if any(table[panel.measure].notna().any() for table in tables)]


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "measure": panel.measure,
        "title": panel.title,
        "unit": panel.unit,
        "reference": panel.reference,
        "reference_name": panel.reference_name,
        "is_log": panel.is_log,
    }


def _condition(condition: Condition) -> dict[str, Any]:
    aggregates = {name: over_runs([run.over_steps[name] for run in condition.runs]) for name in MEASURES}
    return {"label": condition.label, "n_runs": len(condition.runs), **{name: _columns(table) for name, table in aggregates.items()}}


def _columns(table: pd.DataFrame) -> dict[str, Any]:
    floats = {name: compact(table[name], DIGITS) for name in ("mean", "low", "high")}
    return {"step": [int(step) for step in table.index], **floats, "n": [int(n) for n in table["n"]]}


def _run(condition: int, name: str, over_steps: pd.DataFrame) -> dict[str, Any]:
    values = {measure: compact(over_steps[measure], DIGITS) for measure in MEASURES if over_steps[measure].notna().any()}
    return {"name": name, "condition": condition, "step": [int(step) for step in over_steps.index], **values}
