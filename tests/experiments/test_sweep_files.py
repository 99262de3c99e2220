"""What a sweep writes holds no secret."""

import json

import pytest
import yaml

from confreg.experiments.command_line import run_command
from confreg.experiments.sweep_files import redacted_overrides

CANARY = "planted-canary"
MLFLOW = "+logger.extra.mlflow={_target_: lightning.pytorch.loggers.MLFlowLogger"


@pytest.mark.parametrize(
    "override",
    [
        f"+logger.extra.mlflow.tags.api_key={CANARY}",
        f"+logger.extra.mlflow.tags.api_key={CANARY},{CANARY}2",
        f"{MLFLOW}, tags: {{api_key: {CANARY}}}}}",
        f"{MLFLOW}, tracking_uri: 'https://me:{CANARY}@host.example/x'}}",
        f"logger.wandb.notes=https\\://me\\:{CANARY}@host.example/x",
        f"logger.wandb.notes='https://me:{CANARY}@host.example/x',none",
        f"++api_key=tag({CANARY})",
    ],
)
def test_a_secret_in_an_override_is_not_written_down(override):
    (safe,) = redacted_overrides([override])
    assert CANARY not in safe
    assert "<redacted>" in safe
    assert safe.startswith(override.partition("=")[0])


def test_an_override_without_a_secret_is_written_as_it_was_typed():
    typed = [
        "seed=0,1",
        "run.name='a=b c'",
        "+data.parts.x={text: {source: 'a b'}}",
        "~data.parts.known",
        "data.parts.a.text.text_field=token",
    ]
    assert redacted_overrides(typed) == typed


def test_no_file_of_a_sweep_holds_a_secret_when_its_first_job_begins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []

    def task(settings):
        seen.extend(path.read_text() for path in tmp_path.rglob("*") if path.is_file())

    secret = [
        "+logger.extra.csv_too={_target_: lightning.pytorch.loggers.CSVLogger}",
        f"+logger.extra.csv_too.prefix=https://me:{CANARY}@h/x",
    ]
    assert run_command("train", task, ["-m", "run.name=s", "seed=0,1", *secret]) == 0
    assert len(seen) == 4  # sweep.json and multirun.yaml, at each of two jobs
    assert not any(CANARY in each for each in seen)
    written = yaml.safe_load((tmp_path / "runs" / "s" / "multirun.yaml").read_text())
    assert "seed=0,1" in written["hydra"]["overrides"]["task"]
    assert written["logger"]["extra"]["csv_too"]["prefix"] == "https://<redacted>@h/x"
    assert len(json.loads((tmp_path / "runs" / "s" / "sweep.json").read_text())["jobs"]) == 1 + 1
