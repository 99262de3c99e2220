import json
from pathlib import Path

import pytest

from confreg.figures.comparison.places import common_folder, holds_runs, jobs_not_started, natural, run_folders
from confreg.figures.run_records import ReportError


def make(folder: Path, *runs: str) -> Path:
    for name in runs:
        (folder / name / "records").mkdir(parents=True)
    return folder


def names(folders: list[Path], below: Path) -> list[str]:
    return [folder.relative_to(below).as_posix() for folder in folders]


def test_a_folder_stands_for_the_runs_below_it_in_natural_order(tmp_path):
    make(tmp_path, "decay/seed=10", "decay/seed=2", "first")
    assert names(run_folders([tmp_path]), tmp_path) == ["decay/seed=2", "decay/seed=10", "first"]
    assert holds_runs(tmp_path)
    assert not holds_runs(tmp_path / "first")


def test_runs_in_the_making_and_what_lies_inside_a_run_are_not_runs_of_the_folder(tmp_path):
    make(tmp_path, "a", ".b.123", "a/measured/again", "a/wandb/files")
    assert names(run_folders([tmp_path]), tmp_path) == ["a"]


def test_a_run_that_is_named_twice_is_compared_once(tmp_path):
    make(tmp_path, "a", "b")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert len(run_folders([tmp_path / "a", tmp_path / "link", tmp_path / "b", tmp_path / "a"])) == 2
    with pytest.raises(ReportError, match="was named 2 times; expected different runs"):
        run_folders([tmp_path / "a", tmp_path / "link"])


@pytest.mark.parametrize(("name", "said"), [("absent", "is not a folder"), ("empty", "has no runs in it"), ("file", "is not a folder")])
def test_a_place_without_runs_is_refused_by_name(tmp_path, name, said):
    make(tmp_path, "a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ReportError, match=said) as error:
        run_folders([tmp_path / "a", tmp_path / name])
    assert str(tmp_path / name) in str(error.value)


def test_a_sweep_tells_the_jobs_that_have_not_begun(tmp_path):
    make(tmp_path, "1234abcd")
    sweep = {"jobs": {"1234abcd": ["seed=1"], "5678abcd": ["seed=2", "model=x"]}}
    (tmp_path / "sweep.json").write_text(json.dumps(sweep), encoding="utf-8")
    assert jobs_not_started([tmp_path]) == {tmp_path / "5678abcd": "seed=2 model=x"}
    (tmp_path / "sweep.json").write_text("[", encoding="utf-8")
    assert jobs_not_started([tmp_path]) == {}
    assert holds_runs(tmp_path)


def test_numbers_in_names_sort_by_size():
    given = ["w=1.0", "w=0.1", "w=0.05", "w=10", "w=1e-05"]
    assert sorted(given, key=natural) == ["w=1e-05", "w=0.05", "w=0.1", "w=1.0", "w=10"]


def test_the_common_folder_is_where_all_runs_lie():
    assert common_folder([Path("/r/a/seed=0"), Path("/r/b/seed=0")]) == Path("/r")
    assert common_folder([Path("/r/a/seed=0")]) == Path("/r/a")
    assert common_folder([Path("r/a/seed=0"), Path("r/b/seed=0")]) == Path("r")
    assert common_folder([Path("a"), Path("b")]) == Path(".")
