import json
import os
import socket
import subprocess
import sys

import pytest

from confreg.records.run_lock import NAME, RunFolderError, is_alive, read_lock, release_lock, take_lock


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write_lock(folder, **changes):
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "start": None} | changes
    (folder / NAME).write_text(json.dumps(holder))


def test_a_lock_holds_until_it_is_released(tmp_path):
    take_lock(tmp_path)
    assert read_lock(tmp_path)["pid"] == os.getpid()
    with pytest.raises(RunFolderError, match=f"is being written by process {os.getpid()}"):
        take_lock(tmp_path)
    release_lock(tmp_path)
    take_lock(tmp_path)


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    write_lock(tmp_path, pid=dead_pid())
    take_lock(tmp_path)
    assert read_lock(tmp_path)["pid"] == os.getpid()


def test_a_pid_that_is_used_again_by_another_process_is_not_mistaken(tmp_path):
    write_lock(tmp_path, start="1")
    take_lock(tmp_path)
    assert read_lock(tmp_path)["start"] != "1"


def test_a_process_on_another_machine_is_believed_to_be_alive_and_the_message_says_what_to_delete(tmp_path):
    write_lock(tmp_path, pid=dead_pid(), host="elsewhere.invalid")
    with pytest.raises(RunFolderError, match=rf"on elsewhere.invalid.*delete .*{NAME}"):
        take_lock(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": "x"}', "\x00"])
def test_a_lock_that_says_nothing_sensible_is_taken_over(tmp_path, content):
    (tmp_path / NAME).write_text(content)
    take_lock(tmp_path)
    assert read_lock(tmp_path)["pid"] == os.getpid()


def test_somebody_elses_lock_is_not_released(tmp_path):
    write_lock(tmp_path, host="elsewhere.invalid")
    release_lock(tmp_path)
    assert is_alive(read_lock(tmp_path))
