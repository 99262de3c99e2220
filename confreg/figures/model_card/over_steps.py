"""Figures of a model card over the training: loss and entropy, and how many neurons are named."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from confreg.figures.findings import why_nothing_is_named
from confreg.figures.model_card.look import BEST, INK, KIND_COLOURS, KIND_SIGNS, WIDTH, CardFigure, put_step_axis
from confreg.figures.naming_rules import control_directions_in_words
from confreg.figures.page_data import model_columns
from confreg.figures.run_records import RunRecords

STEPS_MIN = 2  # one point is no line; its numbers stand in the card's table
SIGN_SIZES = {"entropy": 8.5, "token-frequency": 5}  # where both lie on each other, both are seen
COUNTS = {"entropy": "n_entropy_neurons", "token-frequency": "n_frequency_neurons"}
TRUTH = " Dashed: the best predictor from the same context, which knows the language."


def training_figure(records: RunRecords) -> CardFigure | None:
    """Loss and entropy beside each other; None where neither was measured, or at one step only."""
    columns = model_columns(records.model)
    panels = [(name, [f"{name}_nats", f"bayes_{name}_nats"]) for name in ("loss", "entropy") if _has(columns, f"{name}_nats")]
    if not panels or len(records.steps) < STEPS_MIN:
        return None
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    for axes, (name, (own, best)) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.plot(columns["step"], _numbers(columns, own), color=INK, marker="o", markersize=4, label="model")
        if _has(columns, best):
            axes.plot(columns["step"], _numbers(columns, best), color=BEST, linestyle="--", label="best predictor")
        axes.set_title(f"{name.capitalize()} (nats per token)")
        axes.legend(loc="best")
        put_step_axis(axes, records.steps[-1])
    known = _has(columns, "bayes_loss_nats")
    names = " and ".join(name for name, _ in panels)
    alt = f"{names.capitalize()} over the optimizer steps{', with those of the best predictor' if known else ''}."
    return CardFigure(figure, "figures/training.png", alt, f"{names.capitalize()} on the measured text.{TRUTH if known else ''}")


def counts_figure(records: RunRecords) -> CardFigure | None:
    """How many neurons the rules name at each step, beside the control; None where they can name nobody, or of one step only."""
    columns = model_columns(records.model)
    kinds = [kind for kind, column in COUNTS.items() if _has(columns, column)]
    if not kinds or len(records.steps) < STEPS_MIN or why_nothing_is_named(records):
        return None
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    axes = figure.subplots()
    for kind in kinds:
        _draw_kind(axes, columns, kind)
    axes.set_title("Named neurons")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_ylim(*_with_room(axes.get_ylim()[1]))
    axes.legend(loc="upper left", ncols=2)
    put_step_axis(axes, records.steps[-1])
    has_control = any(_has(columns, f"{COUNTS[kind]}_control") for kind in kinds)
    caption = "How many neurons the rules name at each measured step."
    caption += f" Dotted: how many among {control_directions_in_words(records.config)}, by the same rules." if has_control else ""
    alt = f"Number of named {' and '.join(kinds)} neurons over the optimizer steps{', beside the control' if has_control else ''}."
    return CardFigure(figure, "figures/named_neurons.png", alt, caption)


def _draw_kind(axes: Axes, columns: dict[str, Any], kind: str) -> None:
    column = COUNTS[kind]
    look: dict[str, Any] = {"color": KIND_COLOURS[kind], "marker": KIND_SIGNS[kind], "markersize": SIGN_SIZES[kind]}
    axes.plot(columns["step"], _numbers(columns, column), label=kind, **look)
    if _has(columns, f"{column}_control"):
        dotted = {**look, "linestyle": ":", "linewidth": 1.6, "markerfacecolor": "white", "zorder": 1.5}
        axes.plot(columns["step"], _numbers(columns, f"{column}_control"), label=f"{kind}, control", **dotted)


def _with_room(highest: float) -> tuple[float, float]:
    """Limits with a place for the legend above the lines."""
    top = max(1.0, highest)
    return -0.05 * top, 1.35 * top


def _has(columns: dict[str, Any], name: str) -> bool:
    return any(value is not None for value in columns[name])


def _numbers(columns: dict[str, Any], name: str) -> np.ndarray:
    return np.array(columns[name], dtype="float64")  # null becomes nan, where a line has a gap
