"""The figures of a model card as PNG files: the same records give the same bytes, on the same versions."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg

from confreg.figures.model_card.look import DPI, CardFigure, wear_look
from confreg.figures.model_card.over_steps import counts_figure, training_figure
from confreg.figures.model_card.plane import plane_figure
from confreg.figures.run_records import RunRecords

FIGURES = (training_figure, counts_figure, plane_figure)


def write_figures(records: RunRecords, folder: Path) -> list[CardFigure]:
    """Draw what the records have into ``folder/figures``; a figure with nothing to show is left out.

    Raises:
        OSError: of a full disk or a missing permission.
    """
    with matplotlib.rc_context():
        wear_look()
        drawn = [figure for figure in (draw(records) for draw in FIGURES) if figure is not None]
        for each in drawn:
            target = folder / each.path
            target.parent.mkdir(exist_ok=True)
            each.figure.set_dpi(DPI)
            FigureCanvasAgg(each.figure).print_png(target, metadata={"Software": None})  # which would name a version
    return drawn
