"""The page of a run: one HTML file with everything in it, which opens offline and asks for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from confreg.figures.facts_tables import facts_tables
from confreg.figures.findings import findings, large_number
from confreg.figures.groups_table import groups_card
from confreg.figures.html_file import framed, text_of, write_html
from confreg.figures.naming_rules import naming_rules
from confreg.figures.page_data import page_data
from confreg.figures.run_records import RunRecords, read_run, setting_of

# In this order: each file uses only what stands before it.
SCRIPTS = (
    *("axes.js", "look.js", "over_steps.js", "timeline.js", "plane.js", "trajectories.js"),
    *("neurons.js", "rule_planes.js", "spectrum.js", "table.js", "page.js"),
)


def write_page(run: Path, out: Path | None = None, facts: Mapping[str, Any] | None = None) -> Path:
    """Write the page of a measured run.

    Args:
        run: a run folder with ``records/``.
        out: the file to write, complete or not at all; default ``run/report.html``.
        facts: what ``run.json`` will say once the page is there, and the page says already.

    Returns:
        Path of the page.

    Raises:
        ReportError: the run cannot be read, or the page cannot be written.
    """
    run = Path(run)
    target = run / "report.html" if out is None else Path(out)
    records = read_run(run)
    return write_html(target, page_html(replace(records, facts={**records.facts, **(facts or {})})))


def page_html(records: RunRecords) -> str:
    """The whole page as text, under 8 MB."""
    main = Template(text_of("page.html")).substitute(
        title=escape(records.name),
        status=escape(str(records.facts.get("status", "unknown"))),
        strip=_strip(records),
        findings=" ".join(f"<p>{escape(sentence)}</p>" for sentence in findings(records)),
        rules="".join(f"<p>{escape(sentence)}</p>" for sentence in naming_rules(records.config)),
        groups=groups_card(records),
        configuration=facts_tables(records.config) or "<p>This run has no config.yaml.</p>",
        facts=facts_tables(records.facts) or "<p>This run has no run.json.</p>",
    )
    return framed(main, title=records.name, styles=("page.css",), scripts=SCRIPTS, data=page_data(records))


def _strip(records: RunRecords) -> str:
    """The header's short facts as a definition list; a fact that the run does not tell is left out."""
    shown = {name: value for name, value in _short_facts(records).items() if value}
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in shown.items())


def _short_facts(records: RunRecords) -> dict[str, str]:
    config, facts, row = records.config, records.facts, records.model_at_last()
    sizes = {"n_layer": "{} layers", "d_model": "width {}", "d_mlp": "{} neurons in each", "n_head": "{} heads"}
    values = {words: setting_of(config, f"model.{key}") for key, words in sizes.items()}
    known = [words.format(value) for words, value in values.items() if value is not None]
    n_parameters = setting_of(facts, "model.n_parameters")
    documents, positions = row.get("n_documents", 0), row.get("n_positions", 0)
    return {
        "model": " · ".join([_model_in_words(config), *known]).strip(" ·"),
        "data": _data_in_words(setting_of(facts, "language")),
        "parameters": f"{n_parameters:,}" if isinstance(n_parameters, int) else "",
        "steps": f"{records.steps[-1]:,} ({len(records.steps)} measured)" if records.knows_steps else "",
        "target tokens": large_number(row["tokens_seen"]) if row.get("tokens_seen", 0) > 0 else "",
        "measured on": f"{positions:,.0f} positions of {documents:,.0f} documents" if positions > 0 and documents > 0 else "",
        "seed": str(setting_of(config, "seed", setting_of(facts, "seed", ""))),
    }


def _model_in_words(config: dict[str, Any]) -> str:
    """The family of a model from scratch, or whose weights it began with, or whose were measured."""
    found = (setting_of(config, key) for key in ("model.family", "model.source", "source"))
    return next((str(each) for each in found if each), "")


def _data_in_words(language: Any) -> str:
    """What the model read, as a reader would call it; empty where ``run.json`` does not tell."""
    if not isinstance(language, Mapping):
        return ""
    kind, source, parts = (language.get(key) for key in ("kind", "source", "parts"))
    if kind == "mixture" and isinstance(parts, Mapping):
        return f"mixture of {', '.join(map(str, parts))}"
    if kind == "text" and isinstance(source, str):
        return source if source.startswith("hub:") else Path(source).name
    return "synthetic language" if kind == "synthetic" else ""
