"""How the figures of a model card look: as those of the page, in light colours, and large enough for a card's narrow column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

DPI = 160
WIDTH = 9.0  # inches; a card shows it at about half of the pixels
INK, QUIET, BEST, POINT = "#1f2933", "#56616e", "#2f7d5b", "#8a95a1"
# Blue and orange, which all eyes tell apart, and a sign of its own for each kind.
KIND_COLOURS = {"entropy": "#24588c", "token-frequency": "#b4541f", "both": "#7a4b9d"}
KIND_SIGNS = {"entropy": "D", "token-frequency": "s", "both": "*"}
MOST_TICKS = 6
TEXT = {"font.family": "DejaVu Sans", "font.size": 12, "axes.titlesize": 13, "axes.titlelocation": "left", "legend.fontsize": 11.5}
INKS = dict.fromkeys(["text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"], INK)
FRAME = dict.fromkeys(["axes.edgecolor", "xtick.color", "ytick.color"], "#7b8794") | {"axes.spines.top": False, "axes.spines.right": False}
GRID = {"axes.grid": True, "grid.color": "#e0e5ea", "axes.axisbelow": True, "legend.frameon": False, "lines.linewidth": 2.0}
LOOK: Any = {**TEXT, **INKS, **FRAME, **GRID}  # Any: matplotlib types its many keys one by one


@dataclass(frozen=True)
class CardFigure:
    """A drawn figure, its file relative to the card, and what it shows in words.

    Attributes:
        path: of the file, with slashes.
        alt: for those who do not see it.
        caption: how to read it.
    """

    figure: Figure
    path: str
    alt: str
    caption: str


def wear_look() -> None:
    """Make this look the current one; the reader's own matplotlibrc plays no part."""
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(LOOK)


def put_step_axis(axes: Axes, last: int) -> None:
    """Optimizer steps at log2(step + 1), as on the page: step 0 has no logarithm."""
    axes.set_xscale("function", functions=(lambda step: np.log2(np.maximum(step, -0.99) + 1), lambda place: np.exp2(place) - 1))
    doublings = int(np.log2(max(1, last)))
    stride = max(1, -(-doublings // MOST_TICKS))
    axes.xaxis.set_major_locator(FixedLocator([0, *(2**power for power in range(0, doublings + 1, stride))]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    end = np.log2(max(1, last) + 1)
    axes.set_xlim(np.exp2(-0.03 * end) - 1, np.exp2(1.03 * end) - 1)
    axes.set_xlabel("optimizer step (log scale, from 0)")
