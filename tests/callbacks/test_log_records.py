"""The mirrors of the records."""

from __future__ import annotations

import csv

import lightning.pytorch as pl
import pytest
import yaml
from lightning.pytorch.loggers import CSVLogger

from confreg.callbacks import LogRecords, MeasureOnClock, SaveOnClock
from confreg.records.scalars import clock_scalars
from confreg.records.store import RecordStore
from confreg.settings import MeasurementRequest
from confreg.training.data_module import LanguageBlocks
from confreg.training.language_module import LanguageModule


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


def test_groups_of_neurons_are_stored_and_mirrored_at_every_clock_step(tiny_module, fit, tmp_path, tiny_blocks, tiny_counts):
    store, request = RecordStore(tmp_path / "records"), MeasurementRequest(groups={"pair": [1, 2]})
    measuring = MeasureOnClock(tiny_blocks, tiny_counts, [0, 2], request, store)
    fit(tiny_module(max_steps=2), measuring, LogRecords(store), logger=CSVLogger(tmp_path, name="csv", version="0"))
    rows = list(csv.DictReader((tmp_path / "csv" / "0" / "metrics.csv").open()))
    logged = {int(row["step"]): float(row["groups/pair_loss_effect"]) for row in rows if row.get("groups/pair_loss_effect")}
    assert logged == {step: store.read("groups", step)["loss_effect"][0].as_py() for step in store.steps("groups")}
    assert list(logged) == [0, 2]
    assert min(logged.values()) > 0


def test_a_resumed_run_mirrors_the_steps_before_it_too(tiny_module, fit, watched, tmp_path, tiny_blocks, tiny_counts):
    store, callbacks = watched
    fit(tiny_module(max_steps=3), *callbacks, SaveOnClock(tmp_path / "c", [0], resume_every=2), stop_at=2)
    logger, again = CSVLogger(tmp_path, name="csv", version="1"), MeasureOnClock(tiny_blocks, tiny_counts, [0, 1, 3], store=store)
    state = tmp_path / "c" / "resume" / "step=00000002.ckpt"
    fit(tiny_module(max_steps=3), again, LogRecords(store), start_step=2, ckpt_path=state, logger=logger)
    rows = list(csv.DictReader((tmp_path / "csv" / "1" / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows if row.get("model/loss_nats")] == [0, 1, 3]


def test_a_run_resumed_from_its_last_step_has_a_whole_mirror_although_nothing_is_left_to_train(
    tiny_module, fit, watched, tmp_path, tiny_blocks, tiny_counts
):
    store, callbacks = watched
    fit(tiny_module(max_steps=3), *callbacks, SaveOnClock(tmp_path / "c", [0], resume_every=3))
    logger, again = CSVLogger(tmp_path, name="csv", version="1"), MeasureOnClock(tiny_blocks, tiny_counts, [0, 1, 3], store=store)
    state = tmp_path / "c" / "resume" / "step=00000003.ckpt"
    fit(tiny_module(max_steps=3), again, LogRecords(store, {"seed": 0}), start_step=3, ckpt_path=state, logger=logger)
    rows = list(csv.DictReader((tmp_path / "csv" / "1" / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows if row.get("model/loss_nats")] == [0, 1, 3]
    assert yaml.safe_load((tmp_path / "csv" / "1" / "hparams.yaml").read_text())["seed"] == 0


def test_a_logger_of_ones_own_is_told_the_configuration_as_hyperparameters(tiny_module, fit, tmp_path):
    config = {"run": {"name": "mine"}, "seed": 0}
    fit(tiny_module(max_steps=1), LogRecords(RecordStore(tmp_path), config), logger=CSVLogger(tmp_path, name="csv", version="0"))
    told = yaml.safe_load((tmp_path / "csv" / "0" / "hparams.yaml").read_text())
    assert {key: told[key] for key in config} == config


def test_a_validation_alone_is_mirrored_at_the_step_of_the_loaded_weights(
    tiny_module, fit, tmp_path, tiny_blocks, tiny_counts, tiny_language
):
    fit(tiny_module(max_steps=3), SaveOnClock(tmp_path / "c", [3]))
    module = LanguageModule.load_from_checkpoint(tmp_path / "c" / "step=00000003.ckpt")
    store, logger = RecordStore(tmp_path / "again"), CSVLogger(tmp_path, name="csv", version="0")
    callbacks = [MeasureOnClock(tiny_blocks, tiny_counts, store=store, when="validation"), LogRecords(store)]
    trainer = pl.Trainer(accelerator="cpu", logger=logger, callbacks=callbacks, enable_progress_bar=False, enable_checkpointing=False)
    trainer.validate(module, LanguageBlocks(tiny_language, 4, n_batches=1, seed=0, validation_batches=1), verbose=False)
    rows = list(csv.DictReader((tmp_path / "csv" / "0" / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows if row.get("model/loss_nats")] == [3]
