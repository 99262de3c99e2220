import errno
import hashlib
import io
import os
import signal
import subprocess
import sys
import zipfile

import pytest

from confreg.records.durable import sha256_of, write_durably, write_folder_durably, write_text_durably

KILLED_IN_THE_MIDDLE = """
import os, signal, sys
from pathlib import Path
from confreg.records.durable import write_durably

def write(file):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

write_durably(Path(sys.argv[1]), write)
"""


def test_the_content_arrives_and_its_hash_is_returned(tmp_path):
    path = tmp_path / "facts.json"
    digest = write_text_durably(path, "größe\n")
    assert path.read_bytes() == "größe\n".encode()
    assert digest == hashlib.sha256("größe\n".encode()).hexdigest() == sha256_of(path)
    assert os.listdir(tmp_path) == ["facts.json"]


def test_the_hash_is_that_of_the_file_even_where_the_writer_seeks_back(tmp_path):
    path = tmp_path / "archive.zip"

    def write(file):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("one", "1" * 1000)

    assert write_durably(path, write) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert zipfile.ZipFile(io.BytesIO(path.read_bytes())).testzip() is None


def test_a_full_disk_leaves_the_old_file_and_no_debris(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"new, but half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_durably(path, write)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["weights"]


def test_a_kill_in_the_middle_leaves_the_old_file_and_a_leftover_with_a_dot(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"old")
    killed = subprocess.run([sys.executable, "-c", KILLED_IN_THE_MIDDLE, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    (leftover,) = set(os.listdir(tmp_path)) - {"weights"}
    assert leftover.startswith(".weights.")
    assert leftover.endswith(".part")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_text_durably(tmp_path / "nowhere" / "facts.json", "{}")


def filled(folder):
    (folder / "inner").mkdir()
    (folder / "inner" / "a.txt").write_text("whole")


def test_a_folder_arrives_with_all_that_is_in_it_also_where_an_empty_one_waits(tmp_path):
    for target in (tmp_path / "new" / "deep", tmp_path / "empty"):
        target.parent.mkdir(exist_ok=True)
        if target.name == "empty":
            target.mkdir()
        write_folder_durably(target, filled)
        assert [path.relative_to(target).as_posix() for path in sorted(target.rglob("*"))] == ["inner", "inner/a.txt"]
        assert [path.name for path in target.parent.iterdir() if path.name.startswith(".")] == []


def test_a_folder_whose_filling_fails_leaves_nothing(tmp_path):
    def fail(folder):
        filled(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder_durably(tmp_path / "target", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_as_it_is(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "old.txt").write_text("old")
    with pytest.raises(OSError, match="target"):
        write_folder_durably(tmp_path / "target", filled)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["target", "target/old.txt"]
