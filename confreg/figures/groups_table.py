"""The groups of neurons that a run replaced together, as a card of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from confreg.figures.run_records import RunRecords, setting_of

NEURONS_SHOWN = 8  # of a group; the rest is in the configuration
# heading, unit, column, whether it has a standard error
COLUMNS = (
    ("entropy effect", "nats", "entropy_effect", True),
    ("through norm", "share", "entropy_norm_mediated_share", False),
    ("a temperature", "share", "temperature_share", False),
    ("loss effect", "nats", "loss_effect", True),
    ("loss change", "nats, signed", "loss_change", True),
    ("frequency effect", "nats", "kl_from_frequency_effect", True),
    ("through frequency", "share", "frequency_mediated_share", False),
)


def groups_card(records: RunRecords) -> str:
    """HTML of one card with a row for each group at its last measured step; empty where no groups were asked for."""
    groups = records.groups
    if groups.empty:
        return ""
    heads = "".join(f"<th>{name} <small>{unit}</small></th>" for name, unit, _, _ in COLUMNS)
    rows = "".join(_row(row, records.config) for row in groups.to_dict("records"))
    source = " ".join(f"<code>groups.{name}</code>" for _, _, name, _ in COLUMNS)
    return (
        f'<section class="card" id="groups"><h3>Neurons replaced together, at step {int(groups["step"].iloc[0]):,}</h3>'
        '<p class="read">All neurons of a group at once, which is no sum of their single effects; ± one standard error over documents. '
        "Loss change above zero: without the group the loss is larger.</p>"
        '<div class="scroller" tabindex="0" role="region" aria-label="Table of groups"><table class="groups">'
        f'<thead><tr><th class="text">group</th><th class="text">neurons</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
        f'<p class="source">columns: {source}and the <code>_stderr</code>of the effects</p></section>'
    )


def _row(row: Mapping[Any, Any], config: dict[str, Any]) -> str:
    cells = "".join(f"<td>{_cell(row, name, has_error)}</td>" for _, _, name, has_error in COLUMNS)
    neurons = escape(_neurons(row, setting_of(config, f"measure.request.groups.{row['group']}")))
    return f'<tr><td class="text">{escape(str(row["group"]))}</td><td class="text">{neurons}</td>{cells}</tr>'


def _neurons(row: Mapping[Any, Any], members: Any) -> str:
    """Which they are, as far as the configuration tells, or how many."""
    if not isinstance(members, list) or len(members) != row["n_neurons"]:
        return f"{row['n_neurons']} neurons"
    shown = ", ".join(f"{row['layer']}.{neuron}" for neuron in members[:NEURONS_SHOWN])
    return shown if len(members) <= NEURONS_SHOWN else f"{shown} and {len(members) - NEURONS_SHOWN} more"


def _cell(row: Mapping[Any, Any], name: str, has_error: bool) -> str:
    value, error = row[name], row.get(f"{name}_stderr", math.nan)
    if not math.isfinite(value):
        return "–"
    shown = f"{value:.3g}" if has_error else f"{value:.2f}"
    return shown.replace("-", "−") + (f" <small>± {error:.2g}</small>" if math.isfinite(error) else "")
