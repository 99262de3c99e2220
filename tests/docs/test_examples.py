"""What the documentation shows runs as it stands there, from the first line to the last."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
SMALL = [
    "data.vocabulary_size=64",
    "data.block_length=32",
    "data.batch_size=4",
    "data.n_measured=20",
    "model.d_model=16",
    "model.d_mlp=16",
    "trainer.max_steps=512",
    "trainer.validate_every=512",
    "trainer.accelerator=cpu",
    "clock.max_points=3",
    "measure.control_draws_last=1",
    "logger.wandb.mode=disabled",
]


@pytest.fixture(scope="module")
def folder_with_a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a small ``runs/default/seed=0``, trained by the command."""
    folder = tmp_path_factory.mktemp("reader")
    command = [sys.executable, "-m", "confreg.experiments.train", *SMALL, "run.name=default/seed=0"]
    done = subprocess.run(command, cwd=folder, env=one_thread(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run_python(folder: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=one_thread(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.heavy
def test_the_first_look_at_a_run_finds_its_number_in_the_real_model(folder_with_a_run: Path) -> None:
    said = run_python(folder_with_a_run, str(EXAMPLES / "first_look.py"))
    assert "between live and again: 0.0e+00 nats" in said
    assert (folder_with_a_run / "trajectories.html").stat().st_size > 100_000


@pytest.mark.heavy
def test_the_callbacks_work_in_a_project_of_ones_own_and_its_folder_has_a_page(tmp_path: Path) -> None:
    said = run_python(tmp_path, str(EXAMPLES / "own_project.py"))
    assert "n_entropy_neurons" in said
    run_python(tmp_path, "-m", "confreg.experiments.report", "own_project")
    assert (tmp_path / "own_project" / "report.html").exists()


@pytest.mark.heavy
def test_every_python_block_of_the_readme_and_the_docs_runs_beside_a_run(folder_with_a_run: Path) -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    blocks = [block for page in pages for block in python_blocks(page)]
    assert blocks
    for block in blocks:
        run_python(folder_with_a_run, "-c", block)
