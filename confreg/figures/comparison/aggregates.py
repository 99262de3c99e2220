"""Many runs of one condition as one line with a band: mean, lowest and highest over its runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def over_runs(columns: Sequence[pd.Series]) -> pd.DataFrame:
    """Mean and range over runs at each exact step.

    Args:
        columns: one measure of each run, indexed by optimizer steps; the steps may differ.

    Returns:
        Indexed by ``step``, the union of those where a run has a value: ``mean``, ``low``, ``high`` (lowest and highest run, not a
        standard error) and ``n`` (runs with a value there). Steps are never interpolated.
    """
    table = pd.concat(list(columns), axis="columns") if columns else pd.DataFrame(dtype="float64")
    table = table.where(np.isfinite(table)).dropna(how="all").sort_index()
    by_step = {
        "mean": table.mean(axis="columns"),
        "low": table.min(axis="columns"),
        "high": table.max(axis="columns"),
        "n": table.count(axis="columns"),
    }
    return pd.DataFrame(by_step).rename_axis("step")
