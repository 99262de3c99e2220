"""Whether loggers can be used here, and what Lightning's other loggers hold after a run."""

from __future__ import annotations

import os
import struct

import pytest
import wandb

from confreg.callbacks.wandb_account import WandbError, check_account
from confreg.experiments import loggers
from confreg.experiments.command_line import run_command
from confreg.experiments.composition import compose_settings
from confreg.experiments.loggers import check_loggers, extra_loggers
from confreg.experiments.training_run import train
from confreg.records.run_folder import RunFolder, RunState
from confreg.records.scalars import clock_scalars
from confreg.records.store import RecordStore

CANARY = "planted-canary"
TINY = [
    *("data.vocabulary_size=24", "data.rank=3", "data.block_length=12", "data.batch_size=4", "data.n_reference=6", "data.n_measured=18"),
    *("data.n_inverse_temperatures=2", "data.n_backoff_weights=2", "model.n_layer=1", "model.d_model=16", "model.d_mlp=8"),
    *("model.n_head=2", "measure.n_scored_per_block=5", "measure.control_draws_last=1", "optimizer.warmup_steps=2"),
    *("trainer.max_steps=3", "trainer.validate_every=2", "trainer.log_every=1", "trainer.accelerator=cpu"),
    *("trainer.progress_bar=false", "trainer.model_summary=false"),
]


@pytest.fixture
def finished(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for whatever a logger writes where it stands

    def run(*overrides):
        assert train(compose_settings([*TINY, f"run.root={tmp_path}", "run.name=mine", *overrides])) == 0
        assert sorted(os.listdir()) == ["mine"]
        return tmp_path / "mine"

    return run


@pytest.fixture
def without_account(tmp_path_factory, monkeypatch):
    check_account.cache_clear()
    empty = tmp_path_factory.mktemp("home")
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "NETRC", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(empty / ".netrc" if name == "NETRC" else empty))
    yield empty
    check_account.cache_clear()


def events_of(folder):
    """Step, tag and value of every scalar in TensorBoard's files: records of a length, its checksum, the content, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in folder.rglob("events.out.tfevents.*"):
        content, start = path.read_bytes(), 0
        while start < len(content):
            (length,) = struct.unpack_from("<Q", content, start)
            event = Event.FromString(content[start + 12 : start + 12 + length])
            start += 12 + length + 4
            yield from ((event.step, value.tag, value.simple_value) for value in event.summary.value)


def test_tensorboard_holds_every_scalar_of_the_records_at_its_step(finished):
    pytest.importorskip("tensorboardX", reason="writes and reads TensorBoard's files; pip install 'confreg[tensorboard]'")
    run = finished("logger=tensorboard")
    store = RecordStore(run / "records")
    seen = {(step, tag): value for step, tag, value in events_of(run / "tensorboard")}
    expected = {(step, name): value for step in store.steps("model") for name, value in clock_scalars(store, step).items()}
    measured = {key: value for key, value in seen.items() if key[1].startswith(("model/", "neurons/"))}
    assert measured == pytest.approx(expected, rel=1e-6)  # TensorBoard keeps 32 bits
    assert {tag for _, tag in seen} - {tag for _, tag in measured} == {"train/loss", "val/loss", "val/entropy", "epoch"}
    assert not (run / "wandb").exists()


@pytest.mark.heavy
def test_mlflow_holds_every_scalar_of_the_records_at_its_step_and_the_configuration_without_secrets(finished):
    pytest.importorskip("mlflow", reason="pip install 'confreg[mlflow]': 20 packages more, too many for everybody's tests")
    from mlflow.tracking import MlflowClient

    run = finished("logger=mlflow", f"logger.wandb.notes='see https://me:{CANARY}@host.example/x'")
    client, store = MlflowClient(f"sqlite:///{run / 'mlflow' / 'mlflow.db'}"), RecordStore(run / "records")
    (written,) = client.search_runs([client.get_experiment_by_name("confreg").experiment_id])
    assert (written.info.run_name, written.info.status) == ("mine", "FINISHED")
    assert {"data.rank": "3"}.items() <= {key.replace("/", "."): value for key, value in written.data.params.items()}.items()
    for name in written.data.metrics:
        if name.startswith(("model/", "neurons/")):
            seen = {each.step: each.value for each in client.get_metric_history(written.info.run_id, name)}
            rows = {step: clock_scalars(store, step) for step in store.steps("model")}
            assert seen == {step: row[name] for step, row in rows.items() if name in row}
    assert set(clock_scalars(store, 3)) <= set(written.data.metrics)
    assert not [path for path in run.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_a_process_that_writes_nothing_gets_loggers_that_do_nothing(tmp_path):
    settings = compose_settings(["logger=tensorboard"])
    (logger,) = extra_loggers(settings, RunFolder(tmp_path, tmp_path, RunState.NEW, is_writer=False), "mine")
    logger.log_metrics({"x": 1.0}, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("logger=tensorboard", r"needs the package tensorboard or tensorboardX; install it with: pip install 'confreg\[tensorboard\]'"),
        ("logger=mlflow", r"needs the package mlflow; install it with: pip install 'confreg\[mlflow\]'"),
        ("+logger.extra.comet._target_=lightning.pytorch.loggers.CometLogger", "pip install 'comet-ml'"),
    ],
)
def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(override, message, monkeypatch):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=message):
        check_loggers(compose_settings([override]))


def test_a_logger_or_an_argument_that_does_not_exist_is_refused_by_name():
    with pytest.raises(ValueError, match=r"logger\.extra\.x\._target_ is '.*TensorBoredLogger', which does not exist"):
        check_loggers(compose_settings(["+logger.extra.x._target_=lightning.pytorch.loggers.TensorBoredLogger"]))
    with pytest.raises(ValueError, match=r"logger\.extra\.x\._target_ is '.*\.Logger', which logs nothing itself"):
        check_loggers(compose_settings(["+logger.extra.x._target_=lightning.pytorch.loggers.Logger"]))
    with pytest.raises(ValueError, match=r"logger\.extra\.mlflow\.experiment is no argument of .*; expected one of experiment_name"):
        check_loggers(compose_settings(["logger=mlflow", "+logger.extra.mlflow.experiment=x"]))


def test_online_without_an_account_ends_with_2_asks_nothing_and_leaves_nothing(without_account, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_command("train", train, [*TINY, "logger=wandb_online"]) == 2
    said = capsys.readouterr().err
    assert "W&B cannot be used: this machine has no login of W&B" in said
    assert "wandb login" in said
    assert "logger=offline" in said
    assert (os.listdir(tmp_path), os.listdir(without_account)) == ([], [])


def test_credentials_that_wandb_refuses_are_told_in_its_own_words(without_account, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(WandbError, match="API key must have 40"):
        check_account()


def test_an_account_is_asked_for_once_in_a_process(without_account, monkeypatch):
    asked = []
    monkeypatch.setattr(wandb, "login", lambda **how: asked.append(how) or True)
    settings = compose_settings(["logger=wandb_online"])
    check_loggers(settings)
    check_loggers(settings)
    assert asked == [{"prompt": False, "verify": True}]
