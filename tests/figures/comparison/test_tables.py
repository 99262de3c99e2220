import re
from html import unescape
from pathlib import Path

import pytest

from confreg.figures.comparison.conditions import conditions_of
from confreg.figures.comparison.runs import RunLeftOut
from confreg.figures.comparison.tables import conditions_table, facts_table, left_out_table, runs_table, settings_table

ATTACK = '<img src=x onerror="attacked()">'


def rows_of(html: str) -> list[list[str]]:
    """Texts of the cells of a table's body."""
    body = html[html.index("<tbody>") :]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]
    return [[unescape(re.sub("<[^>]+>", " ", cell)).strip() for cell in row] for row in cells]


def values_of(html: str, column: int) -> list[str]:
    rows = re.findall(r"<tr>(.*?)</tr>", html[html.index("<tbody>") :])
    return [re.findall(r'data-value="([^"]*)"', row)[column] for row in rows]


@pytest.fixture
def conditions(make_compared):
    measures = {"loss_nats": [3.0, 2.0, 1.5], "n_entropy_neurons_control": [0, 0, 0.1], "n_entropy_neurons": [0, 1, 2]}
    runs = [
        make_compared("x/b", seed=1, formed={"entropy": (256, 64)}, lost=1, **measures),
        make_compared("x/a", seed=0, **{**measures, "loss_nats": [3.0, 2.0, 2.5]}),
        make_compared("x/c", seed=2, facts={"status": "failed", "error": "boom"}, **measures),
        make_compared("y/d", {"optimizer.weight_decay": 0.1}, seed=0),
    ]
    return conditions_of(runs, Path("x"))


def test_a_condition_lists_its_finished_seeds_in_order_with_what_formed_and_was_lost(conditions):
    rows = {row[0]: row[1:] for row in rows_of(conditions_table(conditions))}
    dash = ["–", "–", "–"]
    entropy = ["0, 2 (1 lost)", "64", "0.1"]
    assert rows["optimizer.weight_decay=1.0"] == ["2 (+1)", "0, 1", *entropy, "0, 0", "–", "–", "2.000 1.500 to 2.500", "–"]
    assert rows["optimizer.weight_decay=0.1"] == ["1", "0", "0", *dash[:2], "0", *dash[:2], "–", "–"]


def test_cells_sort_by_their_numbers_and_unknown_ones_have_none(conditions):
    assert values_of(conditions_table(conditions), 3) == ["0.0", "1.0"]
    assert values_of(conditions_table(conditions), 4) == ["", "64.0"]


def test_a_run_has_a_row_with_its_state_and_its_end(conditions, tmp_path):
    rows = {row[0]: row[1:] for row in rows_of(runs_table(conditions, tmp_path / "comparison.html"))}
    assert rows["x/b"] == ["optimizer.weight_decay=1.0", "1", "finished", "128", "2", "2 (1 lost)", "64", "–", "0", "–", "1.500", "–"]
    assert rows["x/c"][2] == "failed: boom"


def test_a_run_with_a_page_is_linked_from_wherever_the_comparison_lies(conditions, tmp_path):
    (tmp_path / "x" / "b").mkdir(parents=True)
    (tmp_path / "x" / "b" / "report.html").touch()
    assert '<a href="x/b/report.html">x/b</a>' in runs_table(conditions, tmp_path / "comparison.html")
    assert '<a href="../x/b/report.html">x/b</a>' in runs_table(conditions, tmp_path / "elsewhere" / "comparison.html")
    assert "x/a/report.html" not in runs_table(conditions, tmp_path / "comparison.html")


def test_a_link_to_a_folder_with_a_scheme_in_its_name_stays_a_path(make_compared, tmp_path):
    run = make_compared('javascript:alert(1)"')
    run.path.mkdir()
    (run.path / "report.html").touch()
    html = runs_table(conditions_of([run], tmp_path), tmp_path / "comparison.html")
    assert 'href="javascript%3Aalert%281%29%22/report.html"' in html


def test_the_settings_that_differ_lie_with_the_shorter_side_across(make_compared):
    two = conditions_of([make_compared("a", {"b": 1, "c": "x", "d": 0}), make_compared("b", {"b": 2, "d": 0})], Path("x"))
    assert rows_of(settings_table(two)) == [["b", "1", "2"], ["c", "x", "–"]]
    three = conditions_of([make_compared(str(at), {"b": at}) for at in range(3)], Path("x"))
    assert rows_of(settings_table(three)) == [["b=0", "0"], ["b=1", "1"], ["b=2", "2"]]
    assert settings_table(three[:0]) == ""


def test_facts_that_differ_tell_which_runs_have_which(make_compared):
    facts = [{"versions": {"torch": "2.13", "numpy": "2.4"}, "git": {"commit": "a" * 40}}, {"versions": {"torch": "2.12", "numpy": "2.4"}}]
    runs = [make_compared(f"run{at}", facts=facts[at // 2]) for at in range(3)]
    assert rows_of(facts_table(runs)) == [
        ["versions.torch", "2.13", "2", "run0, run1"],
        ["versions.torch", "2.12", "1", "run2"],
        ["git.commit", "aaaaaaaaaa", "2", "run0, run1"],
        ["git.commit", "not known", "1", "run2"],
    ]
    assert facts_table(runs[:2]) == ""


def test_hostile_names_values_and_reasons_stay_text(make_compared, tmp_path):
    runs = [
        make_compared(ATTACK.replace("/", ""), {ATTACK: ATTACK}, facts={"versions": {ATTACK: ATTACK}, "status": ATTACK}),
        make_compared("b", {ATTACK: 1}, seed=ATTACK),
    ]
    conditions = conditions_of(runs, Path("x"))
    tables = [conditions_table(conditions), runs_table(conditions, tmp_path / "c.html"), settings_table(conditions), facts_table(runs)]
    html = "".join([*tables, left_out_table([RunLeftOut(ATTACK, ATTACK)])])
    assert "<img" not in html
    assert html.count("&lt;img src=x onerror=&quot;attacked()&quot;&gt;") > 8
