"""The page on columns names every column there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from confreg.records.schema import IDENTITY, OPTIONAL_TABLES, TABLES

TEXT = (Path(__file__).parents[2] / "docs" / "columns.md").read_text(encoding="utf-8")
DERIVED = ("_stderr", "_low")


def columns_in(part: str) -> set[str]:
    """Names in code type in the first cell of each row of a table."""
    rows = (line for line in part.splitlines() if line.startswith("| `"))
    return {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}


def part_about(table: str) -> str:
    return next(part for part in TEXT.split("\n## ") if part.startswith(f"`{table}`"))


@pytest.mark.parametrize("table", [*TABLES, *OPTIONAL_TABLES])
def test_every_column_of_a_table_is_explained_and_nothing_else_is(table: str) -> None:
    own = {name for name in (TABLES | OPTIONAL_TABLES)[table].names if name not in IDENTITY and not name.endswith(DERIVED)}
    assert columns_in(part_about(table)) == own


def test_the_columns_of_every_table_are_explained_once() -> None:
    shared = next(part for part in TEXT.split("\n## ") if part.startswith("In every table"))
    assert columns_in(shared) == set(IDENTITY)
