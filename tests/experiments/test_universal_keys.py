"""Universal-neuron statistics from the command line: asked for in training, or of saved steps, and refused where misspelt."""

from __future__ import annotations

from pathlib import Path

import pytest

from confreg import MeasurementRequest, measure, open_run
from confreg.experiments.command_line import run_command
from confreg.experiments.composition import compose_settings
from confreg.experiments.measure_source import measure_source
from confreg.experiments.training_run import train
from confreg.records.store import RecordStore
from confreg.settings import SettingError

TINY = [
    "data.vocabulary_size=24",
    "data.rank=3",
    "data.block_length=12",
    "data.batch_size=4",
    "data.n_inverse_temperatures=2",
    "data.n_backoff_weights=2",
    "data.n_reference=16",
    "data.n_measured=18",
    "model.n_layer=2",
    "model.d_model=16",
    "model.d_mlp=8",
    "model.n_head=2",
    "measure.n_scored_per_block=5",
    "measure.control_draws_last=1",
    "optimizer.warmup_steps=2",
    "trainer.max_steps=3",
    "trainer.validate_every=3",
    "callbacks.log=false",
    "trainer.accelerator=cpu",
    "trainer.progress_bar=false",
    "trainer.model_summary=false",
    "logger.wandb.mode=disabled",
    "logger.csv=false",
]
LAX = "universal_rules.kurtosis_above=3"


def trained(folder: Path, *overrides: str) -> RecordStore:
    assert train(compose_settings([*TINY, *overrides, f"run.root={folder.parent}", f"run.name={folder.name}"])) == 0
    return RecordStore(folder / "records")


@pytest.mark.heavy
def test_rows_asked_for_in_training_equal_those_of_measuring_again_and_of_a_notebook(tmp_path: Path) -> None:
    live = trained(tmp_path / "live", "measure.request.universal=true", f"measure.request.{LAX}")
    trained(tmp_path / "plain")
    steps = live.steps("universal")
    assert steps == live.steps("model")
    assert not (tmp_path / "plain" / "records" / "universal").exists()
    source, again = tmp_path / "plain", tmp_path / "again"
    overrides = [f"source={source}", "request.universal=true", f"request.{LAX}", f"output={again}", "progress_bar=false"]
    assert run_command("measure", measure_source, overrides) == 0
    for step in steps:
        rows = live.read("universal", step)
        assert rows.num_rows == 2 * 8
        assert RecordStore(again / "records").read("universal", step).equals(rows)
    request = compose_settings([f"measure.request.{LAX}", "measure.request.universal=true"]).measure.request
    assert isinstance(request, MeasurementRequest)
    alone = measure(*open_run(source, 3), request, step=3, tokens_seen=3 * 4 * 11)["universal"]
    assert alone.equals(live.read("universal", 3))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("measure.request.universall=true", r"is not a setting\. Did you mean measure\.request\.universal\?"),
        ("measure.request.universal_rules.kurtosis=7", r"Did you mean measure\.request\.universal_rules\.kurtosis_above\?"),
        ("measure.request.universal=often", r"measure\.request\.universal is 'often' .*; expected true or false"),
        ("measure.request.universal_rules.kurtosis_above=0", r"kurtosis_above is 0\.0; expected a value at least 1\.0"),
        ("measure.request.universal_rules.partition_variance_above=2", r"expected a value at most 1\.0"),
        ("measure.request.universal_rules.partition_variance_multiple=-1", r"expected a value at least 0\.0"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        compose_settings([override])
