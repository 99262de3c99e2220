"""Rows and checkpoints while Lightning averages the weights."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging

from confreg.callbacks import MeasureOnClock, SaveOnClock
from confreg.models.checkpoints import checkpoint_path, newest_resumable, weights_sha256
from confreg.records.store import RecordStore
from confreg.training.language_module import LanguageModule

DECAY = 0.5
STEPS = [0, 1, 3, 6]


class CurrentWeights(pl.Callback):
    """Keeps the weights that are being trained, after every optimizer step."""

    def __init__(self):
        self.at = {}

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.at[trainer.global_step] = {name: each.detach().clone() for name, each in pl_module.model.named_parameters()}


def ema():
    return EMAWeightAveraging(decay=DECAY, use_buffers=False)


@pytest.fixture
def store(tmp_path):
    return RecordStore(tmp_path / "records")


@pytest.fixture
def watching(tiny_blocks, tiny_counts, store, tmp_path):
    return [MeasureOnClock(tiny_blocks, tiny_counts, STEPS, store=store), SaveOnClock(tmp_path / "c", STEPS, resume_every=3)]


def saved(folder, step):
    return LanguageModule.load_from_checkpoint(checkpoint_path(folder, step)).model


@pytest.mark.parametrize("accumulate", [1, 2])
def test_rows_and_checkpoints_of_a_step_describe_the_same_averages(tiny_module, fit, watching, store, tmp_path, accumulate):
    current = CurrentWeights()
    fit(tiny_module(max_steps=6), ema(), *watching, current, accumulate=accumulate)
    average = current.at[1]
    for step in range(2, 7):
        average = {name: DECAY * average[name] + (1 - DECAY) * each for name, each in current.at[step].items()}
    torch.testing.assert_close(dict(saved(tmp_path / "c", 6).named_parameters()), average)
    assert not all(torch.equal(average[name], each) for name, each in current.at[6].items())
    rows = dict(zip(STEPS, store.read("model")["weights_sha256"].to_pylist(), strict=True))
    assert rows == {step: weights_sha256(saved(tmp_path / "c", step)) for step in STEPS}


def test_watching_the_averages_leaves_the_training_as_it_was_to_the_bit(tiny_module, fit, watching, weights_of):
    plain, watched, only_averaged = CurrentWeights(), CurrentWeights(), tiny_module()
    fit(tiny_module(), plain)
    module = tiny_module()
    fit(module, ema(), *watching, watched, validation_batches=1)
    fit(only_averaged, ema())
    assert all(torch.equal(plain.at[step][name], each) for step in plain.at for name, each in watched.at[step].items())
    assert all(map(torch.equal, weights_of(module), weights_of(only_averaged)))


@pytest.mark.parametrize("validation_batches", [0, 1])
def test_a_resumed_training_goes_on_with_the_same_weights_and_averages(tiny_module, fit, watching, store, tmp_path, validation_batches):
    whole = CurrentWeights()
    fit(tiny_module(), ema(), *watching, whole, validation_batches=validation_batches)
    rows = store.read("neurons")
    for step in (3, 6):
        store.remove(step)
    resumed, state = CurrentWeights(), tmp_path / "c" / "resume" / "step=00000003.ckpt"
    assert newest_resumable(tmp_path / "c").name == "step=00000006.ckpt"
    fit(tiny_module(), ema(), *watching, resumed, start_step=3, ckpt_path=state, validation_batches=validation_batches)
    assert all(torch.equal(whole.at[step][name], each) for step in resumed.at for name, each in resumed.at[step].items())
    assert store.read("neurons").equals(rows)


def test_the_validation_hook_measures_the_averages_too(tiny_module, fit, tiny_blocks, tiny_counts, store, tmp_path):
    hook = MeasureOnClock(tiny_blocks, tiny_counts, store=store, when="validation")
    fit(tiny_module(), ema(), hook, SaveOnClock(tmp_path / "c", [2, 4, 6]), validation_batches=1)
    assert store.read("model")["weights_sha256"].to_pylist() == [weights_sha256(saved(tmp_path / "c", step)) for step in (2, 4, 6)]
