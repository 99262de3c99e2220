"""Checkpoints on the clock."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from confreg.callbacks import SaveOnClock
from confreg.models.checkpoints import CheckpointError, checkpoint_path, checkpoint_steps, newest_resumable, step_of
from confreg.training.language_module import LanguageModule


def test_weights_lie_on_the_clock_and_the_last_two_full_states_stay(tiny_module, fit, tmp_path):
    fit(tiny_module(max_steps=6), SaveOnClock(tmp_path, [0, 1, 4, 6], resume_every=2))
    assert checkpoint_steps(tmp_path) == [0, 1, 4, 6]
    assert sorted(step_of(path) for path in (tmp_path / "resume").iterdir()) == [4, 6]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_a_checkpoint_loads_with_the_safe_loader_and_holds_the_weights(tiny_module, fit, weights_of, tmp_path):
    module = tiny_module(max_steps=3)
    fit(module, SaveOnClock(tmp_path, [3], resume_every=3))
    loaded = torch.load(checkpoint_path(tmp_path, 3), weights_only=True)
    assert loaded["global_step"] == 3
    again = LanguageModule.load_from_checkpoint(checkpoint_path(tmp_path, 3))
    assert all(map(torch.equal, weights_of(module), weights_of(again)))
    assert "optimizer_states" in torch.load(newest_resumable(tmp_path), weights_only=True)


def test_under_accumulation_it_saves_behind_the_optimizer_step_only(tiny_module, fit, tmp_path, monkeypatch):
    saved = []
    original = pl.Trainer.save_checkpoint
    monkeypatch.setattr(pl.Trainer, "save_checkpoint", lambda self, *a, **k: saved.append(self.global_step) or original(self, *a, **k))
    fit(tiny_module(max_steps=3), SaveOnClock(tmp_path, [0, 1, 2, 3]), accumulate=4)
    assert saved == [0, 1, 2, 3]


def test_a_damaged_checkpoint_is_refused_and_resuming_walks_back(tiny_module, fit, tmp_path):
    fit(tiny_module(max_steps=4), SaveOnClock(tmp_path, [4], resume_every=2))
    for path in (tmp_path / "step=00000004.ckpt", tmp_path / "resume" / "step=00000004.ckpt"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not what was written"):
        checkpoint_path(tmp_path, 4)
    assert step_of(newest_resumable(tmp_path)) == 2


def test_a_step_without_checkpoint_is_refused_with_the_steps_that_have_one(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint of step 7"):
        checkpoint_path(tmp_path, 7)


def test_a_failed_write_leaves_nothing_half_written(tiny_module, fit, tmp_path, monkeypatch):
    def full_disk(self, path, **_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", full_disk)
    with pytest.raises(OSError, match="No space left"):
        fit(tiny_module(max_steps=2), SaveOnClock(tmp_path, [0]))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("arguments", [{"resume_every": 0}, {"keep": 0}])
def test_arguments_that_would_keep_nothing_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match="at least 1"):
        SaveOnClock(tmp_path, [0], **arguments)


class _ToldToEnd(pl.Callback):
    """Stands for the signal, at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        trainer._signal_connector.received_sigterm = trainer.global_step == self.step


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_process_that_is_told_to_end_leaves_a_state_of_the_step_that_it_finished(tiny_module, fit, tmp_path, accumulate):
    with pytest.raises(SIGTERMException):
        fit(tiny_module(max_steps=9), _ToldToEnd(4), SaveOnClock(tmp_path, [9], resume_every=100), accumulate=accumulate)
    if accumulate == 1:
        assert step_of(newest_resumable(tmp_path)) == 5
    else:  # Lightning stops behind the batch, in the middle of an accumulation: nothing to go on from
        assert newest_resumable(tmp_path) is None
