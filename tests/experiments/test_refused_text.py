"""Text that cannot be used, through the command: a few lines, exit code 2, and no run folder."""

import json

import pytest

from confreg.experiments.command_line import run_command
from confreg.experiments.train import _train

SOURCES = {
    "nothing there": ("none.txt", None, "there is no such file or folder"),
    "Latin-1": ("a.txt", b"caf\xe9 " * 9, "a.txt: byte 3 is not UTF-8"),
    "a bad line": ("a.jsonl", b'{"text": "a"}\n{"text": 3}\n', "a.jsonl, line 2: field 'text' is int"),
    "too few documents": ("a.jsonl", b'{"text": "a"}\n', "has 1 documents of 1 characters"),
    "too short documents": ("a.jsonl", b'{"text": "a"}\n' * 20, "the train part has no block"),
    "a bad row of a dataset": ("hub:./data", json.dumps({"text": "a\0"}).encode(), "'hub:./data', row 1: a NUL character"),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_text_that_cannot_be_used_is_refused_in_a_few_lines_and_no_run_folder_stays(tmp_path, monkeypatch, capsys, kind):
    source, content, said = SOURCES[kind]
    monkeypatch.chdir(tmp_path)
    if content is not None:
        path = tmp_path / ("data/train.jsonl" if source.startswith("hub:") else source)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    assert run_command("train", _train, ["data=text", f"data.source={source}", "run.name=mine", "data.cache=cache"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("confreg-train: ")
    assert said in error
    assert len(error.splitlines()) <= 4
    assert not (tmp_path / "runs" / "mine").exists()
