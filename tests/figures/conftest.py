"""A made-up run with the records' own columns: a few neurons drift into entropy neurons, a few into token-frequency neurons."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from confreg.figures.comparison.measures import MEASURES
from confreg.figures.comparison.runs import ComparedRun
from confreg.figures.page import write_page
from confreg.records.schema import table_of
from confreg.records.store import RecordStore

D_MODEL = 64
STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 181, 256, 362, 512, 724, 1024, 1500)


def neuron_columns(step: int, n_neurons: int, n_layers: int, n_documents: int, generator: np.random.Generator) -> dict[str, Any]:
    """Columns of one step: the first four neurons become entropy neurons from step 256 on, the next five token-frequency neurons."""
    size = n_neurons * n_layers
    progress = min(1.0, np.log2(step + 1) / 10)
    is_entropy = np.arange(size) < 4
    is_frequency = (np.arange(size) >= 4) & (np.arange(size) < 9)
    shift = np.linspace(0.6, 1.0, size)
    effect = progress * np.exp(generator.normal(-6.5, 0.7, size)) + is_entropy * 0.05 * progress**4 * shift
    divergence = progress * np.exp(generator.normal(-6.5, 0.7, size)) + is_frequency * 0.08 * progress**3 * shift
    share = np.where(is_entropy, 0.85 * progress, generator.normal(0.15, 0.2, size))
    return {
        "layer": np.arange(size) // n_neurons + 2 - n_layers,
        "neuron": np.arange(size) % n_neurons,
        "w_out_norm": np.exp(generator.normal(-0.6, 0.15, size)) * (1 + is_entropy * 2.2 * progress**2 * shift + is_frequency * progress),
        "logit_var": np.exp(generator.normal(-4.1, 0.2, size)) * (1 - is_entropy * 0.85 * progress**2) * (1 + is_frequency * 2 * progress),
        "null_space_share": np.clip(generator.normal(0.25, 0.06, size) + is_entropy * 0.6 * progress**2, 0, 1),
        "null_space_share_chance": 0.44,
        "frequency_cosine": np.where(is_frequency, 0.9 * progress, generator.normal(0, 0.15, size)),
        "entropy_effect": effect,
        "entropy_effect_stderr": 0.1 * effect,
        "entropy_norm_mediated_share": np.where(effect > 1e-4, share, np.nan),
        "loss_effect": 0.8 * effect + 0.3 * divergence,
        "loss_effect_stderr": 0.1 * effect,
        "norm_mediated_share": 0.9 * share,
        "kl_from_frequency_effect": divergence,
        "kl_from_frequency_effect_stderr": 0.08 * divergence,
        "frequency_mediated_share": np.where(is_frequency, 0.6 * progress, generator.normal(0.05, 0.05, size)),
        "is_entropy_neuron": is_entropy & (step >= 256) & (n_documents >= 16),
        "is_frequency_neuron": is_frequency & (step >= 64 * (1 + np.arange(size) % 3)) & (n_documents >= 16),
    }


def model_columns(step: int, neurons: dict[str, Any], n_documents: int, bayes: bool, generator: np.random.Generator) -> dict[str, Any]:
    excess = 2.3 * np.exp(-((step / 120) ** 0.6)) + 0.02 + 0.002 * generator.random()
    known = {"bayes_loss_nats": 3.1, "excess_loss_nats": excess, "excess_entropy_nats": 0.8 * excess - 0.05, "bayes_kl_nats": 0.97 * excess}
    return {
        "loss_nats": 3.1 + excess,
        "entropy_nats": 3.05 + 0.9 * excess,
        "calibration_error": 0.02 + 0.01 * excess,
        "n_entropy_neurons": int(neurons["is_entropy_neuron"].sum()),
        "n_frequency_neurons": int(neurons["is_frequency_neuron"].sum()),
        "n_entropy_neurons_control": 0.05 if n_documents >= 16 else None,
        "n_frequency_neurons_control": 0.3 * (step > 64) if n_documents >= 16 else None,
        "null_dimensions": 4,
        "n_positions": n_documents * 32,
        "n_documents": n_documents,
        **(known if bayes else {}),
    }


def spectrum_columns(step: int) -> dict[str, Any]:
    index = np.arange(D_MODEL)
    tail = np.where(index >= D_MODEL - 6, np.exp(-0.002 * min(step, 1500) * (index - D_MODEL + 7) / 6), 1.0)
    values = 6.0 * np.exp(-index / 40) * (1 + min(step, 800) / 900) * tail
    return {"index": index, "singular_value": np.where(index == D_MODEL - 1, 1e-16, values)}  # the last is LayerNorm's exact null


def write_run(
    run: Path,
    *,
    steps: tuple[int, ...] = STEPS,
    n_neurons: int = 128,
    n_layers: int = 1,
    n_documents: int = 64,
    bayes: bool = True,
    status: str = "finished",
    without: tuple[str, ...] = (),
    seed: int = 0,
    settings: Mapping[str, Any] = {},
    facts: Mapping[str, Any] = {},
) -> Path:
    """Write such a run into a new folder, ``without`` some of its tables and files, with top-level ``settings`` and ``facts`` changed."""
    run.mkdir(parents=True)
    store, generator = RecordStore(run / "records"), np.random.default_rng(seed)
    for step in steps:
        identity = {"step": step, "tokens_seen": step * 4096, "weights_sha256": f"{step:064x}"}
        neurons = neuron_columns(step, n_neurons, n_layers, n_documents, generator)
        store.write("neurons", step, table_of("neurons", neurons, n_neurons * n_layers, identity))
        store.write("model", step, table_of("model", model_columns(step, neurons, n_documents, bayes, generator), 1, identity))
        if "spectrum" not in without:
            store.write("spectrum", step, table_of("spectrum", spectrum_columns(step), D_MODEL, identity))
    if "config.yaml" not in without:
        (run / "config.yaml").write_text(yaml.safe_dump({**configuration(), "seed": seed, **settings}), encoding="utf-8")
    told = {"status": status, "versions": {"python": "3.11.4", "torch": "2.13.0"}, "reproducibility": {"device": "cpu", "threads": 2}}
    (run / "run.json").write_text(json.dumps({**told, **facts}), encoding="utf-8")
    return run


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A function that writes such a run below a new folder and returns it; keywords of ``write_run``."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a made-up run need not survive a power cut
    return lambda **options: write_run(tmp_path / "runs" / "made-up" / "seed=0", **options)


@pytest.fixture
def make_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A function that writes such a run into a folder of that name, and returns the run; keywords of ``write_run``."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    few = {"steps": (0, 64, 128, 256, 512, 1024), "n_neurons": 16}
    return lambda name, **options: write_run(tmp_path / "runs" / name, **{**few, **options})


@pytest.fixture
def make_compared(tmp_path: Path) -> Callable[..., ComparedRun]:
    """A function that makes a run of a comparison without files: dotted settings, measures over steps, steps at which neurons formed."""

    def make(
        name: str = "a",
        settings: Mapping[str, Any] = {"optimizer.weight_decay": 1.0},
        *,
        seed: Any = 0,
        facts: Mapping[str, Any] = {},
        steps: tuple[int, ...] = (0, 64, 128),
        formed: Mapping[str, tuple[int, ...]] = {},
        lost: int = 0,
        why_nothing_is_named: str | None = None,
        **measures: Any,
    ) -> ComparedRun:
        over_steps = pd.DataFrame({measure: measures.get(measure, np.nan) for measure in MEASURES}, index=pd.Index(steps, name="step"))
        rows = [(1, neuron, kind, step) for kind, firsts in formed.items() for neuron, step in enumerate(firsts)]
        neurons = pd.DataFrame(rows, columns=["layer", "neuron", "kind", "formed_step"])
        since = pd.array([None] * lost + neurons["formed_step"].tolist()[lost:], dtype="Int64")
        config, told = {"seed": seed}, {"status": "finished", **facts}
        table = over_steps.astype("float64"), neurons.assign(formed_since=since)
        return ComparedRun(tmp_path / name, name, config, told, dict(settings), *table, why_nothing_is_named)

    return make


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a run, written once for all tests that only read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        return write_run(tmp_path_factory.mktemp("finished") / "runs" / "made-up" / "seed=0")


@pytest.fixture(scope="session")
def finished_page(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(finished_run, tmp_path_factory.mktemp("page") / "page.html")


PUT_BACK = """
stop(); sorting = null; document.getElementById("filter-name").value = "";
for (const name of ["kind", "rows"]) document.getElementById(`filter-${name}`).selectedIndex = 0;
showStep(run.steps.length - 1); drawTable(shownAt()); scrollTo({ top: 0, behavior: "instant" });
if (!isDark && document.documentElement.dataset.text !== "large") return;
isDark = false; document.documentElement.dataset.text = "usual"; wearLook(drawAll);
"""
IS_DRAWN = "waiting.length === 0 && document.querySelectorAll('#table tbody tr').length > 0"


@pytest.fixture
def page(visit: Any, finished_page: Path) -> Iterator[Any]:
    """The page of the finished run, open in a browser; afterwards without complaint, and put back to how it opened."""
    if visit.address() != finished_page.as_uri():
        visit.open(finished_page, IS_DRAWN)
    yield visit
    assert visit.complaints() == []
    visit.set_media(prefers_color_scheme="light")
    visit.set_size(1366, 768)
    visit.run(PUT_BACK)
    visit.wait_until(f"return {IS_DRAWN} && document.getElementById('loss').layout.font.size === FONT.size")


def configuration() -> dict[str, Any]:
    rules = {"n_stderr": 2.0, "median_multiple": 5.0, "entropy_share_floor": 0.001, "norm_mediated_share_min": 0.5, "clusters_min": 16}
    rules |= {"frequency_mediated_share_min": 0.3, "frequency_cosine_min": 0.5, "zero_count_share_max": 0.5}
    return {
        "model": {"family": "gpt2", "n_layer": 2, "d_model": D_MODEL, "d_mlp": 128, "n_head": 4},
        "measure": {"n_blocks": 64, "request": {"rules": rules}},
        "trainer": {"max_steps": 1500, "precision": "32-true"},
        "run": {"name": "made-up/seed=0"},
        "seed": 0,
    }
