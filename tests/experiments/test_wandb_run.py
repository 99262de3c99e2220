"""What a whole run leaves in W&B's offline file, read back and compared with the records."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from confreg.callbacks.wandb_logger import CLOCK_GROUPS, TRAINING_GROUPS
from confreg.experiments.command_line import run_command
from confreg.experiments.composition import compose_settings
from confreg.experiments.training_run import train
from confreg.records.dashboard import histogram_values, top_neurons
from confreg.records.scalars import clock_scalars
from confreg.records.store import RecordStore
from confreg.training.language_module import LanguageModule

CANARY = "planted-canary"
TINY = [
    *("data.vocabulary_size=24", "data.rank=3", "data.block_length=12", "data.batch_size=4", "data.n_reference=6", "data.n_measured=18"),
    *(
        "data.n_inverse_temperatures=2",
        "data.n_backoff_weights=2",
        "model.n_layer=1",
        "model.d_model=16",
        "model.d_mlp=8",
        "model.n_head=2",
    ),
    *("measure.n_scored_per_block=5", "measure.control_draws_last=1", "optimizer.warmup_steps=2", "trainer.max_steps=4"),
    *("trainer.validate_every=2", "trainer.log_every=1", "trainer.accelerator=cpu"),
    *("trainer.progress_bar=false", "trainer.model_summary=false"),
]
ABOUT = [
    "logger.wandb.group=a group",
    "logger.wandb.job_type=a type",
    "logger.wandb.tags=[one,two]",
    f"logger.wandb.notes='see https://me:{CANARY}@host.example/x'",
    "logger.wandb.top_neurons=5",
]


def inspected(folder):
    """Every record of an offline run's file, the way W&B itself reads it."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(next(folder.glob("run-*.wandb")))]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    return [json.loads(line) for line in lines]


def of_type(written, kind):
    return [record[kind] for record in written if record["type"] == kind]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["confreg-train", f"password={CANARY}"])
        assert train(compose_settings([*TINY, *ABOUT, f"run.root={root}", "run.name=mine"])) == 0
    return root / "mine"


@pytest.fixture(scope="module")
def store(run):
    return RecordStore(run / "records")


@pytest.fixture(scope="module")
def folder(run):
    (entry,) = json.loads((run / "run.json").read_text())["wandb"]
    assert entry["folder"].endswith(entry["id"])
    return run / entry["folder"]


@pytest.fixture(scope="module")
def written(folder):
    return inspected(folder)


@pytest.fixture(scope="module")
def history(written):
    return [item["item"] for item in of_type(written, "history")]


def scalars_of(item):
    axes = ("trainer/global_step", "clock/step", "epoch")
    return {key: value for key, value in item.items() if isinstance(value, int | float) and not key.startswith("_") and key not in axes}


def is_media(key):
    return key.startswith(("tables/", "histograms/", "page/"))


def test_every_scalar_of_every_row_is_that_of_the_csv_at_the_same_step(run, history):
    expected = {}
    for row in csv.DictReader((run / "csv" / "from_step=00000000" / "metrics.csv").open()):
        values = {(int(row["step"]), key): float(value) for key, value in row.items() if value and key not in ("step", "epoch")}
        expected |= values
    seen = {}
    for item in history:
        step = item.get("clock/step", item.get("trainer/global_step"))
        seen |= {(step, key): value for key, value in scalars_of(item).items() if not is_media(key)}
    assert {key.partition("/")[0] for _, key in seen} == {"train", "val", "model", "neurons"}
    assert seen == expected


def test_every_scalar_on_the_clock_is_that_of_the_records(store, history):
    on_clock = {item["clock/step"]: item for item in history if "clock/step" in item and "model/loss_nats" in item}
    assert list(on_clock) == store.steps("model") == [0, 1, 2, 3, 4]
    for step, item in on_clock.items():
        assert {key: value for key, value in scalars_of(item).items() if not is_media(key)} == clock_scalars(store, step)


def test_every_key_has_exactly_one_axis_and_is_logged_with_it(written, history):
    metrics = of_type(written, "metric")
    exact = {each["name"]: each.get("step_metric") for each in metrics if "name" in each}
    globs = {each["glob_name"].removesuffix("*"): each["step_metric"] for each in metrics if "glob_name" in each}
    assert len(metrics) == len(exact) + len(globs)
    assert set(globs) == {f"{group}/" for group in (*TRAINING_GROUPS, *CLOCK_GROUPS)}
    for item in history:
        for key in item:
            if not key.startswith("_"):
                axes = [globs[prefix] for prefix in globs if key.startswith(prefix)] + [exact[name] for name in exact if name == key]
                assert len(axes) == 1, key
                assert axes[0] is None or axes[0] in item


def test_the_table_of_a_step_holds_the_top_neurons_of_that_step_alone(folder, store, history):
    tables = {item["clock/step"]: item["tables/top_neurons.path"] for item in history if "tables/top_neurons.path" in item}
    assert list(tables) == store.steps("neurons")
    for step, path in tables.items():
        table, expected = json.loads((folder / "files" / path).read_text()), top_neurons(store, step, 5)
        assert table["columns"] == expected.column_names
        assert table["data"] == [list(row.values()) for row in expected.to_pylist()]


def test_a_histogram_counts_every_measured_neuron_between_the_least_and_the_largest(store, history):
    item = history[-2]
    assert item["clock/step"] == 4
    for name, values in histogram_values(store, 4).items():
        counts, edges = item[f"histograms/{name}.values"], item[f"histograms/{name}.bins"]
        assert (sum(counts), len(counts)) == (len(values), 32)
        if min(values) < max(values):
            assert (edges[0], edges[-1]) == pytest.approx((min(values), max(values)))


def test_the_finished_page_is_there_unchanged_with_all_that_it_says(run, folder, history):
    path = folder / "files" / history[-1]["page/report.path"]
    page = path.read_text(encoding="utf-8")
    assert page == (run / "report.html").read_text(encoding="utf-8")
    facts = json.loads((run / "run.json").read_text())
    assert (facts["status"], facts["steps"]) == ("finished", 4)
    assert facts["wandb"][0]["id"] in page
    assert "not complete" not in page


def test_the_run_says_who_it_is_by_its_configuration_and_ends_with_0(run, written):
    (about,) = of_type(written, "run")
    config = about["config"]["update"]
    assert {key: config[key] for key in config if key != "_wandb"} == yaml.safe_load((run / "config.yaml").read_text())
    assert (about["display_name"], about["run_group"], about["job_type"], about["tags"]) == ("mine", "a group", "a type", ["one", "two"])
    assert about["notes"] == "see https://<redacted>@host.example/x"
    assert [exit["exit_code"] for exit in of_type(written, "exit")] == [0]


@pytest.mark.heavy
def test_a_run_that_goes_on_lists_both_of_its_wandb_runs_and_the_second_has_every_step(tmp_path, monkeypatch):
    overrides = [*TINY, "clock.resume_every=2", "logger.wandb.page=false", f"run.root={tmp_path}", "run.name=twice"]
    original = LanguageModule.training_step

    def fail_at_three(self, *batch):
        if self.global_step == 3:
            raise RuntimeError("in the middle")
        return original(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModule, "training_step", fail_at_three)
        with pytest.raises(RuntimeError, match="in the middle"):
            train(compose_settings(overrides))
    assert train(compose_settings(overrides)) == 0
    run = tmp_path / "twice"
    folders = [run / entry["folder"] for entry in json.loads((run / "run.json").read_text())["wandb"]]
    assert len(set(folders)) == 2
    (history,) = [[item["item"] for item in of_type(inspected(folder), "history")] for folder in folders[1:]]
    assert [item["clock/step"] for item in history if "model/loss_nats" in item] == [0, 1, 2, 3, 4]
    assert [item["trainer/global_step"] for item in history if "train/loss" in item] == [2, 3]


def test_no_secret_and_no_command_line_is_written_anywhere(run):
    files = [path for path in run.rglob("*") if path.is_file()]
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]


def test_everything_that_wandb_writes_lies_in_the_run_and_what_has_to_be_sent_can_be_moved_with_it(run, folder, written):
    assert all(path.resolve().is_relative_to(run.resolve() / "wandb") for path in (run / "wandb").rglob("*"))
    sent = [each["path"] for files in of_type(written, "files") for each in files["files"]]
    assert sum(path.startswith("media/") for path in sent) == 6
    assert all((folder / "files" / path).is_file() for path in sent if path.startswith("media/"))
    assert "artifact" not in {record["type"] for record in written}


@pytest.mark.heavy
def test_the_jobs_of_a_sweep_are_one_group_of_runs_each_closed_by_its_own_end(tmp_path, monkeypatch):
    original = LanguageModule.training_step

    def fail_in_the_second(self, *batch):
        if self.seed == 1 and self.global_step == 2:
            raise RuntimeError("in the middle")
        return original(self, *batch)

    monkeypatch.setattr(LanguageModule, "training_step", fail_in_the_second)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        run_command("train", train, ["-m", *TINY, "callbacks=none", "run.name=rates", "seed=0,1,2"])
    assert caught.value.code == 1
    jobs = json.loads((tmp_path / "runs" / "rates" / "sweep.json").read_text())["jobs"]
    runs = [tmp_path / "runs" / "rates" / name for name in jobs]
    facts = [json.loads((run / "run.json").read_text()) for run in runs]
    assert [each["status"] for each in facts] == ["finished", "failed", "finished"]
    folders = [run / each["wandb"][0]["folder"] for run, each in zip(runs, facts, strict=True)]
    with ThreadPoolExecutor() as pool:
        files = list(pool.map(inspected, folders))
    assert [of_type(each, "exit")[0]["exit_code"] for each in files] == [0, 1, 0]
    abouts = [of_type(each, "run")[0] for each in files]
    assert {(each["run_group"], each["job_type"]) for each in abouts} == {("rates", "train")}
    assert len({each["run_id"] for each in abouts}) == 3
    losses = [[item["item"] for item in of_type(each, "history") if "train/loss" in item["item"]] for each in files]
    assert [len(each) for each in losses] == [4, 2, 4]
    assert all(math.isfinite(item["train/loss"]) for each in losses for item in each)


@pytest.mark.heavy
@pytest.mark.parametrize("strategy", ["ddp", "ddp_fork", "ddp_spawn"])
def test_of_several_processes_only_the_first_logs_and_its_run_is_closed(tmp_path, strategy):
    overrides = [*TINY, f"trainer.strategy={strategy}", "trainer.devices=2", f"run.root={tmp_path}", "run.name=two"]
    command = [sys.executable, "-m", "confreg.experiments.train", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "two" / "run.json").read_text())
    (entry,) = facts["wandb"]
    assert (facts["steps"], facts["stopped_early"], facts["tokens_seen"] > 0) == (4, False, True)
    assert [path.name for path in (tmp_path / "two" / "wandb").glob("offline-run-*")] == [entry["folder"].removeprefix("wandb/")]
    assert f"wandb sync {tmp_path / 'two' / entry['folder']}" in done.stdout
    written = inspected(tmp_path / "two" / entry["folder"])
    assert [exit["exit_code"] for exit in of_type(written, "exit")] == [0]
    on_clock = [item["item"]["clock/step"] for item in of_type(written, "history") if "model/loss_nats" in item["item"]]
    assert on_clock == [0, 1, 2, 3, 4]
