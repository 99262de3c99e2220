"""A series on a hub of a few lines on this machine: revisions are found, fetched one after the other, and deleted again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from confreg.records.store import RecordStore

pytestmark = pytest.mark.heavy  # each starts a process that imports everything
COMMITS = {name: hashlib.sha1(name.encode()).hexdigest() for name in ("main", "step0", "step4", "step16")}


class SmallHub(BaseHTTPRequestHandler):
    """One model, me/tiny; its server's ``folders`` are those of the revisions by name and commit."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        match path.strip("/").split("/"):
            case ["api", "models", "me", "tiny", "refs"]:
                self.answer_with_revisions()
            case ["api", "models", "me", "tiny", "tree", revision, *inner]:
                self.answer_with_entries(revision, inner)
            case ["api", "models", "me", _, *rest]:
                self.answer_with_model(rest[1] if len(rest) > 1 else "main")
            case ["me", "tiny", "resolve", revision, *file] if revision in self.server.folders:
                self.answer_with_file(revision, "/".join(file))
            case _:
                self.answer(404, b"{}", None, "RevisionNotFound" if "me/tiny" in path else "RepoNotFound")

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def answer_with_revisions(self):
        branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit} for name, commit in COMMITS.items()]
        self.answer(200, json.dumps({"branches": branches, "tags": [], "converts": []}).encode())

    def answer_with_entries(self, revision, inner):
        names = [] if inner else sorted(each.name for each in self.server.folders[revision].iterdir())
        entries = [{"type": "file", "path": name, "oid": "0" * 40, "size": 1} for name in names]
        self.answer(*((200, json.dumps(entries).encode()) if entries else (404, b"", None, "EntryNotFound")))

    def answer_with_model(self, revision):
        names = [{"rfilename": each.name} for each in self.server.folders[revision].iterdir()]
        commit = COMMITS.get(revision, revision)
        self.answer(200, json.dumps({"id": "me/tiny", "sha": commit, "siblings": names, "tags": [], "private": False}).encode(), commit)

    def answer_with_file(self, revision, name):
        file, commit = self.server.folders[revision] / name, COMMITS.get(revision, revision)
        if not file.is_file():
            self.answer(404, b"", commit, "EntryNotFound")
            return
        if self.command == "GET":
            self.server.asked.append((commit, file.name))
        self.answer(200, file.read_bytes(), commit)

    def answer(self, status, content, commit=None, error=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        if commit:
            self.send_header("X-Repo-Commit", commit)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(publish, tmp_path):
    """A server with one model, me/tiny, at four revisions; ``asked`` are the files that were fetched."""
    folders = {name: publish("llama", seed=number, folder=tmp_path / "served" / name) for number, name in enumerate(COMMITS)}
    server = ThreadingHTTPServer(("127.0.0.1", 0), SmallHub)
    server.folders, server.asked = {**folders, **{COMMITS[name]: folder for name, folder in folders.items()}}, []
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def measure(hub, tmp_path, story_folder):
    """A function that calls the command in a process that knows only this hub."""
    environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}", "HF_HOME": str(tmp_path / "home")}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
        environment.pop(name, None)
    sizes = ["data.block_length=16", "data.n_measured=16", "data.n_reference=4", "data.held_out_every=3", "n_scored_per_block=2"]

    def call(*overrides):
        arguments = [f"data.source={story_folder}", *sizes, "progress_bar=false", "output=out", "request.control_draws=0", *overrides]
        command = [sys.executable, "-m", "confreg.experiments.measure", "source=me/tiny", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)

    return call


def weights_in(home):
    return sorted(path.stat().st_size for path in home.rglob("blobs/*") if path.stat().st_size > 20_000)


def test_a_series_takes_the_disk_of_one_model_and_leaves_none_behind(measure, hub, tmp_path):
    done = measure("revisions=[step*]")
    assert done.returncode == 0, done.stderr
    assert RecordStore(tmp_path / "out" / "records").steps("neurons") == [0, 4, 16]
    fetched = [commit for commit, name in hub.asked if name == "model.safetensors"]
    assert sorted(fetched) == sorted(COMMITS[name] for name in ("step0", "step4", "step16"))  # each once
    assert not list((tmp_path / "home").rglob("model.safetensors"))
    hub.asked.clear()
    again = measure("revisions=[step*]")
    assert again.returncode == 0, again.stderr
    assert "3 of these steps are there already" in " ".join(again.stdout.split())
    assert not [name for _, name in hub.asked if name == "model.safetensors"]


def test_a_model_alone_leaves_no_weights_behind_either(measure, hub, tmp_path):
    done = measure()
    assert done.returncode == 0, done.stderr
    assert [name for _, name in hub.asked if name == "model.safetensors"] == ["model.safetensors"]
    assert not list((tmp_path / "home").rglob("model.safetensors"))


def test_what_was_there_before_or_shall_be_kept_stays(measure, hub, tmp_path):
    assert measure("revisions=[step4]", "keep_downloads=true").returncode == 0
    kept = list((tmp_path / "home").rglob("model.safetensors"))
    assert len(kept) == 1
    done = measure("revisions=[step0,step4]")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "home").rglob("model.safetensors")) == kept


def test_a_revision_that_does_not_exist_is_refused_in_two_lines(measure, tmp_path):
    done = measure("revisions=[step5]")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "me/tiny: no configuration at revision step5" in " ".join(done.stderr.split())
    assert "hf download me/tiny --revision step5" in done.stderr
    assert not (tmp_path / "out").exists()
