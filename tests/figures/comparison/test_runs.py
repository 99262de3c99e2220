import json
import math
import os
import shutil
import socket

import pytest

from confreg.figures.comparison.runs import read_compared_runs, state_in_words
from confreg.figures.run_records import ReportError
from confreg.records.run_lock import start_of


def test_runs_are_named_from_the_folder_in_which_they_lie(make_runs):
    folders = [make_runs("a/seed=0"), make_runs("b/seed=0", seed=1)]
    compared = read_compared_runs(folders)
    assert [run.name for run in compared.runs] == ["a/seed=0", "b/seed=0"]
    assert compared.folder == folders[0].parents[1]
    assert [run.name for run in read_compared_runs([folders[0].parent]).runs] == ["seed=0"]


def test_a_run_tells_its_seed_its_end_and_the_neurons_that_formed(make_runs):
    run = read_compared_runs([make_runs("a/seed=0", seed=3)]).runs[0]
    assert (run.seed, run.last_step, run.is_finished) == (3, 1024, True)
    assert run.formed_of("entropy")["formed_step"].tolist() == [256] * 4
    assert run.formed_at_end("entropy") == 4
    assert run.at_last("n_entropy_neurons") == 4
    assert math.isnan(read_compared_runs([make_runs("b/seed=0", bayes=False)]).runs[0].at_last("excess_loss_nats"))


def test_what_cannot_be_read_is_kept_by_name_with_the_reason(make_runs):
    good = make_runs("sweep/good")
    folder = good.parent
    damaged, failed, empty = (shutil.copytree(good, folder / name) for name in ("damaged", "failed", "empty"))
    next((damaged / "records" / "neurons").iterdir()).write_bytes(b"no parquet")
    shutil.rmtree(failed / "records")
    (failed / "run.json").write_text(json.dumps({"status": "failed", "error": "RuntimeError: out of\nmemory"}), encoding="utf-8")
    shutil.rmtree(empty / "records")
    (empty / "run.json").write_text("{", encoding="utf-8")
    (folder / "sweep.json").write_text(json.dumps({"jobs": {"good": [], "later": ["seed=9"]}}), encoding="utf-8")
    compared = read_compared_runs([folder])
    assert [run.name for run in compared.runs] == ["good"]
    reasons = {run.name: run.reason for run in compared.left_out}
    assert set(reasons) == {"damaged", "failed", "empty", "later"}
    assert "is not what was written" in reasons["damaged"]
    assert reasons["failed"].startswith("failed: RuntimeError: out of memory; ")
    assert "no measured step" in reasons["empty"]
    assert reasons["later"] == "not started: seed=9"


STRANGE = ("- a list", "data: 5", "model: {family: [}", "seed: x", "measure: {request: {rules: {clusters_min: x}}}")


@pytest.mark.parametrize("config", STRANGE)
def test_a_strange_configuration_costs_no_more_than_its_own_run(make_runs, config):
    strange = make_runs("a/strange", steps=(0,))
    (strange / "config.yaml").write_text(config, encoding="utf-8")
    compared = read_compared_runs([strange, make_runs("a/good", steps=(0,))])
    assert "good" in [run.name for run in compared.runs]
    assert len(compared.runs) + len(compared.left_out) == 2


def test_where_no_run_can_be_read_the_first_reason_is_told(make_runs):
    run = make_runs("a/seed=0")
    (run / "records" / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(ReportError, match=r"none of the runs in .* can be shown; .* is no JSON"):
        read_compared_runs([run.parent])


def test_a_run_that_still_trains_is_told_from_one_that_was_killed(make_runs):
    run = make_runs("a/seed=0", status="running")
    assert state_in_words(run, {"status": "running"}).startswith("stopped without a word")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "start": start_of(os.getpid())}
    (run / ".lock").write_text(json.dumps(holder), encoding="utf-8")
    assert state_in_words(run, {"status": "running"}) == "still training"
    assert state_in_words(run, {"status": "finished"}) == ""
    assert state_in_words(run, {"status": "running", "measured_again": {}}) == "still measuring"
    assert not read_compared_runs([run]).runs[0].is_finished
