"""What W&B shows beside scalars: a table of the top neurons, histograms over the neurons, and the page of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import wandb

from confreg.records.dashboard import histogram_values, top_neurons
from confreg.records.store import RecordStore
from confreg.settings import WandbSettings

TABLE, HISTOGRAMS, PAGE = "tables/top_neurons", "histograms", "page/report"


def clock_media(run: Any, store: RecordStore, step: int, settings: WandbSettings) -> dict[str, Any]:
    """The table and the histograms of one clock step, by key; each step sends only its own rows."""
    media: dict[str, Any] = {}
    if settings.top_neurons:
        rows = top_neurons(store, step, settings.top_neurons)
        media[TABLE] = _table(run, rows)
    if settings.histogram_bins:
        for name, values in histogram_values(store, step).items():
            media[f"{HISTOGRAMS}/{name}"] = wandb.Histogram(values, num_bins=settings.histogram_bins)
    return media


def _table(run: Any, rows: pa.Table) -> wandb.Table:
    """A table that lies in the run's own folder.

    Bound before it is logged, it becomes no artifact: an artifact's files would lie outside the run, and an offline run that is moved
    (``run.replace`` renames it) could not be sent any more, for W&B keeps their absolute paths.
    """
    table = wandb.Table(columns=list(rows.column_names), data=[row.values() for row in rows.to_pylist()])
    table.bind_to_run(run, TABLE, run.step)
    return table


def page_media(page: Path) -> dict[str, Any]:
    """The page of the run, unchanged: W&B's own style sheet would be a request, and the page makes none."""
    return {PAGE: wandb.Html(page, inject=False)}
