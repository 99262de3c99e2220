import json
import re
from importlib.resources import files

import pytest

from confreg.figures.comparison.conditions import conditions_of
from confreg.figures.comparison.data import comparison_data
from confreg.figures.comparison.measures import MEASURES
from confreg.figures.comparison.page import SCRIPTS, title_of, write_comparison
from confreg.figures.comparison.panels import PANELS
from confreg.figures.comparison.runs import ComparedRuns, read_compared_runs
from confreg.figures.run_records import ReportError

OTHER = {"optimizer": {"weight_decay": 0.25}}


def own_text(html: str) -> str:
    """The page without plotly's own code."""
    start = html.index("<script>/**")
    return html[:start] + html[html.index("</script>", start) :]


def block_of(html: str) -> dict:
    match = re.search(r'<script type="application/json" id="run-data">(.*?)</script>', html, re.DOTALL)
    assert match is not None
    return json.loads(match[1])


def test_the_page_of_a_sweep_lies_in_it_and_asks_for_nothing(make_runs):
    runs = [make_runs(f"sweep/{seed}", seed=seed) for seed in range(2)]
    runs.append(make_runs("sweep/other", settings=OTHER))
    page = write_comparison(read_compared_runs([runs[0].parent]))
    html = page.read_text(encoding="utf-8")
    assert page == runs[0].parent / "comparison.html"
    assert "Content-Security-Policy\" content=\"default-src 'none'" in html
    assert not re.findall(r"(?:src|href|url|fetch|import)\s*[=(]\s*[\"']?(?:https?:)?//", own_text(html))
    data = block_of(html)
    n_runs = {each["label"]: each["n_runs"] for each in data["conditions"]}
    assert n_runs == {"optimizer.weight_decay=0.25": 1, "optimizer.weight_decay=1.0": 2}
    assert data["conditions"][1]["loss_nats"]["n"] == [2] * 6
    assert len(data["runs"]) == 3


def test_the_block_holds_the_values_of_the_runs_and_nulls_where_a_clock_has_no_step(make_compared):
    runs = [make_compared("1", loss_nats=[4.0, 2.0, 1.0]), make_compared("2", seed=1, steps=(0, 64), loss_nats=[8.0, float("nan")])]
    data = comparison_data(conditions_of(runs, runs[0].path))
    assert data["steps"] == [0, 64, 128]
    assert data["conditions"][0]["loss_nats"] == {
        "step": [0, 64, 128],
        "mean": [6.0, 2.0, 1.0],
        "low": [4.0, 2.0, 1.0],
        "high": [8.0, 2.0, 1.0],
        "n": [2, 1, 1],
    }
    assert data["runs"][1]["loss_nats"] == [8.0, None]
    assert [panel["measure"] for panel in data["panels"]] == ["loss_nats"]


def test_figures_without_a_value_in_any_run_are_named_and_left_out(make_runs):
    run = make_runs("a/seed=0", bayes=False, without=("spectrum",))
    html = own_text(write_comparison(read_compared_runs([run])).read_text(encoding="utf-8"))
    assert "No run has recorded: excess loss, confidence against the truth, tail of the unembedding&#x27;s spectrum." in html
    assert 'id="excess_loss_nats"' not in html
    assert 'id="loss_nats"' in html


def test_hostile_names_stay_text(make_runs):
    attack = "</script><script>attacked()</script>"
    runs = [make_runs("a/<img src=x>", steps=(0,)), make_runs("a/b", steps=(0,), settings={"model": {"family": attack}, attack: attack})]
    html = write_comparison(read_compared_runs(runs)).read_text(encoding="utf-8")
    assert "<script>attacked" not in html
    assert "<img" not in own_text(html)
    assert {run["name"] for run in block_of(html)["runs"]} == {"<img src=x>", "b"}


def test_the_page_of_a_run_is_never_replaced(make_runs):
    run = make_runs("a/seed=0", steps=(0,))
    with pytest.raises(ReportError, match=r"report\.html is the page of a run; .* Choose another --out"):
        write_comparison(read_compared_runs([run.parent]), run / "report.html")
    assert not (run / "report.html").exists()


@pytest.mark.heavy
def test_a_hundred_runs_stay_under_6_mb(make_compared, tmp_path):
    steps = tuple(range(25))
    runs = [
        make_compared(f"{at}", {"model.d_mlp": at % 10}, seed=at // 10, steps=steps, **{name: [at + 0.123456] * 25 for name in MEASURES})
        for at in range(100)
    ]
    page = write_comparison(ComparedRuns(tmp_path, runs, []))
    assert page.stat().st_size < 6_000_000


def test_a_comparison_is_called_by_the_folders_of_its_conditions_or_by_that_of_the_sweep(make_compared, tmp_path):
    much = dict.fromkeys(("optimizer.weight_decay", "optimizer.beta1", "optimizer.beta2", "optimizer.epsilon"), 1)
    for runs, title in (
        ([make_compared("a/1"), make_compared("b/1", much)], "a and b"),
        ([make_compared("a"), make_compared("b", {"optimizer.weight_decay": 2})], tmp_path.name),
        ([make_compared("a"), make_compared("b")], tmp_path.name),
    ):
        compared = ComparedRuns(tmp_path, runs, [])
        assert title_of(compared, conditions_of(runs, tmp_path)) == title


def test_the_scripts_ask_only_for_places_and_values_that_the_page_has(make_compared):
    folder = files("confreg.figures")
    own = [name for name in SCRIPTS if name.startswith("comparison/")]
    script = "".join((folder / name).read_text(encoding="utf-8") for name in own)
    html = "".join((folder / name).read_text(encoding="utf-8") for name in ("frame.html", "comparison/comparison.html"))
    assert len(own) == 2
    assert set(re.findall(r'getElementById\("([\w-]+)"', script)) <= set(re.findall(r'id="([\w-]+)"', html))
    run = make_compared("a", **dict.fromkeys(MEASURES, 1.0))
    data = comparison_data(conditions_of([run], run.path))
    assert len(data["panels"]) == len(PANELS)
    assert set(re.findall(r"\brun\.(\w+)", script)) <= {*data}
    assert set(re.findall(r"\bpanel\.(\w+)", script)) <= {*data["panels"][0]}
    assert {*(panel.measure for panel in PANELS), *(panel.reference for panel in PANELS if panel.reference)} <= {*MEASURES}
