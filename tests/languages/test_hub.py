"""A dataset, local folders through the same code as the hub's."""

import json
import os
import re
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from confreg.languages import hub_stream
from confreg.languages.documents import Documents, TextError, check_source
from confreg.languages.text import TextLanguage
from confreg.settings import TextSettings

ROWS = [{"text": f"row {i} of a dataset about neurons", "id": i} for i in range(12)]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Make a folder of files and settings that read it as a dataset."""
    monkeypatch.chdir(tmp_path)

    def make(files=None, **settings):
        for name, content in (files or {"train.jsonl": lines(ROWS)}).items():
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content) if isinstance(content, bytes) else pq.write_table(pa.table(content), path)
        return TextSettings(**{"source": "hub:./data", "cache": str(tmp_path / "cache")} | settings)

    return make


def texts(settings):
    return [document.text for document in Documents(settings)]


@pytest.fixture
def no_library(monkeypatch):
    """From here on the dataset must come from the cache."""

    def forbid():
        monkeypatch.setitem(sys.modules, "datasets", None)

    return forbid


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "csv", "two files"])
def test_a_dataset_gives_the_rows_of_its_files(dataset, kind):
    files = {
        "jsonl": {"train.jsonl": lines(ROWS)},
        "json": {"train.json": json.dumps(ROWS).encode()},
        "parquet": {"train.parquet": {"text": [row["text"] for row in ROWS]}},
        "csv": {"train.csv": b"id,text\n" + b"".join(f"{row['id']},{row['text']}\n".encode() for row in ROWS)},
        "two files": {"train/0.jsonl": lines(ROWS[:5]), "train/1.jsonl": lines(ROWS[5:])},
    }[kind]
    assert texts(dataset(files)) == [row["text"] for row in ROWS]


def test_a_dataset_of_text_files_gives_their_lines_and_skips_blank_ones(dataset):
    found = list(Documents(dataset({"a.txt": b"one\n\ntwo\r\n \nthree"})))
    assert [document.text.strip() for document in found] == ["one", "two", "three"]
    assert [document.name for document in found] == ["row 1", "row 3", "row 5"]


def test_split_subset_field_and_number_of_documents_are_chosen(dataset):
    card = b"---\nconfigs:\n- config_name: en\n  data_files: en/*\n- config_name: de\n  data_files: de/*\n---\n"
    files = {"README.md": card, "en/train.jsonl": lines(ROWS), "de/test.jsonl": lines([{"body": f"Zeile {i}"} for i in range(9)])}
    chosen = dataset(files, hub_subset="de", text_field="body", max_documents=4)
    assert texts(chosen) == [f"Zeile {i}" for i in range(4)]
    assert texts(dataset(hub_subset="en", max_documents=2)) == [row["text"] for row in ROWS[:2]]
    assert texts(dataset({"d/test.jsonl": lines(ROWS[5:]), "d/train.jsonl": lines(ROWS)}, source="hub:./data/d", hub_split="test"))[0] == (
        "row 5 of a dataset about neurons"
    )


def test_blank_rows_do_not_count_as_documents(dataset):
    found = list(Documents(dataset({"train.jsonl": lines([{"text": " "}, {"text": "a"}, {"text": ""}, {"text": "b"}])}, max_documents=2)))
    assert [(document.name, document.text) for document in found] == [("row 2", "a"), ("row 4", "b")]


def test_the_second_reading_takes_the_cache_and_not_the_library(dataset, no_library):
    settings = dataset()
    first = Documents(settings)
    no_library()
    second = Documents(settings)
    assert list(first) == list(second) == list(second)
    assert first.facts() == second.facts()


@pytest.mark.parametrize("change", [{"max_documents": 3}, {"text_field": "id"}, {"hub_subset": "default"}])
def test_another_choice_is_read_anew(dataset, no_library, change):
    texts(dataset())
    no_library()
    with pytest.raises(ImportError):
        texts(dataset(**change))


def test_a_folder_in_which_a_file_has_changed_is_read_anew(dataset):
    texts(dataset())
    assert texts(dataset({"train.jsonl": lines(ROWS[:3])})) == [row["text"] for row in ROWS[:3]]


def test_a_folder_that_changes_while_it_is_read_is_refused(dataset, tmp_path, monkeypatch):
    settings, check = dataset(), hub_stream.text_of_record

    def meanwhile(row, field, place):
        if place.endswith("row 3"):
            (tmp_path / "data" / "more.txt").write_text("more")
        return check(row, field, place)

    monkeypatch.setattr(hub_stream, "text_of_record", meanwhile)
    with pytest.raises(TextError, match=r"'hub:./data' changed while it was read"):
        texts(settings)
    assert os.listdir(tmp_path / "cache" / "hub") == []


def test_small_groups_store_the_same_documents(dataset, monkeypatch):
    whole = texts(dataset())
    monkeypatch.setattr(hub_stream, "GROUP_CHARACTERS", 40)
    settings = dataset(max_documents=100)  # another folder of the cache
    assert texts(settings) == whole
    [path] = [path for path in (Documents(settings)._dataset.folder).iterdir() if path.suffix == ".parquet"]
    assert pq.ParquetFile(path).num_row_groups > 3


def test_facts_say_what_was_read(dataset):
    settings = dataset({"train.jsonl": lines([*ROWS, {"text": " "}])})
    facts = json.loads(json.dumps(Documents(settings).facts()))["dataset"]
    expected = {"name": "./data", "subset": None, "split": "train", "revision_asked": None, "commit": None, "n_rows": 13, "n_documents": 12}
    assert {key: facts[key] for key in expected} == expected
    assert re.fullmatch("[0-9a-f]{64}", facts["sha256"])


def test_a_language_of_a_dataset_has_the_facts_and_is_made_once(dataset, no_library, write_text):
    rows = [{"text": write_text(i, 90)} for i in range(20)]
    settings = dataset({"train.jsonl": lines(rows)}, vocabulary_size=300, block_length=16)
    first = TextLanguage(settings)
    no_library()
    assert TextLanguage(settings).facts() == first.facts()
    assert first.facts()["dataset"]["n_documents"] == sum(first.facts()["n_documents"].values()) == 20


BAD_ROWS = {
    "another field": ({"train.jsonl": lines([{"body": "x"}])}, "has no field 'text'; its fields are 'body'"),
    "a row without the field": ({"train.jsonl": lines([{"text": "x"}, {"body": "y"}])}, "row 2: field 'text' is NoneType"),
    "null": ({"train.jsonl": lines([{"text": "x"}, {"text": None}])}, "row 2: field 'text' is NoneType"),
    "a number": ({"train.jsonl": lines([{"text": "x"}, {"text": 3}])}, "row 2: field 'text' is int"),
    "a list": ({"train.jsonl": lines([{"text": ["x"]}])}, "row 1: field 'text' is list"),
    "an object": ({"train.jsonl": lines([{"text": {"en": "x"}}])}, "row 1: field 'text' is dict"),
    "NUL": ({"train.jsonl": lines([{"text": "x"}, {"text": "y\0"}])}, "row 2: a NUL character"),
    "bytes": ({"train.parquet": {"text": [b"x"]}}, "row 1: field 'text' is bytes"),
    "a null in a parquet": ({"train.parquet": {"text": ["x", None]}}, "row 2: field 'text' is NoneType"),
    "blank rows only": ({"train.jsonl": lines([{"text": " "}] * 3)}, r"no row has any text in 'text' \(3 rows\)"),
    "half of a surrogate pair": ({"train.jsonl": b'{"text": "a\\ud800"}\n'}, "the dataset cannot be read .*surrogate"),
    "Latin-1": ({"train.jsonl": b'{"text": "\xe9"}\n'}, "the dataset cannot be read .*UnicodeDecodeError"),
    "broken JSON": ({"train.jsonl": lines(ROWS) + b"{broken\n"}, "the dataset cannot be read .*JSON parse error"),
    "a damaged parquet": ({"train.parquet": b"PAR1 and no more"}, "the dataset cannot be read .*Parquet magic bytes"),
    "an empty file": ({"train.jsonl": b""}, "the dataset cannot be read"),
    "nothing but a picture": ({"train.xyz": b"\x89PNG"}, "the dataset cannot be read"),
    "a program": ({"data.py": b"raise SystemExit(3)"}, "the dataset cannot be read .*scripts are no longer supported"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_rows_that_are_no_text_are_refused_with_their_number_and_nothing_stays(dataset, refusal_of, tmp_path, kind, capfd):
    files, said = BAD_ROWS[kind]
    refusal = refusal_of(dataset(files).source)
    assert re.search(said, refusal), refusal
    assert os.listdir(tmp_path / "cache" / "hub") == []
    assert capfd.readouterr().err == ""


NO_DATASETS = {
    "a name without an owner": ({"source": "hub:squad"}, "expected hub:OWNER/NAME"),
    "three parts": ({"source": "hub:a/b/c"}, "expected hub:OWNER/NAME"),
    "an address": ({"source": "hub:https://example.org/a"}, "expected hub:OWNER/NAME"),
    "a token within": ({"source": "hub:me:secret@a/b"}, "expected hub:OWNER/NAME"),
    "nothing": ({"source": "hub:"}, "expected hub:OWNER/NAME"),
    "a folder that is not there": ({"source": "hub:./none"}, "there is no such folder"),
    "a file": ({"source": "hub:./data/train.jsonl"}, "there is no such folder"),
    "the home of nobody": ({"source": "hub:~nobody-of-this-name/x"}, "which is no path"),
    "a folder's revision": ({"hub_revision": "main"}, "a folder has no revisions"),
}


@pytest.mark.parametrize("kind", NO_DATASETS)
def test_a_name_that_can_be_no_dataset_is_refused_before_the_network_is_asked(dataset, no_library, kind):
    settings, said = NO_DATASETS[kind]
    chosen = dataset(**settings)
    no_library()
    for refuse in (check_source, Documents):
        with pytest.raises(TextError, match=said):
            refuse(chosen)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"hub_split": "test"}, r"Bad split: test. Available splits: \['train'\]"), ({"hub_subset": "de"}, r"'de' not found. Available: \[")],
)
def test_a_split_or_subset_that_is_not_there_is_refused_with_those_that_are(dataset, settings, said):
    with pytest.raises(TextError, match=said):
        texts(dataset(**settings))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, RuntimeError, OSError(28, "No space left on device")])
@pytest.mark.parametrize("where", ["the third row", "the writer"])
def test_a_stream_that_stops_leaves_nothing_half_written_and_the_next_start_works(dataset, tmp_path, monkeypatch, stop, where):
    settings, check = dataset(), hub_stream.text_of_record

    def stopping(row, field, place):
        if place.endswith("row 3"):
            raise stop
        return check(row, field, place)

    def full(*_, **__):
        raise stop

    with monkeypatch.context() as patch:
        if where == "the writer":
            patch.setattr(pq.ParquetWriter, "write_table", full)
        else:
            patch.setattr(hub_stream, "text_of_record", stopping)
        with pytest.raises(TextError if isinstance(stop, OSError) else stop):
            texts(settings)
    assert os.listdir(tmp_path / "cache" / "hub") == []
    assert len(texts(settings)) == 12


def test_a_damaged_dataset_in_the_cache_is_refused_and_deleting_it_helps(dataset):
    settings = dataset()
    folder = Documents(settings)._dataset.folder
    (folder / "documents.parquet").write_bytes((folder / "documents.parquet").read_bytes()[:-1])
    with pytest.raises(TextError, match=rf"documents.parquet: has \d+ bytes; expected \d+. Delete the folder {folder} and start again"):
        texts(settings)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert len(texts(settings)) == 12


def test_the_librarys_own_bars_and_log_level_are_as_before(dataset):
    import datasets

    before = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    texts(dataset())
    assert (datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()) == before
