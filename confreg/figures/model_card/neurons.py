"""The measured part of a model card: facts of the step, and a table for each kind of named neuron."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from confreg.figures.findings import why_nothing_is_named
from confreg.figures.histories import FORMED_AFTER, KINDS, named_at_last
from confreg.figures.model_card.markdown import table
from confreg.figures.run_records import RunRecords

MOST_ROWS = 40  # of one kind; all are in the records
# name, column of the table `model`, digits after the point
MODEL_FACTS = (
    ("loss", "loss_nats", " nats per token"),
    ("loss of the best predictor from the same context", "bayes_loss_nats", " nats per token"),
    ("excess loss over it", "excess_loss_nats", " nats per token"),
    ("entropy of the prediction", "entropy_nats", " nats per token"),
    ("excess entropy over the best predictor's", "excess_entropy_nats", " nats per token"),
    ("divergence of the prediction from the best one", "bayes_kl_nats", " nats per token"),
    ("calibration error (15 bins of equal mass)", "calibration_error", ""),
)
# Columns of each kind's table: those that its rule looks at. heading, column, format, suffix of what stands in brackets or after ±
SHAPE = (("norm", "norm_relative", ".2f", None), ("LogitVar", "logit_var_relative", ".2f", None))
NULL_SPACE = ("null-space share (chance)", "null_space_share", ".2f", "_chance")
ENTROPY_EFFECT = ("entropy effect (nats)", "entropy_effect", ".4f", "_stderr")
COSINE = ("frequency cosine", "frequency_cosine", "+.2f", None)
COLUMNS = {
    "entropy": (*SHAPE, NULL_SPACE, ENTROPY_EFFECT, ("through the norm", "entropy_norm_mediated_share", ".2f", "_low"), COSINE),
    "token-frequency": (
        *SHAPE,
        NULL_SPACE,
        ("frequency effect (nats)", "kl_from_frequency_effect", ".4f", "_stderr"),
        ("through the frequencies", "frequency_mediated_share", ".2f", "_low"),
        COSINE,
        ENTROPY_EFFECT,
    ),
}
BESIDE = {"_stderr": "± {}", "_low": "(≥ {})", "_chance": "({})"}
LEGEND = (
    "Norm and LogitVar are multiples of the layer's median. ± is one standard error over documents; ≥ is the lower 95 % bound of a share; "
    "chance is what the best of as many random directions reaches in the null space in 95 % of draws. A dash: not defined."
)


def measured_facts(records: RunRecords) -> list[tuple[str, str]]:
    """The model's own numbers at the last step as (name, value); what is unknown is left out."""
    row = records.model_at_last()
    facts = [(name, f"{_number(row[column], '.3f')}{unit}") for name, column, unit in MODEL_FACTS if _is_known(row, column)]
    if not why_nothing_is_named(records):
        facts += [(f"named {kind} neurons", value) for kind, value in _counts(row)]
    if _is_known(row, "n_positions") and _is_known(row, "n_documents"):
        facts.append(("measured on", f"{row['n_positions']:,.0f} positions of {row['n_documents']:,.0f} documents that are not trained on"))
    return facts


def _counts(row: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    for kind, column in {"entropy": "n_entropy_neurons", "token-frequency": "n_frequency_neurons"}.items():
        if _is_known(row, column):
            control = f" (control: {row[f'{column}_control']:.2g})" if _is_known(row, f"{column}_control") else " (no control was drawn)"
            yield kind, f"{row[column]:.0f}{control}"


def neuron_tables(records: RunRecords) -> str:
    """A table for each kind that has named neurons at the last step, under a line that says which; empty where nothing is named."""
    named = named_at_last(records.neurons)
    n_steps = len(records.steps)
    parts = [_table(named[named["kind"] == kind], kind, n_steps) for kind in KINDS if (named["kind"] == kind).any()]
    return "\n\n".join([*parts, LEGEND]) if parts else ""


def _table(named: pd.DataFrame, kind: str, n_steps: int) -> str:
    head = ["neuron", *(heading for heading, *_ in COLUMNS[kind]), "formed since step"]
    shown = named.head(MOST_ROWS).to_dict("records")
    rows = [[f"{row['layer']}.{row['neuron']}", *_cells(row, kind), _since(row["formed_since"], n_steps)] for row in shown]
    more = [f"{len(named) - MOST_ROWS} more are in the run's records."] if len(named) > MOST_ROWS else []
    return "\n\n".join([f"**{kind.capitalize()} neurons**", table(head, rows), *more])


def _cells(row: Mapping[Any, Any], kind: str) -> list[str]:
    return [_cell(row, *rest) for _, *rest in COLUMNS[kind]]


def _cell(row: Mapping[Any, Any], column: str, style: str, beside: str | None) -> str:
    if not _is_known(row, column):
        return "–"
    other = beside and f"{column}{beside}"
    more = f" {BESIDE[beside].format(_number(row[other], style))}" if beside and other and _is_known(row, other) else ""
    return f"{_number(row[column], style)}{more}"


def _is_known(row: Mapping[Any, Any], column: str) -> bool:
    value = row.get(column)
    return value is not None and not math.isnan(value)


def _number(value: float, style: str) -> str:
    return format(value, style).replace("-", "−")


def _since(step: Any, n_steps: int) -> str:
    if pd.isna(step):
        return "not yet" if n_steps >= FORMED_AFTER else "–"  # so few steps say nothing about it
    return f"{int(step):,}"
