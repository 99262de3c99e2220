"""Kinds of bytes that are not the text one hoped for: refused with file, byte and reason, or kept as documented."""

import bz2
import gzip
import io
import lzma
import pickle
import re
import zipfile

import numpy as np
import pyarrow as pa
import pytest

TEXT = "The déjà vu of “neurons” – they regulate confidence. " * 4
JAPANESE, CHINESE, KOREAN, RUSSIAN = "信頼度の神経細胞。" * 9, "置信度神经元。" * 9, "신뢰도 신경세포 " * 9, "нейроны уверенности " * 9


def zipped():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("word/document.xml", TEXT)
    return content.getvalue()


def array():
    content = io.BytesIO()
    np.save(content, np.arange(9))
    return content.getvalue()


REFUSED = {
    "empty": (b"", r"the file is empty \(0 bytes\)"),
    "blanks": (b" \n\t\r\n ", "holds only whitespace"),
    "blanks of Unicode": ("\u00a0\u2003\u2028\u3000".encode(), "holds only whitespace"),
    "a byte order mark alone": (b"\xef\xbb\xbf", "holds only whitespace"),
    "a byte order mark and blanks": (b"\xef\xbb\xbf \n", "holds only whitespace"),
    "Latin-1": ("déjà vu".encode("latin-1"), r"byte 1 is not UTF-8 \(invalid continuation byte\); it may be Latin-1"),
    "Windows-1252": ("“neurons”".encode("cp1252"), r"byte 0 is not UTF-8 .*Windows-1252"),
    "Mac Roman": ("déjà vu".encode("mac_roman"), "byte 1 is not UTF-8"),
    "KOI8-R": (RUSSIAN.encode("koi8_r"), "byte 0 is not UTF-8"),
    "Windows-1251": (RUSSIAN.encode("cp1251"), "byte 0 is not UTF-8"),
    "Shift JIS": (JAPANESE.encode("shift_jis"), r"byte \d is not UTF-8"),
    "EUC-JP": (JAPANESE.encode("euc_jp"), r"byte \d is not UTF-8"),
    "Big5": ("神經元".encode("big5"), r"byte \d is not UTF-8"),
    "GB18030": (CHINESE.encode("gb18030"), r"byte \d is not UTF-8"),
    "GB18030 with its mark": (("\ufeff" + CHINESE).encode("gb18030"), "byte 0 is not UTF-8 .*it looks like GB18030"),
    "EUC-KR": (KOREAN.encode("euc_kr"), "byte 0 is not UTF-8"),
    "EBCDIC": (TEXT.replace("“", "").replace("”", "").replace("–", "").encode("cp037"), r"byte \d is not UTF-8"),
    "UTF-16, little-endian": (TEXT.encode("utf-16-le"), "it looks like UTF-16"),
    "UTF-16, little-endian, marked": (b"\xff\xfe" + TEXT.encode("utf-16-le"), "byte 0 is not UTF-8 .*it looks like UTF-16"),
    "UTF-16, big-endian": (TEXT.encode("utf-16-be"), "byte 11 is not UTF-8 .*it looks like UTF-16"),
    "UTF-16, big-endian, marked": (b"\xfe\xff" + TEXT.encode("utf-16-be"), "byte 0 is not UTF-8 .*it looks like UTF-16"),
    "UTF-32, little-endian": (TEXT.encode("utf-32-le"), "it looks like UTF-32"),
    "UTF-32, little-endian, marked": (TEXT.encode("utf-32"), "byte 0 is not UTF-8 .*it looks like UTF-32"),
    "UTF-32, big-endian": (TEXT.encode("utf-32-be"), "byte 23 is not UTF-8 .*it looks like UTF-32"),
    "UTF-32, big-endian, marked": (b"\x00\x00\xfe\xff" + TEXT.encode("utf-32-be"), "it looks like UTF-32"),
    "UTF-7, marked": (b"+/v8-" + TEXT.encode("utf-7"), r"it looks like UTF-7 \(byte 0\)"),
    "cut in a character of two bytes": ("text, then é".encode()[:-1], r"byte 11 is not UTF-8 \(unexpected end of data\)"),
    "cut in a character of three bytes": ("text, then €".encode()[:-1], r"byte 11 is not UTF-8 \(unexpected end of data\)"),
    "cut in a character of four bytes": ("text, then 🙂".encode()[:-1], r"byte 11 is not UTF-8 \(unexpected end of data\)"),
    "cut at the beginning": ("é and more".encode()[1:], r"byte 0 is not UTF-8 \(invalid start byte\)"),
    "a byte of a character missing": (b"an \xe2\x82 sign", r"byte 3 is not UTF-8 \(invalid continuation byte\)"),
    "an overlong slash": (b"a\xc0\xafb", r"byte 1 is not UTF-8 \(invalid start byte\)"),
    "an overlong NUL, as Java writes it": (b"a\xc0\x80b", r"byte 1 is not UTF-8 \(invalid start byte\)"),
    "an overlong form of three bytes": (b"a\xe0\x80\xafb", "byte 1 is not UTF-8"),
    "an overlong form of four bytes": (b"a\xf0\x80\x80\xafb", "byte 1 is not UTF-8"),
    "half of a surrogate pair": (b"a\xed\xa0\x80b", "byte 1 is not UTF-8"),
    "a surrogate pair, as CESU-8 writes it": (b"a\xed\xa0\xbd\xed\xb8\x80b", "byte 1 is not UTF-8"),
    "beyond the last code point": (b"a\xf4\x90\x80\x80b", "byte 1 is not UTF-8"),
    "a character of five bytes": (b"a\xf8\x88\x80\x80\x80b", r"byte 1 is not UTF-8 \(invalid start byte\)"),
    "the byte FF": (b"some text\xffand more", "byte 9 is not UTF-8"),
    "a bad byte far behind": (b"word " * 300_000 + b"\xff", "byte 1500000 is not UTF-8"),
    "NUL within text": (b"words\x00 and more words that are text", "a NUL character at byte 5; it looks like a binary file"),
    "NUL at the end": (b"words, well terminated\x00", "a NUL character at byte 22"),
    "NUL far behind": (b"word " * 300_000 + b"\x00", "a NUL character at byte 1500000"),
    "NULs only": (bytes(100), "a NUL character at byte 0; it looks like a binary file"),
    "gzip": (gzip.compress(TEXT.encode()), "byte 1 is not UTF-8 .*it looks like a gzip file"),
    "bzip2": (bz2.compress(TEXT.encode()), "it looks like a bzip2 file"),
    "xz": (lzma.compress(TEXT.encode()), "it looks like an xz file"),
    "zstd": (pa.compress(TEXT.encode(), codec="zstd", asbytes=True), "it looks like a zstd file"),
    "a docx": (zipped(), "it looks like a zip archive"),
    "a PDF": (b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n", r"it looks like a PDF \(byte 0\)"),
    "an RTF": (b"{\\rtf1\\ansi Neurons}", r"it looks like RTF \(byte 0\)"),
    "a PNG": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "it looks like a PNG picture"),
    "a JPEG": (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "it looks like a JPEG picture"),
    "a program": (b"\x7fELF\x02\x01\x01" + bytes(40), "NUL character at byte 7; it looks like a binary file"),
    "an SQLite database": (b"SQLite format 3\x00\x10\x00\x01\x01", "it looks like an SQLite database"),
    "a NumPy array": (array(), "it looks like a NumPy array"),
    "a pickle": (pickle.dumps({"text": TEXT}), "byte 0 is not UTF-8"),
    "a parquet": (b"PAR1\x15\x04\x15", r"it looks like a parquet file \(byte 0\)"),
}

KEPT = {
    "a byte order mark is dropped": ("\ufeffmarked", "marked"),
    "only the first byte order mark is": ("\ufeff\ufefftwice", "\ufefftwice"),
    "a byte order mark within stays": ("joined\ufefffiles", "joined\ufefffiles"),
    "CR LF stays": ("one\r\ntwo\r\n", "one\r\ntwo\r\n"),
    "CR alone stays": ("one\rtwo\r", "one\rtwo\r"),
    "other line ends stay": ("a\u2028b\u2029c\x85d\x0be\x0cf", "a\u2028b\u2029c\x85d\x0be\x0cf"),
    "no line end at the end": ("one", "one"),
    "control characters stay": ("\x01\x1b[31mred\x7f", "\x01\x1b[31mred\x7f"),
    "the replacement character stays": ("d\ufffdj\ufffd", "d\ufffdj\ufffd"),
    "code points that are no characters stay": ("\ufffe\uffff\U0010ffff", "\ufffe\uffff\U0010ffff"),
    "nothing is composed": ("e\u0301 \u00e9", "e\u0301 \u00e9"),
    "blanks around stay": ("\n\n  text \n\n", "\n\n  text \n\n"),
    "a character across the border of two pieces": ("x" + "é " * 700_000, "x" + "é " * 700_000),
}


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "in a folder"])
@pytest.mark.parametrize("kind", REFUSED)
def test_bytes_that_are_no_text_are_refused_with_file_byte_and_reason(tmp_path, refusal_of, kind, alone):
    content, said = REFUSED[kind]
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "bad.txt").write_bytes(content)
    refusal = refusal_of(folder / "bad.txt" if alone else folder)
    assert refusal.startswith(f"{folder / 'bad.txt'}: ")
    assert re.search(said, refusal), refusal


@pytest.mark.parametrize("kind", KEPT)
def test_text_is_kept_as_it_is_but_for_the_byte_order_mark(tmp_path, texts_of, kind):
    content, expected = KEPT[kind]
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "good.md").write_bytes(content.encode())
    assert texts_of(folder) == [expected]
    assert "".join(texts_of(folder / "good.md")) == expected
