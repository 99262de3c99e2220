import os
import subprocess
import sys

import pytest

from confreg.records.run_folder import RunFolder, RunFolderError, load_settings


def test_a_replacement_is_worked_on_out_of_sight_and_takes_the_place_when_complete(settings, complete, visible):
    old = complete(settings())
    with RunFolder.prepare(settings(seed=1, replace=True)) as folder:
        assert folder.path.name == f".one.{os.getpid()}"
        assert load_settings(old.path).seed == 0
        (folder.path / "new").touch()
    assert folder.path == old.path
    assert load_settings(old.path) == settings(seed=1)
    assert visible(old.path) == ["config.yaml", "new", "run.json"]
    assert visible(old.path.parent) == ["one"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_replacement_that_fails_leaves_the_old_run_and_nothing_else(settings, error, complete, visible):
    old = complete(settings())
    with pytest.raises(error), RunFolder.prepare(settings(seed=1, replace=True)):
        raise error
    assert load_settings(old.path).seed == 0
    assert visible(old.path.parent) == ["one"]
    assert visible(old.path) == ["config.yaml", "records", "run.json"]


def test_a_replacement_works_where_there_is_nothing_yet(settings, complete, visible):
    assert visible(complete(settings(replace=True)).path) == ["config.yaml", "records", "run.json"]


def test_leftovers_of_dead_processes_go_and_those_of_living_ones_stay(settings, tmp_path, complete, visible):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    runs = tmp_path / "runs"
    for name in (f".one.{dead.pid}", f".one.{os.getppid()}", f".other.{dead.pid}", ".one.notes"):
        (runs / name).mkdir(parents=True)
    complete(settings(replace=True))
    assert visible(runs) == sorted([f".one.{os.getppid()}", f".other.{dead.pid}", ".one.notes", "one"])


def test_a_run_that_was_moved_away_by_a_process_that_died_comes_back(settings, tmp_path, complete, visible):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    old = complete(settings())
    old.path.rename(old.path.with_name(f".one.{dead.pid}.old"))
    with pytest.raises(RuntimeError), RunFolder.prepare(settings(seed=1, replace=True)):
        raise RuntimeError
    assert load_settings(old.path).seed == 0
    assert visible(old.path.parent) == ["one"]


def test_a_second_process_cannot_write_the_same_run_nor_replace_it(settings):
    with RunFolder.prepare(settings()):
        with pytest.raises(RunFolderError, match="is being written by process"):
            RunFolder.prepare(settings())
        with pytest.raises(RunFolderError, match="is being written by process"):
            RunFolder.prepare(settings(replace=True))


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_that_is_not_a_run_is_never_touched(settings, tmp_path, replace, visible):
    thesis = tmp_path / "runs" / "one" / "thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years")
    with pytest.raises(RunFolderError, match="is not a run"):
        RunFolder.prepare(settings(replace=replace))
    assert visible(thesis.parent) == ["thesis.tex"]


def test_a_run_inside_a_run_is_refused(settings, complete):
    complete(settings())
    with pytest.raises(RunFolderError, match="is a run itself"):
        RunFolder.prepare(settings(name="one/records/two"))
