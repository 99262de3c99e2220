"""Norm against LogitVar of the last measured layer's neurons, as a model card draws it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from confreg.figures.histories import KINDS
from confreg.figures.model_card.look import KIND_COLOURS, KIND_SIGNS, POINT, QUIET, WIDTH, CardFigure
from confreg.figures.run_records import RunRecords

MOST_LABELS = 24  # of named neurons, the largest norms first; all have their sign
SIZES = {"entropy": 70, "token-frequency": 70, "both": 190}
# Where a label may lie, from its point: (right, up) in points, nearest first.
REACHES = (11, 22, 34, 48)
PLACES = [
    (right * reach, up * reach) for reach in REACHES for right, up in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
]


def plane_figure(records: RunRecords) -> CardFigure | None:
    """The neurons of the last measured layer at the last step, named ones with their sign and name; None where nothing can be drawn."""
    last = records.neurons[records.neurons["step"] == records.steps[-1]]
    layer = int(last["layer"].max())
    rows = last[(last["layer"] == layer) & (last["w_out_norm"] > 0) & (last["logit_var"] > 0)]
    if rows.empty:
        return None
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    FigureCanvasAgg(figure)  # labels are placed by the pixels that they cover
    axes = figure.subplots()
    kinds = _kinds(rows)
    _draw_points(axes, rows, kinds)
    _put_axes(axes, rows, layer, records.steps[-1])
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, handletextpad=0.3, columnspacing=1.2)
    _label(figure, rows[kinds != ""].nlargest(MOST_LABELS, "w_out_norm"), kinds)
    caption = (
        f"All neurons of layer {layer}: entropy neurons write much and favour no token, so they lie to the lower right. "
        "The crossing lines are the layer's medians."
    )
    alt = f"Norm against LogitVar of {len(rows)} neurons of layer {layer}, of which {int((kinds != '').sum())} are named."
    return CardFigure(figure, "figures/norm_and_logit_var.png", alt, caption)


def _kinds(rows: pd.DataFrame) -> pd.Series:
    entropy, frequency = (rows[column].astype(bool) for column in KINDS.values())
    names = np.select([entropy & frequency, entropy, frequency], ["both", "entropy", "token-frequency"], default="")
    return pd.Series(names, index=rows.index)


def _draw_points(axes: Axes, rows: pd.DataFrame, kinds: pd.Series) -> None:
    plain = rows[kinds == ""]
    axes.scatter(plain["w_out_norm"], plain["logit_var"], s=30, color=POINT, alpha=0.75, linewidths=0, label="not named")
    for kind, colour in KIND_COLOURS.items():
        named = rows[kinds == kind]
        if len(named):
            look: dict[str, Any] = {"s": SIZES[kind], "color": colour, "marker": KIND_SIGNS[kind], "edgecolors": "white", "linewidths": 0.8}
            axes.scatter(named["w_out_norm"], named["logit_var"], label=kind, zorder=3, **look)


def _put_axes(axes: Axes, rows: pd.DataFrame, layer: int, step: int) -> None:
    axes.set_yscale("log")
    axes.axvline(rows["w_out_norm"].median(), color=QUIET, linewidth=1, linestyle=":", zorder=1)
    axes.axhline(rows["logit_var"].median(), color=QUIET, linewidth=1, linestyle=":", zorder=1)
    axes.margins(x=0.1, y=0.12)
    axes.set_title(f"Neurons of layer {layer} at step {step:,}")
    axes.set_xlabel("norm of the output weights")
    axes.set_ylabel("LogitVar (log scale)")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _label(figure: Figure, named: pd.DataFrame, kinds: pd.Series) -> None:
    """Each name takes the first place where it covers neither a named point, nor an earlier name, nor the edge."""
    axes = figure.axes[0]
    figure.draw_without_rendering()  # fixes where the points are
    points = axes.transData.transform(named[["w_out_norm", "logit_var"]].to_numpy())
    taken = [Bbox.from_bounds(x - 8, y - 8, 16, 16) for x, y in points * 72 / figure.dpi]
    inside = Bbox(axes.get_window_extent().get_points() * 72 / figure.dpi)
    for kind, row, (x, y) in zip(kinds[named.index], named.to_dict("records"), points * 72 / figure.dpi, strict=True):
        name = f"{row['layer']}.{row['neuron']}"
        right, up, box, is_far = _free_place(x, y, 7.8 * len(name), taken, inside)
        taken.append(box)
        colour = KIND_COLOURS[kind]
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.8} if is_far else None
        place: dict[str, Any] = {"xytext": (right, up), "textcoords": "offset points", "ha": "center", "va": "center"}
        axes.annotate(name, (row["w_out_norm"], row["logit_var"]), color=colour, fontsize=11.5, arrowprops=leader, zorder=4, **place)


def _free_place(x: float, y: float, width: float, taken: Iterable[Bbox], inside: Bbox) -> tuple[float, float, Bbox, bool]:
    """The nearest place that is free, else the last: the middle of the label from its point, its box (all in points), whether it is far."""
    tried = []
    for right, up in PLACES:
        middle = right + np.sign(right) * width / 2, up + np.sign(up) * 3
        box = Bbox.from_bounds(x + middle[0] - width / 2, y + middle[1] - 7.5, width, 15)
        tried.append((*middle, box, max(abs(right), abs(up)) > REACHES[0]))
        is_inside = inside.containsx(box.x0) and inside.containsx(box.x1) and inside.containsy(box.y0) and inside.containsy(box.y1)
        if is_inside and not any(box.overlaps(other) for other in taken):
            break
    return tried[-1]
