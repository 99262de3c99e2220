"""Kinds of jsonl and parquet that are not the rows one hoped for: refused with line or row and reason, or repaired as documented."""

import datetime
import decimal
import gzip
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from confreg.languages import files, plain_text

GOOD = b'{"text": "all well"}\n'

# what stands on the second line, and what is said of it
LINES = {
    "no JSON at all": (b"just words", "is not JSON"),
    "an open brace": (b"{broken", "is not JSON"),
    "a cut string": (b'{"text": "abc', "is not JSON .*Invalid control character"),
    "a cut object": (b'{"text": "abc"', "is not JSON .*delimiter"),
    "a trailing comma": (b'{"text": "abc",}', "is not JSON"),
    "a missing comma": (b'{"text": "abc" "id": 3}', "is not JSON .*',' delimiter"),
    "a missing colon": (b'{"text" "abc"}', "is not JSON .*':' delimiter"),
    "single quotes": (b"{'text': 'abc'}", "is not JSON .*double quotes"),
    "a bare key": (b'{text: "abc"}', "is not JSON .*double quotes"),
    "a comment": (b'{"text": "abc"} // good', "is not JSON .*Extra data"),
    "words of Python": (b'{"text": None}', "is not JSON .*Expecting value"),
    "an unknown escape": (b'{"text": "a\\x41"}', "is not JSON .*Invalid .*escape"),
    "a tab within a string": (b'{"text": "a\tb"}', "is not JSON .*Invalid control character"),
    "a line's end within a string": (b'{"text": "a\nb"}', "is not JSON .*Invalid control character"),
    "two objects": (b'{"text": "a"}{"text": "b"}', "is not JSON .*Extra data"),
    "two objects with a comma": (b'{"text": "a"}, {"text": "b"}', "is not JSON .*Extra data"),
    "lines that end in CR alone": (b'{"text": "a"}\r{"text": "b"}', "is not JSON .*carriage return alone"),
    "a byte order mark within": (b'\xef\xbb\xbf{"text": "a"}', "is not JSON .*BOM"),
    "NaN": (b'{"text": "a", "score": NaN}', "NaN is not a value that JSON knows"),
    "Infinity": (b'{"text": "a", "score": [-Infinity]}', "-Infinity is not a value that JSON knows"),
    "the text twice": (b'{"text": "a", "text": "b"}', "the key 'text' stands twice in one object"),
    "another key twice": (b'{"id": 1, "text": "a", "id": 1}', "the key 'id' stands twice"),
    "a key twice further in": (b'{"text": "a", "meta": {"x": 1, "x": 2}}', "the key 'x' stands twice"),
    "nested too deep": (b"[" * 100_000, "is not JSON"),
    "a number too long": (b'{"text": ' + b"1" * 5000 + b"}", "is not JSON"),
    "a list": (b'["a"]', "is a JSON list; expected an object"),
    "a list of objects": (b'[{"text": "a"}, {"text": "b"}]', "is a JSON list; expected an object"),
    "a string": (b'"text"', "is a JSON str; expected an object"),
    "a number": (b"3.5", "is a JSON float; expected an object"),
    "null": (b"null", "is a JSON NoneType; expected an object"),
    "true": (b"true", "is a JSON bool; expected an object"),
    "an empty object": (b"{}", "has no field 'text'; its fields are none. Set data.text_field"),
    "another field": (b'{"body": "x", "id": 3}', "has no field 'text'; its fields are 'body', 'id'"),
    "another case": (b'{"Text": "x"}', "has no field 'text'; its fields are 'Text'"),
    "the field further in": (b'{"data": {"text": "x"}}', "has no field 'text'; its fields are 'data'"),
    "a very long key": (b'{"' + b"k" * 100_000 + b'": 1}', "has no field 'text'"),
    "an int for text": (b'{"text": 3}', "field 'text' is int; expected a string"),
    "a float for text": (b'{"text": 0.5}', "field 'text' is float; expected a string"),
    "a bool for text": (b'{"text": true}', "field 'text' is bool; expected a string"),
    "null for text": (b'{"text": null}', "field 'text' is NoneType; expected a string"),
    "a list for text": (b'{"text": ["x"]}', "field 'text' is list; expected a string"),
    "an object for text": (b'{"text": {"en": "x"}}', "field 'text' is dict; expected a string"),
    "an escaped NUL": (b'{"text": "a\\u0000"}', r"a NUL character \(U\+0000\) at character 1"),
    "a high surrogate": (b'{"text": "a\\ud800 b"}', r"half of a surrogate pair \(U\+D800\) at character 1"),
    "a low surrogate": (b'{"text": "a\\udc00"}', r"half of a surrogate pair \(U\+DC00\)"),
    "a pair in the wrong order": (b'{"text": "\\ude00\\ud83d"}', r"half of a surrogate pair \(U\+DE00\) at character 0"),
    "a byte that is no UTF-8": (b'{"text": "\xff"}', "byte 31 is not UTF-8"),
    "a NUL byte": (b'{"text": "\x00"}', "a NUL character at byte 31"),
    "a line of 32 MiB": (b'{"text": "' + b"word " * 1000 + b'"}', "one document of more than 4096 bytes; expected at most"),
    "a stretch without a blank": (
        b'{"text": "some words and ' + b"x" * 2000 + b'"}',
        "1024 characters from character 14 on without a blank",
    ),
}

WHOLE_FILES = {
    "a JSON array over many lines": (b'[\n  {"text": "a"},\n  {"text": "b"}\n]\n', "line 1: is not JSON .*one JSON value over many lines"),
    "an indented object": (b'{\n  "text": "a"\n}\n', "line 1: is not JSON .*one JSON value over many lines"),
    "CSV": (b"text,id\nhello,1\n", "line 1: is not JSON"),
    "YAML": (b"- text: hello\n", "line 1: is not JSON"),
    "HTML": (b"<!DOCTYPE html>\n<html>", "line 1: is not JSON"),
    "UTF-16": (b"\xff\xfe" + GOOD.decode().encode("utf-16-le"), "line 1: byte 0 is not UTF-8 .*UTF-16"),
    "gzip": (gzip.compress(GOOD), "line 1: byte 1 is not UTF-8 .*gzip"),
    "a parquet": (b"PAR1" + bytes(8), "line 1: a NUL character at byte 4; it looks like a parquet file"),
    "blank lines only": (b"\n \r\n\n", "no row has any text in 'text'"),
    "blank texts only": (b'{"text": ""}\n{"text": " \\n"}\n', "no row has any text in 'text'"),
    "nothing": (b"", "the file is empty"),
}

COLUMNS = {
    "another column": ({"body": ["x"]}, "has no field 'text'; its fields are 'body'"),
    "another case": ({"TEXT": ["x"]}, "has no field 'text'; its fields are 'TEXT'"),
    "whole numbers": ({"text": [1]}, "row 1: field 'text' is int"),
    "numbers": ({"text": [0.5]}, "row 1: field 'text' is float"),
    "decimals": ({"text": [decimal.Decimal("0.5")]}, "row 1: field 'text' is Decimal"),
    "truth values": ({"text": [True]}, "row 1: field 'text' is bool"),
    "times": ({"text": [datetime.datetime(2026, 1, 1)]}, "row 1: field 'text' is datetime"),
    "bytes": ({"text": [b"abc"]}, "row 1: field 'text' is bytes"),
    "lists": ({"text": [["a", "b"]]}, "row 1: field 'text' is list"),
    "structs": ({"text": [{"en": "a"}]}, "row 1: field 'text' is dict"),
    "a dictionary of numbers": ({"text": pa.array([7, 7]).dictionary_encode()}, "row 1: field 'text' is int"),
    "nulls only": ({"text": pa.nulls(2)}, "row 1: field 'text' is NoneType"),
    "a null among texts": ({"text": ["x", None]}, "row 2: field 'text' is NoneType"),
    "a null in a dictionary": ({"text": pa.array(["x", None]).dictionary_encode()}, "row 2: field 'text' is NoneType"),
    "NUL": ({"text": ["x", "y\0"]}, r"row 2: a NUL character \(U\+0000\) at character 1"),
    "bytes that are no UTF-8": (
        {"text": pa.Array.from_buffers(pa.string(), 1, pa.array([b"ab\xff"]).buffers())},
        "row 1: byte 2 of the text is not UTF-8",
    ),
    "half of a surrogate pair": (
        {"text": pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xed\xa0\x80"]).buffers())},
        "row 1: byte 0 of the text is not UTF-8",
    ),
    "no rows": ({"text": pa.array([], pa.string())}, "no row has any text in 'text'"),
    "blank texts only": ({"text": ["", " \n"]}, "no row has any text in 'text'"),
    "a text of 32 MiB": ({"text": ["x", "word " * 1000]}, "row 2: one document of 5000 bytes; expected at most"),
    "a stretch without a blank": ({"text": ["x" * 2000]}, "row 1: 1024 characters from character 0 on without a blank"),
}


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    """So that nobody waits for 32 MiB."""
    monkeypatch.setattr(files, "LARGEST_DOCUMENT", 4096)
    monkeypatch.setattr(plain_text, "LONGEST_STRETCH", 1024)


@pytest.fixture
def no_limits(monkeypatch):
    monkeypatch.undo()


@pytest.mark.parametrize("kind", LINES)
def test_a_bad_line_of_jsonl_is_refused_with_its_number_and_reason(tmp_path, refusal_of, kind, request):
    line, said = LINES[kind]
    if len(line) > 4096 and "32 MiB" not in kind:
        request.getfixturevalue("no_limits")
    (tmp_path / "rows.jsonl").write_bytes(GOOD + line + b"\n" + GOOD)
    refusal = refusal_of(tmp_path / "rows.jsonl")
    assert re.search(rf"^{tmp_path}/rows.jsonl, line 2: .*{said}", refusal), refusal


@pytest.mark.parametrize("kind", WHOLE_FILES)
def test_a_file_that_is_no_jsonl_is_refused_with_the_reason(tmp_path, refusal_of, kind):
    content, said = WHOLE_FILES[kind]
    (tmp_path / "rows.jsonl").write_bytes(content)
    refusal = refusal_of(tmp_path / "rows.jsonl")
    assert re.search(rf"^{tmp_path}/rows.jsonl(, |: ){said}", refusal), refusal


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_bad_column_of_parquet_is_refused_with_row_and_reason(tmp_path, refusal_of, kind):
    columns, said = COLUMNS[kind]
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    refusal = refusal_of(tmp_path / "rows.parquet")
    assert re.search(rf"^{tmp_path}/rows.parquet(, |: ){said}", refusal), refusal


def test_a_parquet_with_two_columns_of_the_name_is_refused(tmp_path, refusal_of):
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "rows.parquet")
    assert "has 2 columns named 'text'; expected one" in refusal_of(tmp_path / "rows.parquet")


@pytest.mark.parametrize("damage", ["magic only", "text renamed", "first half", "last half", "footer flipped", "length flipped"])
def test_a_damaged_parquet_is_refused(tmp_path, refusal_of, damage):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": [f"row {i} of many" for i in range(500)]}), path)
    whole = path.read_bytes()
    footer = bytearray(whole)
    footer[-60:-20] = bytes(40)
    path.write_bytes(
        {
            "magic only": b"PAR1",
            "text renamed": b"words, and no table\n",
            "first half": whole[: len(whole) // 2],
            "last half": whole[len(whole) // 2 :],
            "footer flipped": bytes(footer),
            "length flipped": whole[:-8] + b"\xff\xff\xff\x7f" + whole[-4:],
        }[damage]
    )
    assert re.search(r"rows.parquet: (is not a readable parquet file|cannot be read) \(.+\)", refusal_of(path))


def test_a_page_whose_bytes_do_not_fit_its_checksum_is_refused(tmp_path, refusal_of, texts_of):
    path, texts = tmp_path / "rows.parquet", [f"row {i} of many" for i in range(500)]
    pq.write_table(pa.table({"text": texts}), path, compression="none", use_dictionary=False, write_page_checksum=True)
    assert texts_of(path) == texts
    path.write_bytes(path.read_bytes().replace(b"row 250 of many", b"row 250 of mary"))
    assert re.search(r"rows.parquet: .*(CRC|checksum)", refusal_of(path))


REPAIRED = {
    "a byte order mark at the beginning": (b'\xef\xbb\xbf{"text": "one"}\n', ["one"]),
    "blank lines": (b'\n{"text": "one"}\n  \r\n\n{"text": "two"}\n', ["one", "two"]),
    "rows of whitespace": (b'{"text": " \\n"}\n{"text": "two"}\n{"text": ""}\n', ["two"]),
    "lines that end in CR LF": (b'{"text": "one"}\r\n{"text": "two"}\r\n', ["one", "two"]),
    "no line's end at the end": (b'{"text": "one"}', ["one"]),
    "a pair of surrogates": (b'{"text": "\\ud83d\\ude00"}', ["😀"]),
    "other fields": (b'{"id": [1, null, {"a": 1e400}], "text": "one", "more": null}', ["one"]),
    "line ends of Unicode within": ('{"text": "a\u2028b\u0085c"}\n'.encode(), ["a\u2028b\u0085c"]),
}


@pytest.mark.parametrize("kind", REPAIRED)
def test_a_jsonl_is_repaired_or_kept_as_documented(tmp_path, texts_of, kind):
    content, expected = REPAIRED[kind]
    (tmp_path / "rows.jsonl").write_bytes(content)
    assert texts_of(tmp_path / "rows.jsonl") == expected


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "brotli", "lz4", "zstd"])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_a_parquet_is_read_whatever_its_kind_of_string_and_compression(tmp_path, texts_of, kind, codec):
    texts = pa.array(["one", "", "two", "one", " \n"]).cast(kind)
    pq.write_table(pa.table({"more": pa.array([[{"a": 1}]] * 5), "text": texts}), tmp_path / "rows.parquet", compression=codec)
    assert texts_of(tmp_path / "rows.parquet") == ["one", "two", "one"]
