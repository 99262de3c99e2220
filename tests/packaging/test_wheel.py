"""The wheel holds what the tree holds."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {"confreg": "confreg", "callbacks": "confreg/callbacks", "conf": "confreg/conf", "experiments": "confreg/experiments"}
KEPT = (".py", ".yaml", ".html", ".css", ".js", "py.typed")


def files_of_the_tree() -> set[str]:
    listed = subprocess.run(["git", "ls-files", *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    files = (path for path in listed if path.endswith(KEPT) and not (ROOT / path).is_symlink())
    return {f"{FOLDERS[path.split('/')[0]]}/{path.split('/', 1)[1]}" for path in files}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True, cwd=folder, timeout=300)
    return next(folder.glob("*.whl"))


@pytest.mark.heavy
def test_the_wheel_equals_the_tree(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == files_of_the_tree()


@pytest.mark.heavy
def test_the_console_scripts_run_from_the_wheel_in_any_folder(wheel, tmp_path):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    for script, text in (("train", "confreg-train"), ("report", "RUN")):
        command = [
            sys.executable,
            "-c",
            f"import confreg.experiments.{script} as m; assert m.__file__.startswith({str(site)!r}); m.main()",
            "--help",
        ]
        shown = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120)
        assert shown.returncode == 0, shown.stderr
        assert text in shown.stdout
