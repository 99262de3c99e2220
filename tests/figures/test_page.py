import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files

import pytest

from confreg.figures.page import SCRIPTS, page_html, write_page
from confreg.figures.page_data import page_data
from confreg.figures.run_records import ReportError, read_run
from confreg.records.schema import TABLES, table_of
from confreg.records.store import RecordStore

EIGHT_MB = 8_000_000


def own_text(html: str) -> str:
    """The page without plotly's own code."""
    start = html.index("<script>/**")
    return html[:start] + html[html.index("</script>", start) :]


def block_of(html: str) -> dict:
    match = re.search(r'<script type="application/json" id="run-data">(.*?)</script>', html, re.DOTALL)
    assert match is not None
    return json.loads(match[1])


def test_the_page_of_a_run_asks_for_nothing_outside_itself(make_run):
    run = make_run(steps=(0, 1, 1500), n_neurons=16)
    html = write_page(run).read_text(encoding="utf-8")
    assert "Content-Security-Policy\" content=\"default-src 'none'" in html
    assert not re.findall(r"(?:src|href|url|fetch|import)\s*[=(]\s*[\"']?(?:https?:)?//", own_text(html))
    assert "$" + "title" not in html
    assert block_of(html)["steps"] == [0, 1, 1500]
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "records", "report.html", "run.json"]


@pytest.mark.heavy
def test_a_run_of_2000_neurons_and_25_steps_stays_under_8_mb(make_run):
    run = make_run(steps=(*range(10), *range(100, 1600, 100)), n_neurons=1000, n_layers=2)
    html = page_html(read_run(run))
    assert len(html.encode()) < EIGHT_MB
    assert block_of(html)["neurons"]["n_measured"] == 2000


def test_hostile_names_stay_text(make_run):
    run = make_run(steps=(0,), n_neurons=16)
    (run / "config.yaml").write_text('run: {name: "</script><script>alert(1)</script>"}\nnote: "<img src=x>"\n', encoding="utf-8")
    html = own_text(page_html(read_run(run)))
    assert "<script>alert(1)" not in html
    assert "<img" not in html
    assert block_of(html)["run"].startswith("</script>")


def test_a_run_whose_values_are_all_null_has_a_page(tmp_path):
    identity = {"step": 0, "tokens_seen": None, "weights_sha256": None}
    store = RecordStore(tmp_path / "records")
    store.write("neurons", 0, table_of("neurons", {"layer": 1, "neuron": [0, 1]}, 2, identity))
    store.write("model", 0, table_of("model", {}, 1, identity))
    html = write_page(tmp_path).read_text(encoding="utf-8")
    assert block_of(html)["neurons"]["w_out_norm"] == [[None, None]]
    assert "This run has no config.yaml." in html


def test_a_page_that_cannot_be_written_is_refused_by_name_and_the_old_one_stays(make_run, tmp_path):
    run = make_run(steps=(0,), n_neurons=16)
    with pytest.raises(ReportError, match=r"absent/page\.html cannot be written .*--out"):
        write_page(run, tmp_path / "absent" / "page.html")
    old = tmp_path / "folder.html"
    old.mkdir()
    with pytest.raises(ReportError, match="cannot be written"):
        write_page(run, old)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_the_scripts_ask_only_for_places_and_columns_that_the_page_has(make_run):
    folder = files("confreg.figures")
    script = "".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    data = page_data(read_run(make_run(steps=(0, 1), n_neurons=16)))
    html = "".join((folder / name).read_text(encoding="utf-8") for name in ("frame.html", "page.html"))
    places = set(re.findall(r'(?:getElementById|drawOverSteps|showEmpty)\("([\w-]+)"', script))
    assert places <= set(re.findall(r'id="([\w-]+)"', html))
    assert set(re.findall(r'\bid: "([\w-]+)"', script)) <= set(re.findall(r'id="([\w-]+)"', html))
    for owner, part in (
        ("points", data["neurons"]),
        ("run.model", data["model"]),
        ("run.spells", data["spells"]),
        ("run.rules", data["rules"]),
        ("spectrum", data["spectrum"]),
    ):
        assert set(re.findall(rf"\b{owner}\.(\w+)", script)) <= {*part}, owner
    assert set(re.findall(r'(?:get\(|column: )"(\w+)"', script)) <= {*data["neurons"]}
    thresholds = {*data["rules"], *data["neurons"]["thresholds"][0]["1"]}
    assert set(re.findall(r'(?:thresholdAt\(|threshold: )"(\w+)"', script)) <= thresholds
    assert set(re.findall(r'(?:modelLine|row)\("(\w+)"', script)) <= {*data["model"]}


def test_every_panel_names_columns_that_the_records_have():
    html = (files("confreg.figures") / "page.html").read_text(encoding="utf-8")
    panels = re.findall(r'<p class="source">(.*?)</p>', html)
    assert len(panels) == 14
    for table, column in re.findall(r"<code>(\w+)\.(\w+)</code>", " ".join(panels)):
        assert column in TABLES[table].names, (table, column)


def test_the_page_is_made_without_torch():
    script = "import sys, confreg.figures.page, confreg.figures.summary; print({*sys.modules} & {'torch', 'hydra'})"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ({"kind": "synthetic"}, "synthetic language"),
        ({"kind": "text", "source": "/somewhere/my_texts"}, "my_texts"),
        ({"kind": "text", "source": "hub:owner/name"}, "hub:owner/name"),
        ({"kind": "mixture", "parts": {"known": {}, "speeches": {}}}, "mixture of known, speeches"),
    ],
)
def test_the_head_of_the_page_says_what_was_read_and_how_large_the_model_is(make_run, language, words):
    records = read_run(make_run(steps=(0, 1), n_neurons=16))
    html = page_html(replace(records, facts={**records.facts, "language": language}))
    assert f"<dt>data</dt><dd>{words}</dd>" in html
    assert "2 layers · width " in html
    assert "<dt>data</dt>" not in page_html(replace(records, facts={}))
