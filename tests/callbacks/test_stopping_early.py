"""A training that is stopped before its last step: by a callback after validation, or behind any step."""

from __future__ import annotations

import csv

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger

from confreg.callbacks import LogRecords, MeasureOnClock, SaveOnClock
from confreg.models.checkpoints import checkpoint_steps, newest_resumable, step_of
from confreg.records.scalars import clock_scalars
from confreg.records.store import RecordStore
from confreg.settings import MeasurementRequest

STEPS = [0, 1, 4, 8]
LAST_DRAWS = 3


class StopAt(pl.Callback):
    """Asks for the end behind one optimizer step, as a time limit does."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


def never_content():
    """Validations come every second step: the first is the best, and after two more the training is stopped, at step 6."""
    return EarlyStopping("val/loss", min_delta=1e6, patience=2)


@pytest.fixture
def store(tmp_path):
    return RecordStore(tmp_path / "records")


@pytest.fixture
def watch(tiny_blocks, tiny_counts, store, tmp_path):
    def callbacks(steps=STEPS, resume_every=2):
        def last_request(step):
            return MeasurementRequest(control_draws=LAST_DRAWS, control_seed=step)

        return [
            MeasureOnClock(tiny_blocks, tiny_counts, steps, MeasurementRequest(control_draws=0), store, last_request=last_request),
            SaveOnClock(tmp_path / "c", steps, resume_every),
            LogRecords(store),
        ]

    return callbacks


def has_control(store, step):
    return store.read("model", step)["n_entropy_neurons_control"][0].as_py() is not None


def test_the_step_of_an_early_stop_is_measured_as_the_last_and_saved_though_not_on_the_clock(tiny_module, fit, watch, store, tmp_path):
    trainer = fit(tiny_module(max_steps=8), never_content(), *watch(), validation_batches=1)
    assert trainer.global_step == 6
    assert store.steps("neurons") == checkpoint_steps(tmp_path / "c") == [0, 1, 4, 6]
    assert [has_control(store, step) for step in (0, 1, 4, 6)] == [False, False, False, True]


@pytest.mark.parametrize(("stopper", "step"), [(never_content, 6), (lambda: StopAt(5), 5)], ids=["after validation", "behind a step"])
def test_a_stop_at_a_step_of_the_clock_leaves_one_row_with_the_control_of_the_last(tiny_module, fit, watch, store, tmp_path, stopper, step):
    logger = CSVLogger(tmp_path, name="csv", version="0")
    fit(tiny_module(max_steps=8), stopper(), *watch([0, 1, step, 8]), validation_batches=1, logger=logger)
    assert store.steps("neurons") == checkpoint_steps(tmp_path / "c") == [0, 1, step]
    assert has_control(store, step)
    rows = list(csv.DictReader((tmp_path / "csv" / "0" / "metrics.csv").open()))
    logged = [row for row in rows if row.get("model/loss_nats")]
    assert [int(row["step"]) for row in logged] == [0, 1, step]
    assert {name: float(logged[-1][name]) for name in clock_scalars(store, step)} == clock_scalars(store, step)


def test_a_training_that_reaches_its_last_step_is_measured_on_the_clock_only(tiny_module, fit, watch, store):
    fit(tiny_module(max_steps=5), StopAt(5), *watch([0, 5]))
    assert store.steps("neurons") == [0, 5]
    fit(tiny_module(max_steps=7), *watch([0, 5]))
    assert store.steps("neurons") == [0, 5]


def test_a_resumed_training_stops_early_at_the_step_at_which_it_would_have_stopped(tiny_module, fit, watch, store, weights_of, tmp_path):
    whole = tiny_module(max_steps=8)
    fit(whole, never_content(), *watch(), validation_batches=1)
    rows = store.read("neurons")
    assert step_of(newest_resumable(tmp_path / "c")) == 4  # of the step at which it stopped no state is needed
    store.remove(6)
    resumed, state = tiny_module(max_steps=8), tmp_path / "c" / "resume" / "step=00000004.ckpt"
    trainer = fit(resumed, never_content(), *watch(), validation_batches=1, start_step=4, ckpt_path=state)
    assert trainer.global_step == 6
    assert all(map(torch.equal, weights_of(whole), weights_of(resumed)))
    assert store.read("neurons").equals(rows)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_state_to_go_on_from_is_written_after_the_validation_of_its_step(tiny_module, fit, tmp_path, accumulate):
    fit(tiny_module(max_steps=5), never_content(), SaveOnClock(tmp_path, [5], 1, keep=9), validation_batches=1, accumulate=accumulate)
    waits = {
        step: torch.load(tmp_path / "resume" / f"step={step:08d}.ckpt", weights_only=True)["callbacks"].popitem()[1]["wait_count"]
        for step in range(1, 6)
    }
    assert waits == {1: 0, 2: 0, 3: 0, 4: 1, 5: 1}
