"""Kinds of places, names, files under change, languages and settings that cannot be used, or that are passed over as documented."""

import json
import os
import re
import socket
from pathlib import Path

import pytest

from confreg.languages import documents as documents_module
from confreg.languages.documents import Documents, TextError, check_source
from confreg.languages.text import TextLanguage
from confreg.settings import SettingError, TextSettings, check_ranges


def write(path, text="some text"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def listening(path):
    os.chdir(path.parent)  # a socket's name may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)
    return path


def linked(path, target):
    path.symlink_to(target)
    return path


def piped(path):
    os.mkfifo(path)
    return path


# how the source is made in an empty folder, and what is said of it
SOURCES = {
    "nothing there": (lambda folder: folder / "none.txt", "there is no such file or folder"),
    "a relative path to nothing": (lambda folder: "no/such/place", r"^data.source is 'no/such/place': there is no such file or folder"),
    "a link to nothing": (lambda folder: linked(folder / "a.txt", folder / "none"), "there is no such file or folder"),
    "a link to itself": (lambda folder: linked(folder / "a.txt", folder / "a.txt"), "Too many levels of symbolic links"),
    "a file taken for a folder": (lambda folder: write(folder / "a.txt") / "b.txt", "Not a directory"),
    "a name too long": (lambda folder: folder / ("a" * 300), "File name too long"),
    "a path too long": (lambda folder: "a/" * 3000, "File name too long"),
    "a NUL in the path": (lambda folder: "a\0.txt", "null byte"),
    "the home of nobody": (lambda folder: "~nobody-of-this-name/a.txt", "home directory"),
    "an address": (lambda folder: "https://example.org/a.txt", "there is no such file or folder.* Download it first"),
    "a bucket": (lambda folder: "s3://bucket/a.txt", "Download it first"),
    "an empty folder": (lambda folder: folder, "no readable file in this folder; expected files ending in .txt, .md, .jsonl, .parquet"),
    "a folder with nothing known": (lambda folder: write(folder / "a.html").parent, "no readable file in this folder"),
    "a folder with hidden files only": (lambda folder: write(folder / ".a.txt").parent, "no readable file in this folder"),
    "an unknown suffix": (lambda folder: write(folder / "a.html"), "the suffix '.html' is not known; expected one of .txt"),
    "no suffix": (lambda folder: write(folder / "README"), "the suffix '' is not known"),
    "two suffixes": (lambda folder: write(folder / "a.txt.gz"), "the suffix '.gz' is not known"),
    "JSON": (lambda folder: write(folder / "a.json", '{"text": "a"}'), "the suffix '.json' is not known"),
    "a device": (lambda folder: "/dev/zero", "/dev/zero: is not a regular file"),
    "a link to a device": (lambda folder: linked(folder / "a.txt", "/dev/zero"), "a.txt: is not a regular file"),
    "a pipe": (lambda folder: piped(folder / "a.txt"), "a.txt: is not a regular file"),
    "a socket": (lambda folder: listening(folder / "a.txt"), "a.txt: is not a regular file"),
    "a pipe in a folder": (lambda folder: piped(folder / "a.txt").parent, "a.txt: is not a regular file"),
    "a link to nothing in a folder": (lambda folder: linked(folder / "a.txt", "none").parent, "a.txt: is not a regular file .or a link"),
    "a link to itself in a folder": (lambda folder: linked(folder / "a.txt", "a.txt").parent, "a.txt: is not a regular file .or a link"),
    "an empty file in a folder": (lambda folder: write(folder / "deep" / "a.txt", "").parent.parent, "deep/a.txt: the file is empty"),
    "a name with a line's end": (lambda folder: write(folder / "a\nb.txt", ""), r"/a\\nb.txt: the file is empty"),
    "a name that colours the terminal": (lambda folder: write(folder / "\x1b[31m.txt", ""), r"/\\x1b\[31m.txt: the file is empty"),
    "a name that is not UTF-8": (lambda folder: write(Path(os.fsdecode(bytes(folder / "x") + b"\xff.txt")), ""), r"/x\\xff.txt: the file"),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_that_cannot_be_used_is_refused_before_anything_is_read(tmp_path, refusal_of, monkeypatch, kind):
    make, said = SOURCES[kind]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    source = str(make(tmp_path / "texts"))
    refusal = refusal_of(source)
    assert re.search(said, refusal), refusal
    with pytest.raises(TextError) as early:
        check_source(TextSettings(source=source))
    assert str(early.value) == refusal


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_may_not_be_read_is_refused_by_name(tmp_path, refusal_of, monkeypatch, kind):
    path = write(tmp_path / "texts" / "locked.txt")

    def refuse(*arguments, **_):
        raise PermissionError(13, "Permission denied", str(arguments[0]))

    monkeypatch.setattr(type(tmp_path), "open", refuse) if kind == "file" else monkeypatch.setattr(os, "scandir", refuse)
    refusal = refusal_of(path.parent)
    assert refusal.startswith(f"{path}: cannot be read (Permission denied)" if kind == "file" else f"{path.parent}: this folder cannot")


@pytest.mark.parametrize("change", ["gone", "emptied", "a folder now"])
def test_a_file_that_goes_while_its_folder_is_read_is_refused_by_name(tmp_path, change):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.txt")
    found = iter(Documents(TextSettings(source=str(tmp_path))))
    next(found)
    if change == "emptied":
        write(tmp_path / "b.txt", "")
    else:
        (tmp_path / "b.txt").unlink()
    if change == "a folder now":
        (tmp_path / "b.txt").mkdir()
    with pytest.raises(TextError, match=r"b\.txt: (is not a regular file|the file is empty)"):
        next(found)


def test_names_are_told_apart_and_can_be_shown_whatever_they_hold(tmp_path):
    places = ["a/x.txt", "b/x.txt", "b/X.txt", "c/X.TXT", "d.txt/x.md", "new\nline.txt", "tab\t.txt", "é 漢.txt", "\u202egnp.txt"]
    for place in places:
        write(tmp_path / place)
    write(Path(os.fsdecode(bytes(tmp_path / "z") + b"\xe9.txt")))
    names = [document.name for document in Documents(TextSettings(source=str(tmp_path)))]
    assert len(set(names)) == len(names) == len(places) + 1
    assert all(name.isprintable() for name in names)
    assert "z\\xe9.txt" in names
    assert json.loads(json.dumps(names, ensure_ascii=False).encode()) == names


def test_hidden_files_unknown_suffixes_and_links_to_folders_are_passed_over(tmp_path, texts_of):
    folder = write(tmp_path / "texts" / "a.txt", "read").parent
    for place in (".hidden.txt", ".git/b.txt", "picture.png", "a.txt~", "a.txt.bak", "README"):
        write(folder / place)
    linked(folder / "loop", folder)
    linked(folder / "away", tmp_path)
    assert texts_of(folder) == ["read"]


@pytest.mark.parametrize("change", ["longer", "shorter", "another", "one more", "one less"])
def test_a_text_that_changes_between_two_readings_is_refused(settings, text_folder, monkeypatch, change):
    from confreg.languages import text as text_module

    train, path = text_module.train_tokenizer, text_folder / "09.txt"
    old = path.read_text(encoding="utf-8")
    contents = {"longer": old + "more", "shorter": old[:-5], "another": "x" + old[1:], "one more": old}

    def meanwhile(texts, vocabulary_size):
        tokenizer = train(texts, vocabulary_size)
        if change == "one less":
            path.unlink()
        else:
            write(text_folder / "99.txt" if change == "one more" else path, contents[change])
        return tokenizer

    monkeypatch.setattr(text_module, "train_tokenizer", meanwhile)
    with pytest.raises(TextError, match=r"changed while it was read|documents came to be packed"):
        TextLanguage(settings)
    assert os.listdir(settings.cache) == []


TOO_LITTLE = {
    "one document": (["a long enough text " * 50], "has 1 documents of 950 characters in all; expected at least 8"),
    "seven documents": (["a long enough text " * 50] * 7, "has 7 documents .* lower data.held_out_every"),
    "documents of a word": (["word"] * 20, "the train part has no block. Its 16 documents have .* lower data.block_length"),
    "held-out documents of a word": (["a long enough text " * 50, "word"] * 10, "part has no block"),
}


@pytest.mark.parametrize("kind", TOO_LITTLE)
def test_too_little_text_is_refused_with_what_was_found(tmp_path, kind):
    texts, said = TOO_LITTLE[kind]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    with pytest.raises(TextError, match=said):
        TextLanguage(TextSettings(source=str(tmp_path / "rows.jsonl"), vocabulary_size=260, block_length=16, cache=str(tmp_path / "c")))


@pytest.mark.parametrize("limit", [1, 9, 20, 50])
def test_the_first_documents_are_read_where_there_is_a_limit(text_folder, texts_of, limit):
    assert texts_of(text_folder, max_documents=limit) == texts_of(text_folder)[:limit]


SETTINGS = {
    "no source": ({"source": " "}, "source is empty"),
    "no field": ({"text_field": ""}, "text_field is empty"),
    "no cache": ({"cache": ""}, "cache is empty"),
    "no split": ({"source": "hub:a/b", "hub_split": ""}, "hub_split is empty"),
    "a subset of a file": ({"hub_subset": "en"}, "hub_subset is 'en' and source is 'sotu'; expected a source hub:OWNER/NAME"),
    "a split of a file": ({"hub_split": "test"}, "hub_split is 'test' and source is 'sotu'"),
    "a revision of a file": ({"hub_revision": "main"}, "hub_revision is 'main' and source is 'sotu'"),
    "no documents": ({"max_documents": 0}, "max_documents is 0; expected a value at least 1"),
    "a vocabulary without all bytes": ({"vocabulary_size": 256}, "vocabulary_size is 256; expected a value at least 257"),
    "a vocabulary larger than memory": ({"vocabulary_size": 1 << 40}, "vocabulary_size is 1099511627776; expected a value at most"),
    "every second document held out": ({"held_out_every": 2}, "held_out_every is 2; expected a value at least 3"),
    "nothing measured": ({"n_measured": 0}, "n_measured is 0; expected a value at least 1"),
    "blocks of five tokens": ({"block_length": 5}, "block_length is 5; expected a value at least 6"),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings_that_make_no_language_are_refused_by_name(kind):
    settings, said = SETTINGS[kind]
    with pytest.raises(SettingError, match=said):
        check_ranges(TextSettings(**settings))


@pytest.mark.parametrize("kind", ["a file", "below a file", "a link to itself", "too long"])
def test_a_cache_that_cannot_be_written_is_refused_with_the_next_move(settings, tmp_path, kind):
    file = write(tmp_path / "taken")
    places = {"a file": file, "below a file": file / "cache", "too long": tmp_path / ("c" * 300)}
    settings.cache = str(places.get(kind) or linked(tmp_path / "loop", tmp_path / "loop"))
    with pytest.raises(TextError, match=r"the cache cannot be written \(.+\); make room there or set data.cache to another folder"):
        TextLanguage(settings)


@pytest.mark.parametrize("source", ["the settings' own", "hub:."])
def test_a_cache_in_the_home_of_nobody_is_refused(settings, text_folder, monkeypatch, source):
    monkeypatch.chdir(text_folder)
    settings.cache = "~nobody-of-this-name/cache"
    settings.source = settings.source if source != "hub:." else source
    with pytest.raises(TextError, match=r"data.cache is '~nobody-of-this-name/cache', which is no path"):
        TextLanguage(settings)


def test_without_the_text_extra_the_package_is_refused_before_anything_is_read(monkeypatch):
    def missing(name):
        raise documents_module.PackageNotFoundError(name)

    monkeypatch.setattr(documents_module, "distribution", missing)
    with pytest.raises(TextError, match=r"pip install 'confreg\[text\]'"):
        check_source(TextSettings())
