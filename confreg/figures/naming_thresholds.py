"""The thresholds of the naming rules as a page draws them: from the run's own configuration and its own layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from confreg.figures.run_records import number_setting_of

RULES = "measure.request.rules"
OF_THE_RUN = ("norm_mediated_share_min", "frequency_mediated_share_min", "frequency_cosine_min")
EFFECTS = ("entropy_effect", "kl_from_frequency_effect")


def rule_numbers(config: dict[str, Any]) -> dict[str, float | None]:
    """Thresholds that hold at every step and in every layer; None where the configuration does not tell one."""
    return {name: number_setting_of(config, f"{RULES}.{name}") for name in OF_THE_RUN}


def layer_thresholds(neurons: pd.DataFrame, model: pd.DataFrame, config: dict[str, Any]) -> pd.DataFrame:
    """Thresholds that each layer sets for itself at each step.

    Args:
        neurons: rows of the ``neurons`` table.
        model: rows of the ``model`` table; a step without a row, or without an entropy, has no effect threshold.
        config: the run's configuration, whose rules say which multiple of the median and which share of the entropy.

    Returns:
        Indexed by (step, layer): ``null_space_share_chance`` (dimensionless), ``entropy_effect_min`` and ``kl_from_frequency_effect_min``
        (nats; what the effect, less its standard errors, must reach). NaN where unknown.
    """
    groups = neurons.groupby(["step", "layer"])
    table = groups[["null_space_share_chance"]].max()
    multiple, share = (number_setting_of(config, f"{RULES}.{name}") for name in ("median_multiple", "entropy_share_floor"))
    entropy = model.drop_duplicates("step", keep="last").set_index("step")["entropy_nats"].to_dict()
    floor = table.index.get_level_values("step").map(entropy).to_numpy("float64") * (math.nan if share is None else share)
    for effect in EFFECTS:
        from_median = groups[effect].median().to_numpy("float64") * (math.nan if multiple is None else multiple)
        table[f"{effect}_min"] = np.maximum(from_median, floor)  # NaN where either is
    return table
