import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from confreg.records.run_folder import RunFolder, RunFolderError, RunState, load_settings
from confreg.records.run_lock import NAME
from confreg.settings import CallbackSettings, ModelSettings, RunSettings, Settings, SyntheticSettings, TextSettings


def test_a_new_run_holds_its_configuration_and_says_that_it_runs(settings, tmp_path):
    folder = RunFolder.prepare(settings(seed=3))
    assert folder.path == folder.target == tmp_path / "runs" / "one"
    assert folder.state is RunState.NEW
    assert yaml.safe_load((folder.path / "config.yaml").read_text())["seed"] == 3
    facts = folder.read_run_json()
    assert facts["status"] == "running"
    assert facts["versions"]["torch"]
    assert {"git", "reproducibility", "started"} <= set(facts)


def test_a_run_without_a_name_is_named_by_experiment_and_time(tmp_path):
    run = RunSettings(root=str(tmp_path), experiment="sotu")
    one, other = (RunFolder.prepare(Settings(run=run)) for _ in range(2))
    assert one.path != other.path
    assert one.path.parent == tmp_path / "sotu"
    assert load_settings(one.path).run.name == f"sotu/{one.path.name}"


@pytest.mark.parametrize("data", [SyntheticSettings(rank=5), TextSettings(source="a.txt")])
def test_the_written_configuration_gives_the_settings_back(settings, data):
    asked = settings(data=data, model=ModelSettings(norm_epsilon=3e-7))
    with RunFolder.prepare(asked) as folder:
        assert load_settings(folder.path) == asked


def test_a_finished_run_of_the_same_configuration_is_said_to_be_finished_and_stays(settings, complete, visible):
    before = complete(settings()).read_run_json()
    again = RunFolder.prepare(settings())
    assert again.is_finished
    assert before["status"] == "finished"
    assert again.read_run_json() == before
    assert visible(again.path) == ["config.yaml", "records", "run.json"]


def test_an_interrupted_run_says_so_and_is_resumed(settings):
    with pytest.raises(KeyboardInterrupt), RunFolder.prepare(settings()) as folder:
        raise KeyboardInterrupt
    assert folder.read_run_json()["status"] == "interrupted"
    started = folder.read_run_json()["started"]
    with RunFolder.prepare(settings()) as again:
        assert again.is_resumed
        assert again.read_run_json()["status"] == "running"
    facts = again.read_run_json()
    assert (facts["status"], facts["started"], len(facts["resumed"]), facts["error"]) == ("finished", started, 1, None)


def test_a_failed_run_keeps_the_reason(settings):
    with pytest.raises(ZeroDivisionError), RunFolder.prepare(settings()) as folder:
        raise ZeroDivisionError("no steps")
    assert folder.read_run_json()["status"] == "failed"
    assert folder.read_run_json()["error"] == "ZeroDivisionError: no steps"
    assert not (folder.path / NAME).exists()


@pytest.mark.parametrize("error", [ValueError("no text"), OSError("disk")])
def test_a_run_refused_before_it_has_anything_to_keep_leaves_no_folder(settings, error):
    with pytest.raises(type(error)), RunFolder.prepare(settings()) as folder:
        raise error
    assert not folder.path.exists()


@pytest.mark.parametrize("error", [ValueError("no text"), OSError("disk")])
def test_a_refused_run_that_has_something_or_was_begun_before_stays(settings, error):
    folder = RunFolder.prepare(settings())
    (folder.path / "records").mkdir()
    folder.abandon(error)
    assert folder.read_run_json()["status"] == "failed"
    again = RunFolder.prepare(settings())
    (again.path / "records").rmdir()
    again.abandon(error)
    assert again.read_run_json()["status"] == "failed"


def test_another_configuration_is_refused_with_the_differing_keys_and_the_next_move(settings, complete):
    complete(settings())
    with pytest.raises(RunFolderError) as caught:
        RunFolder.prepare(settings(seed=4))
    assert "seed: there 0, asked for 4" in str(caught.value)
    assert "Choose another run.name, or run.replace=true" in str(caught.value)


def test_another_configuration_under_the_name_of_an_unfinished_run_is_told_how_to_go_on_with_it(settings):
    folder = RunFolder.prepare(settings())
    (folder.path / "records").mkdir()
    folder.abandon(KeyboardInterrupt())
    with pytest.raises(RunFolderError, match=f"resume={folder.path} to go on with it"):
        RunFolder.prepare(settings(seed=4))


def test_a_run_of_a_version_that_lacked_a_setting_is_the_same_run(settings, complete):
    run = complete(settings()).path
    older = yaml.safe_load((run / "config.yaml").read_text())
    del older["optimizer"]["warmup_steps"], older["seed"]
    (run / "config.yaml").write_text(yaml.safe_dump(older))
    assert RunFolder.prepare(settings()).state is RunState.FINISHED
    with pytest.raises(RunFolderError, match=r"seed: there 0, asked for 1"):
        RunFolder.prepare(settings(seed=1))


def test_at_most_five_differences_are_shown(settings, complete):
    complete(settings())
    different = ModelSettings(n_layer=3, d_model=32, d_mlp=65, n_head=2, dropout=0.1, tied=True, norm_epsilon=1e-6)
    with pytest.raises(RunFolderError) as caught:
        RunFolder.prepare(settings(model=different))
    assert str(caught.value).count("asked for") == 5
    assert "and 2 more" in str(caught.value)


def test_a_logger_may_change_when_a_run_goes_on(settings, complete):
    complete(settings())
    asked = settings()
    asked.logger.wandb.mode = "online"
    assert RunFolder.prepare(asked).is_finished


def test_resuming_by_folder_finds_the_run(settings):
    with pytest.raises(RuntimeError), RunFolder.prepare(settings()) as folder:
        raise RuntimeError
    asked = load_settings(folder.path)
    asked.resume = str(folder.path)
    with RunFolder.prepare(asked) as again:
        assert again.is_resumed
        assert again.path == folder.path


@pytest.mark.parametrize("name", ["..", "../x", "/x", "a/../../x", ".x", "", "a//b"])
def test_a_name_outside_the_root_is_refused_and_makes_nothing(settings, tmp_path, name):
    with pytest.raises(RunFolderError, match=r"run\.name is"):
        RunFolder.prepare(settings(name=name))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("file", "content"), [("config.yaml", "seed: ["), ("config.yaml", "- 1"), ("run.json", "{")])
def test_a_damaged_run_is_named_with_the_next_move(settings, file, content, complete):
    folder = complete(settings())
    (folder.path / file).write_text(content)
    with pytest.raises(RunFolderError, match=rf"{file} .*run\.replace=true"):
        RunFolder.prepare(settings())


@pytest.mark.parametrize("content", [None, "sed: 1", "seed: x"])
def test_a_folder_without_a_configuration_of_ours_gives_no_settings(tmp_path, content):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(RunFolderError, match=r"config\.yaml"):
        load_settings(tmp_path)


def test_no_secret_reaches_the_folder(settings):
    extra = {"spy": {"_target_": "confreg.callbacks.Spy", "api_key": "canary1", "address": "https://me:canary2@host"}}
    asked = settings(callbacks=CallbackSettings(extra=extra))
    folder = RunFolder.prepare(asked)
    folder.update_run_json(wandb={"api_key": "canary3"})
    folder.abandon(RuntimeError("https://me:canary4@host refused"))
    assert not any(b"canary" in path.read_bytes() for path in folder.path.rglob("*") if path.is_file())
    assert RunFolder.prepare(asked).is_resumed


def test_facts_are_merged_into_run_json(settings):
    folder = RunFolder.prepare(settings())
    folder.update_run_json(language={"rank": 3})
    folder.update_run_json(steps=5)
    facts = json.loads((folder.path / "run.json").read_text())
    assert (facts["language"], facts["steps"], facts["status"]) == ({"rank": 3}, 5, "running")


def test_the_other_processes_of_a_distributed_run_read_the_same_folder_and_write_nothing(settings, monkeypatch):
    with RunFolder.prepare(settings(name=None, replace=True)) as first:
        monkeypatch.setenv("LOCAL_RANK", "1")
        with RunFolder.prepare(settings(name=None, replace=True)) as second:
            second.update_run_json(status="nonsense")
            assert second.path == first.path.absolute()
            assert not second.is_writer
        assert first.read_run_json()["status"] == "running"


def test_processes_that_are_started_from_outside_need_a_name_to_meet(settings, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(RunFolderError, match=r"run\.name is missing"):
        RunFolder.prepare(settings(name=None))


def test_a_process_that_is_started_from_outside_waits_for_the_first_one(settings, monkeypatch):
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setenv("RANK", "1")
        second = pool.submit(RunFolder.prepare, settings())
        time.sleep(0.3)
        assert not second.done()
        monkeypatch.delenv("RANK")
        with RunFolder.prepare(settings()) as first:
            found = second.result(timeout=20)
    assert (found.path, found.is_writer, found.is_finished) == (first.path, False, False)


def test_a_first_process_that_never_comes_is_not_waited_for_without_end(settings, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("confreg.records.launch.PATIENCE_S", 0.2)
    with pytest.raises(RunFolderError, match=r"was not made by the first process within 0\.2 s"):
        RunFolder.prepare(settings())


@pytest.mark.parametrize("size", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_processes_that_are_started_from_outside_replace_no_run(settings, monkeypatch, size):
    monkeypatch.setenv(size, "2")
    with pytest.raises(RunFolderError, match=r"run\.replace is true in processes that are started from outside"):
        RunFolder.prepare(settings(replace=True))
    monkeypatch.setenv(size, "1")
    assert RunFolder.prepare(settings(replace=True)).path.exists()


def test_a_disk_that_is_full_at_the_start_leaves_no_folder(settings, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("confreg.records.run_folder.write_text_durably", full)
    with pytest.raises(OSError, match="No space left"):
        RunFolder.prepare(settings())
    assert not (tmp_path / "runs" / "one").exists()


def test_a_root_that_is_a_file_is_refused_by_name(settings, tmp_path):
    (tmp_path / "runs").write_text("a file in the way")
    with pytest.raises(RunFolderError, match="runs is a file"):
        RunFolder.prepare(settings())
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
