"""The page that compares runs: one HTML file with everything in it, which opens offline and asks for nothing."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from confreg.figures.comparison.conditions import Condition, conditions_of
from confreg.figures.comparison.data import comparison_data, shown_panels
from confreg.figures.comparison.findings import comparison_findings, what_formed_means, what_is_compared
from confreg.figures.comparison.panels import PANELS, PARTS, Panel
from confreg.figures.comparison.places import is_run
from confreg.figures.comparison.remarks import remarks
from confreg.figures.comparison.runs import ComparedRuns
from confreg.figures.comparison.tables import RUN_PAGE, conditions_table, runs_table, tables_where_needed
from confreg.figures.html_file import framed, text_of, write_html
from confreg.figures.run_records import ReportError

PAGE = "comparison.html"
LONGEST_TITLE = 64  # characters
STYLES = ("page.css", "comparison/comparison.css")
# In this order: each file uses only what stands before it.
SCRIPTS = ("axes.js", "look.js", "comparison/comparison.js", "comparison/comparison_tables.js")
OTHERS = {
    "settings": (
        "What differs in the configurations",
        "Without the seed and without what only looks on; – where a setting is null or absent.",
    ),
    "facts": ("What the runs were made with", "Versions, code and conditions, where they are not the same for all runs."),
    "left_out": ("Not shown", "Runs of which nothing can be drawn, with the reason."),
}


def write_comparison(compared: ComparedRuns, out: Path | None = None) -> Path:
    """Write the page on several runs.

    Args:
        compared: what ``comparison.runs.read_compared_runs`` read.
        out: the file to write, complete or not at all; default ``comparison.html`` in the folder in which all runs lie.

    Returns:
        Path of the page.

    Raises:
        ReportError: the page cannot be written, or it would replace the page of a run.
    """
    target = compared.folder / PAGE if out is None else Path(out)
    if target.name == RUN_PAGE and is_run(target.parent):
        raise ReportError(f"{target} is the page of a run; expected another place for a comparison. Choose another --out.")
    return write_html(target, comparison_html(compared, target))


def comparison_html(compared: ComparedRuns, target: Path) -> str:
    """The whole page as text.

    Args:
        target: where it will lie; the links to the pages of the runs are relative to it.
    """
    conditions = conditions_of(compared.runs, compared.folder)
    title = title_of(compared, conditions)
    main = Template(text_of("comparison/comparison.html")).substitute(
        title=escape(title),
        compared=escape(what_is_compared(conditions)),
        findings="".join(f"<div><dt>{escape(label)}</dt><dd>{escape(said)}</dd></div>" for label, said in comparison_findings(conditions)),
        remarks=_remarks(remarks(compared, conditions)),
        panels=_panels(shown_panels(conditions)),
        words=escape(" ".join(what_formed_means())),
        conditions=conditions_table(conditions),
        runs=runs_table(conditions, target),
        others="".join(_card(*OTHERS[name], table) for name, table in tables_where_needed(compared, conditions).items() if table),
    )
    return framed(main, title=title, styles=STYLES, scripts=SCRIPTS, data=comparison_data(conditions))


def title_of(compared: ComparedRuns, conditions: Sequence[Condition]) -> str:
    """Conditions that folders name, by these names; else the folder in which all runs lie."""
    first, last = ", ".join(condition.label for condition in conditions[:-1]), conditions[-1].label
    labels = f"{first} and {last}" if first else last
    return labels if len(labels) <= LONGEST_TITLE and "=" not in labels else compared.folder.resolve().name or "runs"


def _remarks(sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<section class="remarks" aria-label="What to bear in mind"><h2>To bear in mind</h2><ul>{items}</ul></section>'


def _panels(shown: Sequence[Panel]) -> str:
    parts = {part: [panel for panel in panels if panel in shown] for part, panels in PARTS.items()}
    drawn = "".join(
        f'<h2 class="part">{part}</h2><div class="cards">{"".join(map(_panel, panels))}</div>' for part, panels in parts.items() if panels
    )
    missing = [panel.title.lower() for panel in PANELS if panel not in shown]
    return drawn + (f'<p class="note">No run has recorded: {escape(", ".join(missing))}.</p>' if missing else "")


def _panel(panel: Panel) -> str:
    columns = " ".join(f"<code>{escape(column)}</code>" for column in panel.source)
    return (
        f'<section class="card"><h3>{escape(panel.title)}</h3><p class="read">{escape(panel.read)}</p>'
        f'<div class="figure" id="{panel.measure}" role="img" aria-label="{escape(panel.title)} over optimizer steps"></div>'
        f'<p class="source">columns: {columns}</p></section>'
    )


def _card(title: str, read: str, table: str) -> str:
    return f'<section class="card"><h2>{title}</h2><p class="read">{read}</p>{table}</section>'
