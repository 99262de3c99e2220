"""Lightning's own features as configuration, together, through a whole run."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch

from confreg import measure, open_run
from confreg.callbacks.measure_on_clock import MeasureOnClock
from confreg.callbacks.wandb_logger import CLOCK_GROUPS, TRAINING_GROUPS
from confreg.experiments.composition import compose_settings
from confreg.experiments.training_run import train
from confreg.models.checkpoints import checkpoint_steps
from confreg.records.store import RecordStore

TINY_LANGUAGE = ["vocabulary_size=24", "rank=3", "block_length=12", "batch_size=4", "n_inverse_temperatures=2", "n_backoff_weights=2"]
TINY_MODEL = ["n_layer=1", "d_model=16", "d_mlp=8", "n_head=2", "dropout=0.1"]
TINY = [
    *(f"data.{each}" for each in [*TINY_LANGUAGE, "n_reference=6", "n_measured=18"]),
    *(f"model.{each}" for each in TINY_MODEL),
    *("measure.n_scored_per_block=5", "measure.control_draws_last=3", "optimizer.warmup_steps=2", "clock.resume_every=2"),
    *("trainer.max_steps=12", "trainer.validate_every=2", "trainer.accelerator=cpu", "trainer.log_every=1"),
    *("trainer.progress_bar=false", "trainer.model_summary=false", "logger.wandb.mode=disabled"),
]
# the first validation is the best, and after three more the run is stopped: at step 8, which is on the clock
TOGETHER = [
    *("callbacks=[ema,early_stopping,monitors]", "callbacks.extra.early_stopping.min_delta=1000", "callbacks.extra.ema.decay=0.5"),
    *("trainer.accumulate_batches=2", "trainer.precision=bf16-mixed", "trainer.compile=true", "callbacks.extra.throughput.window_steps=2"),
]
ROOT = Path(__file__).parents[2]
TABLES = ("neurons", "model", "spectrum")


@pytest.fixture
def settings(tmp_path):
    def make(*overrides, name="mine"):
        return compose_settings([*TINY, f"run.root={tmp_path}", f"run.name={name}", *overrides])

    return make


@pytest.fixture
def no_compiler_needed(monkeypatch):
    """The training steps are traced by torch.compile and run without generated code; the heavy test generates it."""
    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compile_with(function, backend="eager"))


class StoppedError(RuntimeError):
    """What a test raises in the middle of a run."""


def stop_behind(step):
    original = MeasureOnClock.on_train_batch_end

    def hook(self, trainer, *rest):
        if trainer.global_step == step:
            raise StoppedError
        original(self, trainer, *rest)

    return hook


def check_features_together(settings, folder, monkeypatch):
    """One run as it is and one that is broken off and resumed: the same rows, of the same weights as the checkpoints."""
    assert train(settings(*TOGETHER, name="whole")) == 0
    with monkeypatch.context() as patched:
        patched.setattr(MeasureOnClock, "on_train_batch_end", stop_behind(7))
        with pytest.raises(StoppedError):
            train(settings(*TOGETHER, name="broken"))
    assert train(settings(*TOGETHER, name="broken")) == 0
    whole, broken = (RecordStore(folder / name / "records") for name in ("whole", "broken"))
    assert whole.steps("model") == checkpoint_steps(folder / "whole" / "checkpoints") == [0, 1, 2, 3, 4, 6, 8]
    assert all(whole.read(table).equals(broken.read(table)) for table in TABLES)
    return whole


@pytest.mark.heavy
def test_average_early_stop_monitors_accumulation_bf16_and_compile_go_together(settings, tmp_path, monkeypatch, no_compiler_needed, capsys):
    whole = check_features_together(settings, tmp_path, monkeypatch)
    facts = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert (facts["status"], facts["steps"], facts["stopped_early"], facts["measured_weights"]) == ("finished", 8, True, "averaged")
    for step in (3, 8):
        request = settings().measure.request_at(step, facts["steps"], 0)
        tokens_seen = whole.read("model", step)["tokens_seen"][0].as_py()
        again = measure(*open_run(tmp_path / "whole", step), request, step=step, tokens_seen=tokens_seen)
        assert all(whole.read(table, step).equals(rows) for table, rows in again.items())
    capsys.readouterr()
    assert train(settings(*TOGETHER, name="whole")) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "is finished already" in said
    assert "stopped early, at step 8 of 12" in said


@pytest.mark.heavy
def test_they_go_together_with_generated_code_too(settings, tmp_path, monkeypatch):
    check_features_together(settings, tmp_path, monkeypatch)


def test_every_logged_key_has_one_axis(settings, tmp_path):
    pytest.importorskip("psutil")
    short = ["trainer.max_steps=3", "callbacks.extra.throughput.window_steps=2"]
    assert train(settings("callbacks=[monitors,device_stats]", *short)) == 0
    header = next(csv.reader(next((tmp_path / "mine" / "csv").rglob("metrics.csv")).open()))
    groups = [*TRAINING_GROUPS, *CLOCK_GROUPS]
    owners = {key: sum(key.startswith(f"{group}/") for group in groups) for key in set(header) - {"step", "epoch"}}
    assert {"train/learning_rate/vectors", "perf/tokens_per_second", "DeviceStatsMonitor.on_train_batch_end/cpu_percent"} <= set(owners)
    assert set(owners.values()) == {1}


def test_the_lines_that_validate_a_checkpoint_give_the_rows_that_were_measured_live(settings, tmp_path):
    assert train(settings("callbacks=ema", "trainer.max_steps=4")) == 0
    page = (ROOT / "docs" / "training-features.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    shown = 'Path("runs/default/seed=0"), 512'
    assert shown in code
    for step in (2, 4):
        names = {}
        exec(code.replace(shown, f"Path({str(tmp_path / 'mine')!r}), {step}"), names)
        assert names["rows"].equals(RecordStore(tmp_path / "mine" / "records").read("neurons", step))


def test_lightnings_own_checkpoints_and_progress_bar_can_stand_beside_ours(settings, tmp_path):
    own = [
        f"+callbacks.extra.best={{_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: {tmp_path / 'best'}, monitor: val/loss}}",
        "+callbacks.extra.bar={_target_: lightning.pytorch.callbacks.TQDMProgressBar}",
    ]
    assert train(settings(*own, "trainer.max_steps=2")) == 0
    assert [path.suffix for path in (tmp_path / "best").iterdir()] == [".ckpt"]
