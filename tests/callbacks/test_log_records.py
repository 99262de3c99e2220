"""The mirrors of the records."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest
from lightning.pytorch.loggers import CSVLogger

from confreg.callbacks import ClockWandbLogger, LogRecords, MeasureOnClock, SaveOnClock
from confreg.records.scalars import clock_scalars
from confreg.records.store import RecordStore
from confreg.settings import WandbSettings


@pytest.fixture
def watched(tmp_path, tiny_blocks, tiny_counts):
    store = RecordStore(tmp_path / "records")
    return store, (MeasureOnClock(tiny_blocks, tiny_counts, [0, 1, 3], store=store), LogRecords(store))


def test_a_csv_gets_every_scalar_of_every_clock_step(tiny_module, fit, watched, tmp_path):
    store, callbacks = watched
    fit(tiny_module(max_steps=3), *callbacks, logger=CSVLogger(tmp_path, name="csv", version="0"))
    rows = list(csv.DictReader((tmp_path / "csv" / "0" / "metrics.csv").open()))
    logged = {int(row["step"]): row for row in rows if row.get("model/loss_nats")}
    assert sorted(logged) == [0, 1, 3]
    for step, row in logged.items():
        assert {name: float(row[name]) for name in clock_scalars(store, step)} == clock_scalars(store, step)


def test_a_resumed_run_mirrors_the_steps_before_it_too(tiny_module, fit, watched, tmp_path, tiny_blocks, tiny_counts):
    store, callbacks = watched
    fit(tiny_module(max_steps=3), *callbacks, SaveOnClock(tmp_path / "c", [0], resume_every=2), stop_at=2)
    logger, again = CSVLogger(tmp_path, name="csv", version="1"), MeasureOnClock(tiny_blocks, tiny_counts, [0, 1, 3], store=store)
    state = tmp_path / "c" / "resume" / "step=00000002.ckpt"
    fit(tiny_module(max_steps=3), again, LogRecords(store), start_step=2, ckpt_path=state, logger=logger)
    rows = list(csv.DictReader((tmp_path / "csv" / "1" / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows if row.get("model/loss_nats")] == [0, 1, 3]


def test_an_offline_wandb_run_holds_the_rows_of_the_records_on_the_clock_axis_and_no_command_line(
    tiny_module, fit, watched, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, "argv", ["confreg-train", "password=planted-canary"])
    store, callbacks = watched
    logger = ClockWandbLogger(tmp_path, WandbSettings(tags=["test"]), "a name", {"seed": 0})
    fit(tiny_module(max_steps=3), *callbacks, logger=logger, validation_batches=1)
    _, folder = logger.close(succeeded=True)
    assert folder.is_relative_to(tmp_path / "wandb")
    history = _history(next(folder.glob("run-*.wandb")))
    on_clock = {int(row["clock/step"]): row for row in history if "clock/step" in row}
    assert sorted(on_clock) == [0, 1, 3]
    for step, row in on_clock.items():
        assert {name: row[name] for name in clock_scalars(store, step)} == pytest.approx(clock_scalars(store, step))
    written = [path for path in (tmp_path / "wandb").rglob("*") if path.is_file()]
    assert not [path for path in written if b"planted-canary" in path.read_bytes()]
    assert any("val/loss" in row and "trainer/global_step" in row for row in history)


def _history(path):
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    return [record["history"]["item"] for record in map(json.loads, lines) if record["type"] == "history"]
