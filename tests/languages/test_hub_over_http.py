"""The hub's own protocol, spoken by a server of a few lines on this machine: name, revision and commit take their whole way."""

import hashlib
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

COMMIT = "c0ffee" * 6 + "c0de"
FILES = {
    "README.md": b"---\nlicense: mit\n---\n",
    "data/train.jsonl": b"".join(json.dumps({"text": f"story {i} of many"}).encode() + b"\n" for i in range(30)),
    "data/test.jsonl": b'{"text": "the only one"}\n',
}
READ = """
import json, sys
from confreg.languages.documents import Documents, TextError
from confreg.settings import TextSettings
for line in sys.stdin:
    try:
        documents = Documents(TextSettings(cache="cache", **json.loads(line)))
        answer = [len(list(documents)), documents.facts()["dataset"]]
    except TextError as error:
        answer = str(error)
    print(json.dumps(answer), flush=True)
"""


class SmallHub(BaseHTTPRequestHandler):
    """One dataset, me/stories, at one commit."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path.startswith("/api/datasets/me/stories/tree/"):
            self._tree("/".join(path.split("/")[7:]))
        elif path in ("/api/datasets/me/stories", f"/api/datasets/me/stories/revision/{COMMIT}", "/api/datasets/me/stories/revision/v1"):
            self._answer(200, json.dumps({"id": "me/stories", "sha": COMMIT, "private": False, "tags": [], "siblings": []}).encode())
        elif path.startswith(f"/datasets/me/stories/resolve/{COMMIT}/"):
            content = FILES.get("/".join(path.split("/")[6:]))
            self._answer(404, b"", "EntryNotFound") if content is None else self._answer(200, content)
        else:
            self._answer(404, b"{}", "RevisionNotFound" if "me/stories" in path else "RepoNotFound")

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def _tree(self, folder):
        start = f"{folder}/" if folder else ""
        names = sorted({start + name.removeprefix(start).split("/")[0] for name in FILES if name.startswith(start)})
        entries = [{"type": "file" if name in FILES else "directory", "path": name, "oid": "0" * 40, "size": 1} for name in names]
        for entry in entries:
            entry["size"] = len(FILES.get(entry["path"], b""))
        self._answer(200 if entries else 404, json.dumps(entries).encode(), None if entries else "EntryNotFound")

    def _answer(self, status, content, error=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), SmallHub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.server_close()


@pytest.fixture
def hub(server):
    return f"http://127.0.0.1:{server.server_address[1]}"


@pytest.fixture
def stop_hub(server):
    def stop():
        server.shutdown()
        server.server_close()

    return stop


@pytest.fixture
def ask(tmp_path, hub):
    """A process that knows only this hub: the number of documents and the facts of a dataset, or what is said of it."""
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_TOKEN"):
        environment.pop(name, None)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", READ], cwd=tmp_path, env=environment, **pipes) as process:

        def answer(**settings):
            process.stdin.write(json.dumps(settings) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield answer
        process.stdin.close()


def test_a_dataset_is_read_at_the_commit_that_is_recorded_and_needs_no_hub_afterwards(tmp_path, hub, ask, stop_hub):
    (tmp_path / "me" / "stories").mkdir(parents=True)  # a folder of the same name is not meant
    whole = ask(source="hub:me/stories")
    assert whole[0] == 30
    assert (whole[1]["commit"], whole[1]["revision_asked"]) == (COMMIT, None)
    test = ask(source="hub:me/stories", hub_split="test", hub_revision="v1")
    assert test[0] == 1
    assert (test[1]["commit"], test[1]["revision_asked"], test[1]["split"]) == (COMMIT, "v1", "test")
    said = ask(source="hub:me/stories", hub_revision="v2")
    assert "'hub:me/stories': the dataset cannot be read (RevisionNotFoundError" in said
    assert "'hub:me/nothing': the dataset cannot be read (RepositoryNotFoundError" in ask(source="hub:me/nothing")
    stop_hub()
    assert ask(source="hub:me/stories") == whole
    said = ask(source="hub:me/stories", max_documents=3)
    assert "'hub:me/stories': the dataset cannot be read (Connect" in said
    assert "hf download me/stories --repo-type dataset --local-dir FOLDER, then data.source=hub:./FOLDER" in said
