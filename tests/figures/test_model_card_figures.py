"""The figures of a model card: which are drawn, that they are the same each time, and that names can be read."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
from matplotlib.text import Annotation
from PIL import Image

from confreg.figures.model_card.figures import write_figures
from confreg.figures.model_card.look import wear_look
from confreg.figures.model_card.over_steps import counts_figure, training_figure
from confreg.figures.model_card.plane import plane_figure
from confreg.figures.model_card.subject import records_until
from confreg.figures.run_records import RunRecords

ALL = ["figures/training.png", "figures/named_neurons.png", "figures/norm_and_logit_var.png"]


def records_of(run: Path, step: int = 1500) -> RunRecords:
    records = records_until(run, step, f"{step:064x}")
    assert records is not None
    return records


def paths_of(records: RunRecords, folder: Path) -> list[str]:
    folder.mkdir()
    drawn = [figure.path for figure in write_figures(records, folder)]
    assert drawn == [path for path in ALL if (folder / path).exists()]
    return drawn


def test_three_figures_are_written_large_enough_for_a_card(finished_run: Path, tmp_path: Path) -> None:
    assert paths_of(records_of(finished_run), tmp_path / "card") == ALL
    for path in ALL:
        with Image.open(tmp_path / "card" / path) as image:
            assert image.format == "PNG"
            assert image.width == 1440
            assert "Software" not in image.info


def test_the_same_records_give_the_same_bytes_whatever_the_readers_own_look(finished_run: Path, tmp_path: Path) -> None:
    records = records_of(finished_run)
    paths_of(records, tmp_path / "first")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 20}):
        paths_of(records, tmp_path / "second")
        assert matplotlib.rcParams["font.size"] == 30
    for path in ALL:
        assert (tmp_path / "first" / path).read_bytes() == (tmp_path / "second" / path).read_bytes()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"n_documents": 8, "steps": (0, 1500)}, [ALL[0], ALL[2]]),  # nothing can be named
        ({"steps": (1500,)}, [ALL[2]]),  # one point is no line
        ({"bayes": False, "steps": (0, 1500)}, ALL),
    ],
)
def test_a_figure_with_nothing_to_show_is_left_out(
    options: dict, expected: list[str], make_run: Callable[..., Path], tmp_path: Path
) -> None:
    assert paths_of(records_of(make_run(n_neurons=16, **options)), tmp_path / "card") == expected


def test_the_best_predictor_is_drawn_only_where_it_is_known(make_runs: Callable[..., Path]) -> None:
    for bayes, n_lines in ((True, 2), (False, 1)):
        figure = training_figure(records_of(make_runs(f"bayes={bayes}", bayes=bayes), 1024))
        assert figure is not None
        assert [len(axes.lines) for axes in figure.figure.axes] == [n_lines, n_lines]
        assert ("best predictor" in figure.caption) == ("best predictor" in figure.alt) == bayes


def test_the_counts_stand_beside_the_control_where_one_was_drawn(make_runs: Callable[..., Path]) -> None:
    records = records_of(make_runs("a"), 1024)
    with_control = counts_figure(records)
    without = counts_figure(replace(records, model=records.model.assign(n_entropy_neurons_control=None, n_frequency_neurons_control=None)))
    assert with_control is not None
    assert without is not None
    assert [len(each.figure.axes[0].lines) for each in (with_control, without)] == [4, 2]
    assert "control" not in without.alt


def test_rows_without_a_norm_or_a_log_var_are_no_points(make_runs: Callable[..., Path]) -> None:
    records = records_of(make_runs("a"), 1024)
    assert plane_figure(replace(records, neurons=records.neurons.assign(logit_var=None))) is None
    figure = plane_figure(
        replace(records, neurons=records.neurons.assign(logit_var=records.neurons["logit_var"].where(lambda v: v.index % 2 == 0)))
    )
    assert figure is not None
    assert "of 8 neurons of layer 1" in figure.alt


def test_names_of_many_named_neurons_cover_neither_each_other_nor_the_edge(make_run: Callable[..., Path]) -> None:
    records = records_of(make_run(n_neurons=64, steps=(0, 1500)))
    crowd = records.neurons["neuron"] < 20
    neurons = records.neurons.assign(is_entropy_neuron=crowd, is_frequency_neuron=records.neurons["neuron"].between(3, 6))
    with matplotlib.rc_context():
        wear_look()
        figure = plane_figure(replace(records, neurons=neurons))
        assert figure is not None
        figure.figure.draw_without_rendering()
        axes = figure.figure.axes[0]
        labels = [text for text in axes.texts if isinstance(text, Annotation)]
        boxes = [super(Annotation, text).get_window_extent() for text in labels]
        inside = axes.get_window_extent()
    assert len(labels) == 20
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1 for box in boxes)
    overlapping = [(a, b) for a, b in itertools.combinations(range(20), 2) if boxes[a].overlaps(boxes[b])]
    assert not overlapping


def test_kinds_differ_by_sign_and_not_by_colour_alone(finished_run: Path) -> None:
    figure = plane_figure(records_of(finished_run))
    assert figure is not None
    signs = [points.get_paths()[0].vertices.tolist() for points in figure.figure.axes[0].collections]
    assert len(signs) == 3
    assert all(a != b for a, b in itertools.combinations(signs, 2))
