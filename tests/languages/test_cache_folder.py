import json
import os
import threading
import time

import pytest

from confreg.languages.cache_folder import check_folder, complete_folder
from confreg.languages.plain_text import TextError


@pytest.fixture
def cache(tmp_path):
    def fill(folder):
        for name in ("tokens.npy", "documents.npy"):
            (folder / name).write_bytes(name.encode() * 9)

    return complete_folder(tmp_path / "cache" / "abc", fill)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, TextError, MemoryError])
def test_whatever_stops_the_filling_leaves_nothing_and_the_next_try_works(tmp_path, stop):
    def half(folder):
        (folder / "tokens.npy").write_bytes(b"half")
        raise stop

    with pytest.raises(stop):
        complete_folder(tmp_path / "abc", half)
    assert os.listdir(tmp_path) == []
    complete_folder(tmp_path / "abc", lambda folder: (folder / "tokens.npy").write_bytes(b"whole") and None)
    check_folder(tmp_path / "abc")


def test_a_complete_folder_is_not_filled_again(cache):
    def never(folder):
        raise AssertionError("filled again")

    assert complete_folder(cache, never) == cache


def test_the_first_of_two_wins_and_the_other_uses_its_folder(tmp_path):
    target = tmp_path / "abc"

    def slow(folder):
        (folder / "who").write_text("second", encoding="utf-8")
        complete_folder(target, lambda other: (other / "who").write_text("first", encoding="utf-8") and None)

    complete_folder(target, slow)
    assert (target / "who").read_text(encoding="utf-8") == "first"
    assert os.listdir(tmp_path) == ["abc"]
    check_folder(target)


def test_many_at_once_leave_one_whole_folder(tmp_path):
    together = threading.Barrier(6)

    def fill(folder):
        (folder / "data").write_bytes(os.urandom(100_000))
        together.wait(timeout=10)

    def one():
        complete_folder(tmp_path / "abc", fill)
        check_folder(tmp_path / "abc")
        finished.append(1)

    finished = []
    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(finished) == 6
    assert os.listdir(tmp_path) == ["abc"]


def test_what_a_killed_process_left_is_removed_after_a_day_and_not_before(tmp_path):
    for name, age_hours in [(".abc.old.part", 25), (".abc.young.part", 1)]:
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age_hours * 3600,) * 2)
    complete_folder(tmp_path / "abc", lambda folder: None)
    assert sorted(os.listdir(tmp_path)) == [".abc.young.part", "abc"]


def test_a_folder_that_is_filled_for_longer_than_a_day_is_left_to_its_process(tmp_path):
    (tmp_path / ".abc.slow.part").mkdir()
    (tmp_path / ".abc.slow.part" / "documents.parquet").write_bytes(b"still growing")
    os.utime(tmp_path / ".abc.slow.part", (time.time() - 30 * 3600,) * 2)
    complete_folder(tmp_path / "abc", lambda folder: None)
    assert (tmp_path / ".abc.slow.part").exists()


def test_a_cache_that_cannot_be_written_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(TextError, match=r"file: the cache cannot be written .*set data.cache"):
        complete_folder(tmp_path / "file" / "abc", lambda folder: None)

    def full(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(TextError, match="No space left on device"):
        complete_folder(tmp_path / "abc", full)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["tokens.npy", "documents.npy"])
@pytest.mark.parametrize(("how", "said"), [("cut", "expected"), ("longer", "expected"), ("flipped", "SHA-256"), ("gone", "missing")])
def test_a_damaged_cache_is_noticed_with_the_file_and_the_next_move(cache, damage, name, how, said):
    check_folder(cache)
    damage(cache / name, how)
    with pytest.raises(TextError, match=rf"{name}: .*{said}.* Delete the folder"):
        check_folder(cache)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", json.dumps({"files": {"tokens.npy": 3}})])
def test_a_damaged_manifest_is_noticed(cache, content):
    if content is None:
        (cache / "manifest.json").unlink()
    else:
        (cache / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(TextError, match=r"manifest.json: cannot be read .* Delete the folder"):
        check_folder(cache)
