"""The benchmarks run on a tiny model; no time is judged here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LANGUAGE = "vocabulary_size=24 rank=3 block_length=12 batch_size=4 n_inverse_temperatures=2 n_backoff_weights=2 n_reference=6 n_measured=18"
TINY = [f"data.{each}" for each in LANGUAGE.split()] + [f"model.{each}" for each in ("n_layer=1", "d_model=16", "d_mlp=8", "n_head=2")]
QUIET = ["trainer.progress_bar=false", "trainer.model_summary=false", "trainer.validate_every=4"]


def output_of(module, *arguments):
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments, *TINY]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300).stdout


@pytest.mark.heavy
def test_both_sides_of_the_throughput_do_the_same_work():
    """The module itself fails where a loss differs by a bit."""
    assert re.search(r"median \d\.\d{3}, .* 6 pairs of turns", output_of("throughput", "--steps", "55"))


@pytest.mark.heavy
def test_every_kind_of_watching_takes_some_time_and_the_parts_add_up():
    lines = output_of("watching", *QUIET, "trainer.max_steps=8", "measure.n_scored_per_block=5").splitlines()
    seconds = {line[:32].strip(): float(line[32:].split()[2]) for line in lines if re.search(r"\d\.\d{3}$", line)}
    parts = [seconds[kind] for kind in ("measuring", "saving", "logging", "page")]
    assert min(seconds["measuring"], seconds["page"]) > 0
    assert sum(parts) == pytest.approx(seconds["all watching"], abs=0.3)
    assert seconds["all watching"] < seconds["run"]
    suite = [seconds[f"of measuring: {part}"] for part in ("replacements", "effects")]
    assert suite[1] > 0  # the first may round to nothing in so short a run
    assert sum(suite) == pytest.approx(seconds["of measuring: the suite"], abs=0.2)
    assert seconds["of measuring: the suite"] < seconds["measuring"]
