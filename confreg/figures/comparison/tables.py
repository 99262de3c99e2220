"""The tables of a comparison as HTML; every name and value escaped, every cell with the value that it sorts by."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

import numpy as np

from confreg.figures.comparison.conditions import Condition
from confreg.figures.comparison.facts import differing_facts
from confreg.figures.comparison.runs import ComparedRun, ComparedRuns, RunLeftOut, state_in_words
from confreg.figures.comparison.words import names_in_words, seeds_in_words, spread, steps_in_words
from confreg.figures.histories import KINDS

RUN_PAGE = "report.html"
CONTROL = {"entropy": "n_entropy_neurons_control", "token-frequency": "n_frequency_neurons_control"}


@dataclass(frozen=True)
class Cell:
    """What a cell shows (already HTML) and what it sorts by; numbers stand to the right, unknown ones come last."""

    html: str
    value: float | str | None = None
    is_text: bool = False

    def __str__(self) -> str:
        is_unknown = self.value is None or (isinstance(self.value, float) and math.isnan(self.value))
        value = "" if is_unknown else escape(str(self.value))
        return f'<td{" class=text" if self.is_text else ""} data-value="{value}">{self.html}</td>'


def text(words: str) -> Cell:
    """A cell of words, or of settings: what looks like a number is sorted as one."""
    return Cell(escape(words), words, is_text=True)


def number(shown: str, value: float | None) -> Cell:
    """A cell that sorts as a number."""
    return Cell(escape(shown), None if value is None else float(value))


Heading = tuple[str, str, str]  # group, title, unit


def stacked(shown: str, value: float | None) -> Cell:
    """The same with what stands in brackets on a line of its own: "0.178 (0.151 to 0.199)"."""
    first, _, rest = shown.partition(" (")
    return Cell(
        escape(first) + (f"<small>{escape(rest.removesuffix(')'))}</small>" if rest else ""), None if value is None else float(value)
    )


def table(headings: Sequence[Heading], rows: Iterable[Sequence[Cell]], name: str) -> str:
    """A table that the page's script can sort: groups of columns where there are any, headings with a second line, and rows."""
    groups = [(group, len(list(columns))) for group, columns in groupby(headings, key=lambda heading: heading[0])]
    above = "".join(f'<th colspan="{width}"{" class=group" if group else ""}>{escape(group)}</th>' for group, width in groups)
    head = "".join(f'<th scope="col">{escape(title)}<small>{escape(unit)}</small></th>' for _, title, unit in headings)
    body = "".join(f"<tr>{''.join(map(str, row))}</tr>" for row in rows)
    start = f'<div class="scroller" tabindex="0" role="region" aria-label="Table of {escape(name)}"><table class="sortable">'
    return f"{start}<thead>{f'<tr>{above}</tr>' if len(groups) > 1 else ''}<tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _headings(*titles: tuple[str, str]) -> list[Heading]:
    return [("", title, unit) for title, unit in titles]


def _of_each_kind(*titles: tuple[str, str]) -> list[Heading]:
    return [(f"{kind} neurons", title, unit) for kind in KINDS for title, unit in titles]


def conditions_table(conditions: Sequence[Condition]) -> str:
    """One row for each condition, over its finished runs."""
    headings = [
        *_headings(("condition", ""), ("runs", "finished"), ("seeds", "")),
        *_of_each_kind(("formed", "in each seed"), ("first formed", "step: median, range"), ("control", "mean")),
        *_headings(("loss", "nats: mean, range"), ("excess loss", "nats: mean, range")),
    ]
    return table(headings, (_condition_row(condition) for condition in conditions), "conditions")


def _condition_row(condition: Condition) -> list[Cell]:
    waiting = len(condition.runs) - len(condition.finished)
    runs = f"{len(condition.finished)}" + (f" (+{waiting})" if waiting else "")
    seeds = seeds_in_words(run.seed for run in condition.finished) or "–"
    start = [text(condition.label), number(runs, len(condition.finished)), text(seeds)]
    ends = [stacked(spread(values), _mean(values)) for values in map(condition.finals, ("loss_nats", "excess_loss_nats"))]
    return [*start, *(cell for kind in KINDS for cell in _formation(condition, kind)), *ends]


def _formation(condition: Condition, kind: str) -> list[Cell]:
    finished = condition.finished
    counts = [len(run.formed_of(kind)) for run in finished]
    first = [int(run.formed_of(kind)["formed_step"].min()) for run in finished if len(run.formed_of(kind))]
    listed = ", ".join(formed_text(run, kind) for run in finished) or "–"
    control = condition.finals(CONTROL[kind])
    return [
        number(listed, float(np.mean(counts)) if counts else None),
        stacked(steps_in_words(first), float(np.median(first)) if first else None),
        number("–" if not len(control) else f"{control.mean():.2g}", _mean(control)),
    ]


def formed_text(run: ComparedRun, kind: str) -> str:
    """How many neurons of a kind formed, and how many of them were lost again: "3", "3 (1 lost)"."""
    formed = len(run.formed_of(kind))
    lost = formed - run.formed_at_end(kind)
    return f"{formed} ({lost} lost)" if lost else str(formed)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def runs_table(conditions: Sequence[Condition], page: Path) -> str:
    """One row for each run, with a link to its own page where it has one.

    Args:
        page: where the comparison will lie; links are relative to it.
    """
    headings = [
        *_headings(("run", ""), ("condition", ""), ("seed", ""), ("state", ""), ("last", "step")),
        *_of_each_kind(("named", "at the end"), ("formed", "neurons"), ("first formed", "step")),
        *_headings(("loss", "nats"), ("excess loss", "nats")),
    ]
    rows = (_run_row(run, condition.label, page) for condition in conditions for run in condition.runs)
    return table(headings, rows, "runs")


def _run_row(run: ComparedRun, label: str, page: Path) -> list[Cell]:
    state = state_in_words(run.path, run.facts) or str(run.facts.get("status") or "unknown")
    seed = run.seed if isinstance(run.seed, int) else None
    start = [Cell(_link(run, page), run.name, is_text=True), text(label), number("–" if seed is None else str(seed), seed), text(state)]
    ends = [number(_decimals(value, 3), value) for value in (run.at_last("loss_nats"), run.at_last("excess_loss_nats"))]
    return [*start, number(f"{run.last_step:,}", run.last_step), *(cell for kind in KINDS for cell in _run_formation(run, kind)), *ends]


def _run_formation(run: ComparedRun, kind: str) -> list[Cell]:
    formed, named = run.formed_of(kind), run.at_last(CONTROL[kind].removesuffix("_control"))
    first = int(formed["formed_step"].min()) if len(formed) else None
    cells = [number(_decimals(named, 0), named), number(formed_text(run, kind), len(formed))]
    return [*cells, number("–" if first is None else f"{first:,}", first)]


def _decimals(value: float, decimals: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{decimals}f}".replace("-", "−")


def _link(run: ComparedRun, page: Path) -> str:
    own = run.path / RUN_PAGE
    if not own.is_file():
        return escape(run.name)
    try:
        address = quote(Path(os.path.relpath(own.resolve(), page.resolve().parent)).as_posix())
    except ValueError:  # on another drive
        return escape(run.name)
    return f'<a href="{escape(address)}">{escape(run.name)}</a>'


def settings_table(conditions: Sequence[Condition]) -> str:
    """The settings in which the conditions differ; empty where they do not. The shorter of the two lies across."""
    keys = list(conditions[0].settings) if conditions else []
    if not keys:
        return ""
    labels = {condition.label: condition.settings for condition in conditions}
    if len(labels) > len(keys):
        rows = [[text(label), *(text(settings[key]) for key in keys)] for label, settings in labels.items()]
        return table(_headings(("condition", ""), *((key, "") for key in keys)), rows, "settings")
    rows = [[text(key), *(text(settings[key]) for settings in labels.values())] for key in keys]
    return table(_headings(("setting", ""), *((label, "") for label in labels)), rows, "settings")


def facts_table(runs: Sequence[ComparedRun]) -> str:
    """Which runs were made with what, where it is not the same for all; empty where it is."""
    rows = [
        [text(key), text(value), number(str(len(names)), len(names)), text(names_in_words(names))] for key, value, names in _fact_rows(runs)
    ]
    return table(_headings(("fact", ""), ("value", ""), ("runs", ""), ("which", "")), rows, "facts") if rows else ""


def _fact_rows(runs: Sequence[ComparedRun]) -> list[tuple[str, str, list[str]]]:
    facts: list[tuple[str, Mapping[str, list[str]]]] = [*differing_facts(runs)]
    return [(key, value, names) for key, values in facts for value, names in values.items()]


def left_out_table(left_out: Sequence[RunLeftOut]) -> str:
    """Runs of which nothing is shown, with the reason; empty where there are none."""
    rows = [[text(run.name), text(run.reason)] for run in left_out]
    return table(_headings(("run", ""), ("why", "")), rows, "runs left out") if rows else ""


def tables_where_needed(compared: ComparedRuns, conditions: Sequence[Condition]) -> dict[str, str]:
    """The tables that stand on the page only where they have a row, by their places."""
    return {"settings": settings_table(conditions), "facts": facts_table(compared.runs), "left_out": left_out_table(compared.left_out)}
