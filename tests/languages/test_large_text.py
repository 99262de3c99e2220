"""Texts of a hundred megabytes on one line: read or refused within half a gigabyte."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

N_BYTES = 100_000_000
PROSE = b"some words of prose, and never a line's end, "
READ = r"""
import pathlib, re, sys
from confreg.languages.documents import Documents, TextError
from confreg.settings import TextSettings
try:
    said = sum(len(document.text) for document in Documents(TextSettings(source=sys.argv[1])))
except TextError as error:
    said = error
status = pathlib.Path("/proc/self/status").read_text()
print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024, said, sep="|")
"""


def prose(n_bytes=N_BYTES):
    return PROSE * (n_bytes // len(PROSE))


def write_parquet(path):
    pq.write_table(pa.table({"text": ["short", prose().decode()]}), path)


KINDS = {
    "prose alone": ("a.txt", "a.txt", prose, str(len(prose()))),
    "letters alone": ("a.txt", "a.txt", lambda: b"x" * N_BYTES, str(N_BYTES)),
    "prose in a folder": ("texts", "texts/a.txt", prose, "texts/a.txt: one document of"),
    "a line of jsonl": ("a.jsonl", "a.jsonl", lambda: b'{"text": "' + prose() + b'"}\n', "a.jsonl, line 1: one document of more than"),
    "no JSON": ("a.jsonl", "a.jsonl", lambda: b"{" * N_BYTES, "a.jsonl, line 1: one document of more than"),
    "30 MB of four bytes each": (
        "a.jsonl",
        "a.jsonl",
        lambda: '{"text": "🙂'.encode() + prose(30_000_000) + b'"}\n',
        str(len(prose(30_000_000)) + 1),
    ),
    "a row of parquet": ("a.parquet", "a.parquet", None, "a.parquet, row 2: one document of"),
}


@pytest.mark.heavy
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is asked of Linux")
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_megabytes_without_a_line_end_stay_within_half_a_gigabyte(tmp_path, kind):
    source, place, content, expected = KINDS[kind]
    (tmp_path / place).parent.mkdir(exist_ok=True)
    write_parquet(tmp_path / place) if content is None else (tmp_path / place).write_bytes(content())
    printed = subprocess.run([sys.executable, "-c", READ, source], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    peak_mib, said = printed.strip().split("|", 1)
    assert expected in said
    assert float(peak_mib) < 512
