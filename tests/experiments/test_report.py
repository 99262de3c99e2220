import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

from confreg.experiments.report import main
from confreg.records.schema import table_of
from confreg.records.store import RecordStore


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The smallest run that can be shown: two neurons at step 0."""
    rows = table_of("neurons", {"layer": 1, "neuron": [0, 1]}, 2, {"step": 0, "tokens_seen": 0, "weights_sha256": "0"})
    RecordStore(tmp_path / "run" / "records").write("neurons", 0, rows)
    return tmp_path / "run"


def test_the_page_is_written_into_the_run_and_its_path_is_printed(run, capsys):
    assert main([str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert (run / "report.html").is_file()


def test_out_says_where_the_page_goes(run, tmp_path):
    assert main([str(run), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").is_file()
    assert not (run / "report.html").exists()


def test_a_run_without_records_ends_with_2_and_one_line(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("confreg-report: ")
    assert str(tmp_path / "records" / "neurons") in error
    assert error.count("\n") == 1


def test_a_place_that_cannot_be_written_ends_with_2(run, tmp_path, capsys):
    assert main([str(run), "--out", str(tmp_path / "absent" / "page.html")]) == 2
    assert "Choose another --out" in capsys.readouterr().err


def test_several_runs_are_compared_where_they_lie(run, capsys):
    other = shutil.copytree(run, run.with_name("other"))
    assert main([str(run), str(other)]) == 0
    assert capsys.readouterr().out.strip() == str(run.parent / "comparison.html")
    assert (run.parent / "comparison.html").is_file()
    assert not (run / "report.html").exists()


def test_a_folder_of_runs_is_compared_and_what_is_left_out_is_told(run, tmp_path, capsys):
    shutil.copytree(run, run.with_name("other"))
    (tmp_path / "broken" / "records").mkdir(parents=True)
    assert main([str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == str(tmp_path / "page.html")
    assert captured.err.startswith("confreg-report: broken is not shown: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("others", "out", "said"),
    [
        (["run"], None, "was named 2 times; expected different runs"),
        (["absent"], None, "absent is not a folder"),
        (["nothing"], None, "nothing has no runs in it"),
        (["other"], "run/report.html", "is the page of a run"),
        (["other"], "absent/page.html", "cannot be written"),
    ],
)
def test_what_cannot_be_compared_ends_with_2_and_one_line(run, tmp_path, others, out, said, capsys):
    shutil.copytree(run, run.with_name("other"))
    (tmp_path / "nothing").mkdir()
    where = ["--out", str(tmp_path / out)] if out else []
    assert main([str(run), *(str(tmp_path / other) for other in others), *where]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (run / "report.html").exists()


def test_a_place_without_permission_ends_with_2(run, tmp_path, capsys, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    other = shutil.copytree(run, run.with_name("other"))
    monkeypatch.setattr("confreg.figures.html_file.write_text_durably", refuse)
    assert main([str(run), str(other)]) == 2
    assert "cannot be written (Permission denied)" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "said"), [("--version", version("confreg")), ("--help", "comparison.html")])
def test_version_and_help_are_told(flag, said, capsys):
    with pytest.raises(SystemExit) as exit_of_command:
        main([flag])
    assert exit_of_command.value.code == 0
    assert said in capsys.readouterr().out
