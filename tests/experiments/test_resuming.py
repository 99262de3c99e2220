"""What a run that goes on must find, and what it says of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from confreg.experiments import assembly
from confreg.experiments.command_line import run_command
from confreg.experiments.composition import compose_settings
from confreg.experiments.resuming import command_to_go_on, state_to_go_on_from, where_to_go_on
from confreg.experiments.training_run import train
from confreg.models.checkpoints import CheckpointError, checkpoint_name, step_of
from confreg.models.runs import open_run
from confreg.records.run_folder import RunFolderError, load_settings
from confreg.settings import Settings
from confreg.training.language_module import LanguageModule

TEXT = [
    *("data=text", "data.vocabulary_size=260", "data.block_length=12", "data.batch_size=4", "data.n_reference=4", "data.n_measured=4"),
    *("model.n_layer=1", "model.d_model=16", "model.d_mlp=8", "model.n_head=2", "measure.n_scored_per_block=3"),
    *("optimizer.warmup_steps=2", "trainer.max_steps=4", "trainer.validate_every=2", "clock.resume_every=2", "trainer.accelerator=cpu"),
    *("trainer.progress_bar=false", "trainer.model_summary=false", "logger.wandb.mode=disabled"),
]


class StoppedError(RuntimeError):
    """What the test raises in the middle of a run."""


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02d}.txt").write_text(f"The number of this text is {number}. " * 20)
    return folder


@pytest.fixture
def settings(texts: Path, tmp_path: Path) -> Settings:
    return compose_settings([*TEXT, f"data.source={texts}", f"data.cache={tmp_path / 'cache'}", f"run.root={tmp_path}", "run.name=mine"])


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = LanguageModule.on_train_batch_start

    def stopping(self: LanguageModule, *arguments: Any) -> None:
        if self.global_step == step:
            raise StoppedError
        original(self, *arguments)

    monkeypatch.setattr(LanguageModule, "on_train_batch_start", stopping)


def begin_and_stop(settings: Settings, step: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        stop_at(step, patched)
        with pytest.raises(StoppedError):
            train(settings)


def test_a_run_does_not_go_on_with_another_text(settings: Settings, texts: Path, tmp_path: Path) -> None:
    begin_and_stop(settings, 3)
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file() and path.name != "run.json"}
    kept = (texts / "07.txt").read_text()
    (texts / "07.txt").write_text(kept.replace("7", "8"))
    with pytest.raises(RunFolderError, match=r"mine was begun with another text:\n(.*\n)?  text_sha256: there"):
        train(compose_settings([f"resume={tmp_path / 'mine'}"]))
    assert before == {path: path.read_bytes() for path in before}
    (texts / "07.txt").write_text(kept)
    assert train(compose_settings([f"resume={tmp_path / 'mine'}"])) == 0


def test_damaged_full_states_are_named_and_refused_where_none_is_left(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin_and_stop(settings, 3)
    state = tmp_path / "mine" / "checkpoints" / "resume" / checkpoint_name(2)
    whole = state.read_bytes()
    state.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert run_command("train", train, [f"resume={tmp_path / 'mine'}"]) == 2
    assert f"the SHA-256 of {checkpoint_name(2)} differs from the manifest" in " ".join(capsys.readouterr().err.split())
    state.write_bytes(whole)
    capsys.readouterr()
    assert run_command("train", train, [f"resume={tmp_path / 'mine'}"]) == 0
    assert "4 optimizer steps from step 2" in capsys.readouterr().out


def test_an_earlier_whole_state_is_taken_with_a_word_on_the_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "resume").mkdir()
    said: list[str] = []
    names = [f"resume/{checkpoint_name(step)}" for step in (2, 4)]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "manifest.json").write_text(json.dumps({names[0]: empty, names[1]: "0" * 64}))
    assert state_to_go_on_from(tmp_path, said.append) == tmp_path / names[0]
    assert said == [f"Damaged, so that the run goes on from an earlier full state: {checkpoint_name(4)}."]


def test_a_state_that_was_never_complete_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "resume").mkdir()
    (tmp_path / "resume" / checkpoint_name(2)).write_bytes(b"renamed, and killed before the manifest told of it")
    assert state_to_go_on_from(tmp_path, pytest.fail) is None


def test_a_run_that_stopped_before_its_first_full_state_says_that_it_begins_again(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin_and_stop(settings, 1)
    assert f"To go on with this run from step 0: confreg-train resume={tmp_path / 'mine'}" in capsys.readouterr().out
    assert train(compose_settings([f"resume={tmp_path / 'mine'}"])) == 0
    assert "from step 0 again, for it stopped before its first full state" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("runs/default/seed=0", "confreg-train resume=runs/default/seed=0"),
        ("runs/odd name", "confreg-train 'resume='\"'\"'runs/odd name'\"'\"''"),
        ("runs/a<b>&c", "confreg-train 'resume='\"'\"'runs/a<b>&c'\"'\"''"),
    ],
)
def test_the_command_to_go_on_is_what_a_shell_and_hydra_read(name: str, command: str) -> None:
    assert command_to_go_on(Path(name)) == command


def test_where_to_go_on_is_the_newest_full_state(tmp_path: Path) -> None:
    assert where_to_go_on(tmp_path) == "from step 0"
    (tmp_path / "resume").mkdir()
    for step in (256, 1024, 512):
        (tmp_path / "resume" / checkpoint_name(step)).touch()
    assert where_to_go_on(tmp_path) == "from step 1024"


def test_damaged_blocks_are_refused_by_name(settings: Settings, tmp_path: Path) -> None:
    assert train(settings) == 0
    path = tmp_path / "mine" / "blocks.safetensors"
    whole = path.read_bytes()
    open_run(tmp_path / "mine", 4)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(RunFolderError, match=r"blocks\.safetensors is not what was written \(its SHA-256 differs\)"):
        open_run(tmp_path / "mine", 4)
    path.write_bytes(b"xx")
    with pytest.raises(RunFolderError, match=r"blocks\.safetensors is damaged"):
        open_run(tmp_path / "mine", 4)


def test_under_slurm_no_checkpoint_of_lightnings_own_is_written_and_requeued(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file would be loaded with weights in the middle, while the data begin from the start."""
    monkeypatch.setattr("confreg.experiments.assembly.SLURMEnvironment.detect", lambda: True)
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}.items():
        monkeypatch.setenv(name, value)
    trainer = assembly.trainer_of(settings, tmp_path, [], [])
    assert trainer._accelerator_connector.cluster_environment.auto_requeue is False
    before = signal.getsignal(signal.SIGUSR1)
    trainer._signal_connector.register_signal_handlers()
    assert signal.getsignal(signal.SIGUSR1) == before
    trainer._signal_connector.teardown()


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_run_that_is_told_to_end_leaves_a_state_behind_its_step_and_goes_on_to_the_same_weights(
    texts: Path, settings: Settings, tmp_path: Path, name: str
) -> None:
    overrides = [*TEXT, *own_keys(settings), "trainer.max_steps=400", "trainer.validate_every=400"]
    overrides += ["clock.resume_every=1000", "callbacks.measure=false", "trainer.threads=1"]
    slurm = {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "mine", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    environment = {**os.environ, **(slurm if name == "SIGUSR1" else {})}
    command = [sys.executable, "-m", "confreg.experiments.train", *overrides, "run.name=told"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    folder = tmp_path / "told" / "checkpoints"
    while not (folder / checkpoint_name(16)).exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(getattr(signal, name))
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 143, said
    [state] = (folder / "resume").glob("step=*.ckpt")
    assert 16 <= step_of(state) < 400
    assert f"To go on with this run from step {step_of(state)}: confreg-train resume=" in said
    assert json.loads((tmp_path / "told" / "run.json").read_text())["status"] == "interrupted"
    assert train(compose_settings([f"resume={tmp_path / 'told'}"])) == 0
    assert train(compose_settings([*overrides, "run.name=whole"])) == 0
    ends = [torch.load(tmp_path / each / "checkpoints" / checkpoint_name(400), weights_only=True) for each in ("told", "whole")]
    assert all(map(torch.equal, *(each["state_dict"].values() for each in ends)))


def test_weights_that_a_gradient_made_no_numbers_are_not_saved(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: LanguageModule, *_: Any) -> None:
        if self.global_step == 1:
            next(self.parameters()).grad.fill_(torch.nan)  # type: ignore[union-attr]

    monkeypatch.setattr(LanguageModule, "on_after_backward", broken)
    with pytest.raises(FloatingPointError, match=r"is not finite at optimizer step 2: a gradient was not"):
        train(compose_settings([*TEXT, *own_keys(settings), "callbacks.measure=false", "run.name=broken"]))
    saved = sorted(path.name for path in (tmp_path / "broken" / "checkpoints").rglob("*.ckpt"))
    assert saved == [checkpoint_name(0), checkpoint_name(1)]
    assert load_settings(tmp_path / "broken").run.name == "broken"


def own_keys(settings: Settings) -> list[str]:
    return [f"data.source={settings.data.source}", f"data.cache={settings.data.cache}", f"run.root={settings.run.root}"]


def test_a_state_that_is_named_like_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "resume").mkdir()
    (tmp_path / "manifest.json").write_text("[")
    with pytest.raises(CheckpointError, match="is damaged"):
        state_to_go_on_from(tmp_path, pytest.fail)
