"""Configuration, versions and other nested facts as small HTML tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

LONGEST_VALUE = 80  # characters of a value in a cell; the rest is in config.yaml and run.json


def facts_tables(facts: Mapping[str, Any]) -> str:
    """One table for each top-level mapping, and one for the loose values before them; keys below a group are dotted.

    Returns:
        HTML, every key and value escaped; empty for no facts.
    """
    groups = {key: value for key, value in facts.items() if isinstance(value, Mapping) and value}
    loose = {key: value for key, value in facts.items() if key not in groups}
    tables = [_table("", loose)] if loose else []
    return "\n".join([*tables, *(_table(str(name), group) for name, group in groups.items())])


def _table(heading: str, group: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in _leaves(group))
    title = f"<caption>{escape(heading.replace('_', ' '))}</caption>" if heading else ""
    return f'<table class="facts">{title}<tbody>{rows}</tbody></table>'


def _leaves(group: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in group.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _as_text(value)


def _as_text(value: Any) -> str:
    if value is None or value == "" or value == [] or value == {}:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
