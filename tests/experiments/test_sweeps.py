import json
import os
from pathlib import Path

import pytest

from confreg.experiments.command_line import run_command
from confreg.experiments.sweeps import as_override, sweep_jobs
from confreg.records.run_folder import RunFolder
from confreg.records.schema import table_of
from confreg.records.store import RecordStore
from confreg.settings import SettingError


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_choice_becomes_a_job():
    jobs = sweep_jobs(["seed=1,2", "model.n_layer=2,3", "run.name=s"], None, "train")
    assert [(settings.seed, settings.model.n_layer) for _, settings in jobs] == [(1, 2), (1, 3), (2, 2), (2, 3)]


def test_each_job_has_a_folder_of_its_own_and_a_repeated_sweep_finds_what_is_done():
    states = []

    def task(settings):
        with RunFolder.prepare(settings) as folder:
            states.append((folder.path, str(folder.state)))

    arguments = ["-m", "run.name=rates/one=1", "seed=1,2"]
    assert run_command("train", task, arguments) == 0
    assert run_command("train", task, arguments) == 0
    assert [state for _, state in states] == ["new", "new", "finished", "finished"]
    sweep = Path("runs/rates/one=1")
    jobs = json.loads((sweep / "sweep.json").read_text())["jobs"]
    assert {path.name for path, _ in states} == set(jobs)
    assert sorted(os.listdir(sweep)) == sorted(["multirun.yaml", "sweep.json", *jobs])
    assert os.listdir() == ["runs"]


def test_a_job_that_fails_does_not_stop_the_others(capfd):
    seeds = []

    def task(settings):
        seeds.append(settings.seed)
        if settings.seed == 1:
            raise RuntimeError("boom")

    with pytest.raises(SystemExit) as caught:
        run_command("train", task, ["-m", "seed=1,2", "run.name=s"])
    assert caught.value.code == 1
    assert seeds == [1, 2]
    assert "RuntimeError: boom" in capfd.readouterr().err


def test_a_sweep_ends_with_the_comparison_of_its_jobs_although_one_raised(capfd, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)

    def task(settings):
        with RunFolder.prepare(settings) as folder:
            if settings.seed == 2:
                raise RuntimeError("boom")
            rows = table_of("neurons", {"layer": 1, "neuron": [0, 1]}, 2, {"step": 0, "tokens_seen": 0, "weights_sha256": "0"})
            RecordStore(folder.path / "records").write("neurons", 0, rows)

    with pytest.raises(SystemExit):
        run_command("train", task, ["-m", "seed=1,2,3", "run.name=s"])
    assert "Comparison: runs/s/comparison.html" in capfd.readouterr().out.splitlines()
    html = Path("runs/s/comparison.html").read_text(encoding="utf-8")
    assert "failed: RuntimeError: boom; " in html
    assert "2 runs of 1 condition" in html


def test_a_sweep_that_measured_nothing_has_no_comparison(capfd):
    def task(settings):
        with RunFolder.prepare(settings):
            pass

    assert run_command("train", task, ["-m", "seed=1,2", "run.name=s"]) == 0
    assert "Comparison" not in capfd.readouterr().out
    assert not Path("runs/s/comparison.html").exists()


def test_lightnings_relaunching_strategy_is_refused_in_a_sweep():
    with pytest.raises(SettingError, match=r"trainer\.strategy is ddp in a sweep of runs with several processes each; expected ddp_spawn"):
        sweep_jobs(["trainer=ddp", "seed=1,2"], None, "train")
    with pytest.raises(SettingError, match=r"trainer\.strategy is auto in a sweep"):  # which is ddp then
        sweep_jobs(["trainer.devices=2", "seed=1,2"], None, "train")
    assert len(sweep_jobs(["trainer.devices=2", "trainer.strategy=ddp_spawn", "seed=1,2"], None, "train")) == 2


def test_going_on_with_a_run_is_refused_in_a_sweep():
    with pytest.raises(SettingError, match="resume came together with -m"):
        sweep_jobs(["resume=runs/x", "seed=1,2"], None, "train")


def test_an_override_survives_any_folder_name():
    assert as_override("hydra.sweep.dir", "it's/a=b c") == "hydra.sweep.dir='it\\'s/a=b c'"
