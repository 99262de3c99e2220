import json
import os
import subprocess
import sys

import pytest

from confreg.records.measured_folder import MeasuredFolder, MeasuredFolderError
from confreg.records.run_lock import RunFolderError, start_of, take_lock
from confreg.records.schema import TABLES, table_of

REQUEST = {"replacement": "mean_over_reference_tokens", "control_draws": None, "rules": {"n_stderr": 2.0}}


def records_of(step, loss_nats=1.0):
    identity = {"step": step, "tokens_seen": 0, "weights_sha256": "0"}
    columns = {"neurons": {"layer": 0, "neuron": [0]}, "model": {"loss_nats": loss_nats}, "spectrum": {"index": [0], "singular_value": 1.0}}
    return {name: table_of(name, columns[name], 1, identity) for name in TABLES}


@pytest.fixture
def make(tmp_path):
    def folder(path="run/measured/own", request=REQUEST, **source):
        run = {"kind": "run", "folder": tmp_path / "run", "config": {"seed": 0}, "facts": {}, "last_step": 8, **source}
        return MeasuredFolder(tmp_path / path, request, run)

    return folder


def said(folder):
    return json.loads((folder.path / "measured.json").read_text())


def test_a_measurement_says_what_it_is_by_which_request_of_which_run_and_with_which_versions(make):
    with make() as folder:
        assert said(folder)["status"] == "running"
        folder.write(0, records_of(0))
    facts = said(folder)
    assert (facts["status"], facts["request"], facts["source"]["folder"]) == ("finished", REQUEST, "../..")
    assert {"versions", "git", "reproducibility", "started", "finished"} <= set(facts)
    assert sorted(path.name for path in folder.path.iterdir()) == ["measured.json", "records"]
    assert folder.has(0)
    assert not folder.has(8)


def test_nothing_is_made_before_the_work_begins(make, tmp_path):
    make()
    assert list(tmp_path.iterdir()) == []


def test_a_step_without_all_of_its_tables_is_not_there_and_is_written_anew(make):
    with make() as folder:
        folder.store.write("neurons", 8, records_of(8)["neurons"])
        folder.store.write("model", 8, records_of(8, loss_nats=2.0)["model"])
        assert not folder.has(8)
        folder.write(8, records_of(8))
    assert folder.has(8)
    assert folder.store.read("model", 8)["loss_nats"].to_pylist() == [1.0]


def test_the_tables_that_every_measurement_has_come_last(make, monkeypatch):
    with make() as folder:
        written = []
        monkeypatch.setattr(folder.store, "write", lambda table, *_: written.append(table))
        folder.write(0, {**records_of(0), "another": records_of(0)["model"]})
    assert written == ["another", *TABLES]


@pytest.mark.parametrize(
    ("request_there", "source", "line"),
    [
        ({**REQUEST, "replacement": "zero"}, {}, "request.replacement: there 'mean_over_reference_tokens', asked for 'zero'"),
        ({**REQUEST, "rules": {"n_stderr": 3.0}}, {}, "request.rules.n_stderr: there 2.0, asked for 3.0"),
        (REQUEST, {"config": {"seed": 1}}, "source.config.seed: there 0, asked for 1"),
        (REQUEST, {"last_step": 4}, "source.last_step: there 8, asked for 4"),
    ],
)
def test_another_request_or_source_is_refused_by_name_with_the_next_move(make, request_there, source, line):
    with make() as folder:
        folder.write(0, records_of(0))
    before = said(folder)
    with pytest.raises(MeasuredFolderError) as caught:
        make(request=request_there, **source)
    assert str(caught.value).splitlines() == [
        f"{folder.path} holds another measurement:",
        f"  {line}",
        "Choose another name=… or output=…, or delete that folder first.",
    ]
    assert said(folder) == before


def test_a_run_that_was_moved_or_renamed_with_its_measurements_is_the_same(make, tmp_path):
    with make(config={"seed": 0, "run": {"name": "a"}}) as folder:
        folder.write(0, records_of(0))
    assert make(config={"seed": 0, "run": {"name": "b"}}, folder=tmp_path / "elsewhere").has(0)


def test_a_setting_that_did_not_exist_yet_had_its_default(make):
    with make() as folder:
        folder.write(0, records_of(0))
    make(request={**REQUEST, "memory_mib": 512})
    with pytest.raises(MeasuredFolderError, match=r"request\.memory_mib: there 512, asked for 64"):
        make(request={**REQUEST, "memory_mib": 64})


@pytest.mark.parametrize(("name", "text"), [("notes.txt", "holds no measurement"), ("measured.json", "is damaged")])
def test_a_folder_with_something_else_in_it_is_never_touched(make, tmp_path, name, text):
    path = tmp_path / "mine"
    path.mkdir()
    (path / name).write_text("x")
    with pytest.raises(MeasuredFolderError, match=text):
        make("mine")
    assert [each.name for each in path.iterdir()] == [name]


def test_a_file_in_its_place_is_refused(make, tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(MeasuredFolderError, match="mine is a file"):
        make("mine")


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "interrupted"), (ValueError, "failed")])
def test_work_that_stopped_keeps_its_complete_steps_and_goes_on(make, error, status):
    folder = make()

    def stop():
        with folder:
            folder.write(0, records_of(0))
            raise error("why")

    with pytest.raises(error):
        stop()
    assert (said(folder)["status"], folder.has(0)) == (status, True)
    assert not (folder.path / ".lock").exists()
    with make() as again:
        assert len(said(again)["earlier"]) == 1
        again.write(8, records_of(8))
    assert (said(again)["status"], said(again)["error"], again.store.steps("model")) == ("finished", None, [0, 8])


def test_work_that_stopped_before_its_first_step_leaves_no_folder(make, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match="why"), make():
        raise ValueError("why")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_in_which_a_living_process_writes_is_refused_with_the_next_move(make):
    with make() as folder, pytest.raises(RunFolderError) as caught, make():
        pass
    assert "is being written by process" in str(caught.value)
    assert "choose another name=… or output=…" in str(caught.value)
    assert said(folder)["status"] == "finished"


def test_the_lock_of_a_killed_process_is_taken_over(make):
    folder = make()
    folder.path.mkdir(parents=True)
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    take_lock(folder.path)
    holder = json.loads((folder.path / ".lock").read_text())
    child.wait()
    (folder.path / ".lock").write_text(json.dumps({**holder, "pid": child.pid, "start": "0"}))
    assert start_of(os.getpid()) != "0"
    with make():
        pass


def test_a_place_without_permission_is_refused_and_what_was_made_goes_away(make, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("confreg.records.measured_folder.write_text_durably", refuse)
    with (
        pytest.raises(MeasuredFolderError, match=r"cannot be written \(Permission denied\)\. Choose a place of your own by output=DIR"),
        make(),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
