"""The card of neurons that were replaced together."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from confreg.figures.groups_table import groups_card
from confreg.figures.page import page_html
from confreg.figures.run_records import ReportError, read_run
from confreg.records.schema import GROUPS, table_of
from confreg.records.store import RecordStore

MEMBERS = {"pair": [3, 17], "many": list(range(20, 30))}
COLUMNS: dict[str, Any] = {
    "layer": 1,
    "group": ["many", "pair", "unknown"],
    "n_neurons": [10, 2, 4],
    "entropy_effect": [0.5, 0.121716, 0.0],
    "entropy_effect_stderr": [0.01, 0.0043, math.nan],
    "entropy_norm_mediated_share": [0.25, 0.862122, math.nan],
    "loss_change": [-0.002, 0.0084, 0.0],
}


@pytest.fixture
def run(make_run: Callable[..., Path]) -> Path:
    run = make_run(steps=(0, 8), n_neurons=32, settings={"measure": {"request": {"groups": MEMBERS}}})
    store = RecordStore(run / "records")
    for step, columns in ((0, {**COLUMNS, "entropy_effect": 9.0}), (8, COLUMNS)):
        store.write("groups", step, table_of("groups", columns, 3, {"step": step, "tokens_seen": 0, "weights_sha256": "ab"}))
    return run


def cells_of(card: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(<td.*?)</tr>", card)
    return [[re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td.*?</td>", row)] for row in rows]


def test_each_group_has_a_row_with_its_neurons_and_its_effects_at_the_last_step(run: Path) -> None:
    card = groups_card(read_run(run))
    many, pair, unknown = cells_of(card)
    assert "at step 8" in card
    assert pair == ["pair", "1.3, 1.17", "0.122 ± 0.0043", "0.86", "–", "–", "0.0084", "–", "–"]
    assert many[:3] == ["many", "1.20, 1.21, 1.22, 1.23, 1.24, 1.25, 1.26, 1.27 and 2 more", "0.5 ± 0.01"]
    assert many[6] == "−0.002"
    assert unknown[:4] == ["unknown", "4 neurons", "0", "–"]
    assert set(re.findall(r"<code>groups\.(\w+)</code>", card)) <= set(GROUPS.names)


def test_the_page_has_the_card_only_where_there_are_groups(run: Path, make_run: Callable[..., Path], tmp_path: Path) -> None:
    assert 'id="groups"' in page_html(read_run(run))
    (run / "records" / "groups" / "step=00000008.parquet").write_bytes(b"damaged")
    with pytest.raises(ReportError, match="cannot be read"):
        read_run(run)
    for path in (run / "records" / "groups").iterdir():
        path.unlink()
    without = page_html(read_run(run))
    assert 'id="groups"' not in without
    assert "$groups" not in without


def test_the_name_of_a_group_stays_text(run: Path) -> None:
    records = read_run(run)
    records.groups.loc[0, "group"] = "<script>alert(1)</script>"
    assert "<script>" not in groups_card(records)
