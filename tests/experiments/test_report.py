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


def test_several_runs_are_refused_for_now(run, capsys):
    assert main([str(run), str(run)]) == 2
    assert "got 2 runs" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "said"), [("--version", version("confreg")), ("--help", "RUN/report.html")])
def test_version_and_help_are_told(flag, said, capsys):
    with pytest.raises(SystemExit) as exit_of_command:
        main([flag])
    assert exit_of_command.value.code == 0
    assert said in capsys.readouterr().out
