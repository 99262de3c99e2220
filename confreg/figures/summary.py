"""The short table of named neurons that a run prints at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from confreg.figures.findings import findings
from confreg.figures.histories import FORMED_AFTER, named_at_last
from confreg.figures.run_records import RunRecords, read_run

COLUMNS = {
    "norm": ("norm_relative", ".2f"),
    "Logit\nVar": ("logit_var_relative", ".2f"),
    "null\nspace": ("null_space_share", ".2f"),
    "entropy\neffect": ("entropy_effect", ".4f"),
    "through\nnorm": ("entropy_norm_mediated_share", ".2f"),
    "freq.\ncosine": ("frequency_cosine", "+.2f"),
}


def named_neurons_table(run: Path) -> Table | Text:
    """Named neurons at the last measured step of a run, as a table for the terminal; where there is none, what the run shows, in words.

    Norm and LogitVar are multiples of the layer's median, shares and cosines dimensionless, effects in nats.

    Raises:
        ReportError: the folder holds no records that can be read.
    """
    return table_of_named_neurons(read_run(run))


def table_of_named_neurons(records: RunRecords) -> Table | Text:
    """The same from records that are already read."""
    named = named_at_last(records.neurons)
    if named.empty:
        return Text(" ".join(findings(records)))
    when = f" at step {records.steps[-1]:,}" if records.knows_steps else ""
    heading = f"Named{when} (norm and LogitVar: multiples of the layer's median; effect in nats)"
    table = Table(title=heading, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("neuron", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    for column in (*COLUMNS, "formed\nsince"):
        table.add_column(column, justify="right", no_wrap=True)
    for _, row in named.iterrows():
        table.add_row(f"{row['layer']}.{row['neuron']}", row["kind"], *_cells(row), _since(row["formed_since"], len(records.steps)))
    return table


def _cells(row: pd.Series) -> list[str]:
    return ["–" if pd.isna(row[name]) else format(row[name], style) for name, style in COLUMNS.values()]


def _since(step: Any, n_steps: int) -> str:
    if pd.isna(step):
        return "not yet" if n_steps >= FORMED_AFTER else "–"  # so few steps say nothing about it
    return str(int(step))
