import os

import pytest
from hydra.core.hydra_config import HydraConfig

from confreg.experiments.command_line import is_mendable, run_command
from confreg.records.run_folder import RunFolder, RunFolderError
from confreg.settings import SettingError


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)


def never(settings):
    raise AssertionError("the task must not run")


def test_a_task_gets_the_checked_settings_and_gives_the_exit_code():
    seen = []
    assert run_command("train", lambda settings: seen.append(settings) or 3, ["seed=4", "run.name=default/seed=4"]) == 3
    assert (seen[0].seed, seen[0].run.name) == (4, "default/seed=4")
    assert os.listdir() == []


def test_the_task_runs_as_a_job_of_hydra():
    names = []
    assert run_command("train", lambda _: names.append(HydraConfig.get().job.name), []) == 0
    assert names == ["confreg-train"]


@pytest.mark.parametrize(
    "arguments", [["sed=1"], ["seed=-1"], ["data=foo"], ["seed"], ["--cfg", "job", "sed=1"], ["-m", "seed=1,-2"], ["-m", "sed=1,2"]]
)
def test_what_cannot_be_used_ends_with_2_a_few_lines_and_no_folder(arguments, capsys):
    assert run_command("train", never, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("confreg-train: ")
    assert "Traceback" not in error
    assert len(error.splitlines()) <= 5
    assert os.listdir() == []


def test_a_bad_job_of_a_sweep_is_named_before_the_first_one_runs(capsys):
    assert run_command("train", never, ["-m", "seed=1,2", "optimizer.learning_rate=1e-3,-1"]) == 2
    assert "In the job: seed=1 optimizer.learning_rate=-1" in capsys.readouterr().err


def test_help_lists_every_preset_and_shows_examples(capsys):
    with pytest.raises(SystemExit) as caught:
        run_command("train", never, ["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    for line in (
        "data: constant_confidence, fixed_confidence, hub, known_confidence, mixture, sotu, text",
        "callbacks: default, device_stats, early_stopping, ema, monitors, none, validation",
        "debug: cpu_ddp, limit, overfit, profiler",
        "logger: csv, mlflow, offline, tensorboard, wandb_online",
        "trainer: bf16, compiled, cpu, ddp, default",
    ):
        assert line in text
    assert "confreg-train experiment=sotu" in text
    assert os.listdir() == []


def test_the_version_is_that_of_the_package(capsys):
    assert run_command("train", never, ["--version"]) == 0
    assert capsys.readouterr().out.startswith("confreg 0.")


def test_the_configuration_can_be_shown(capsys):
    assert run_command("train", never, ["--cfg", "job", "seed=7"]) == 0
    assert "seed: 7" in capsys.readouterr().out
    assert os.listdir() == []


def test_an_unknown_flag_ends_with_2():
    with pytest.raises(SystemExit) as caught:
        run_command("train", never, ["--nonsense"])
    assert caught.value.code == 2


def test_a_fault_of_the_program_comes_through_with_its_traceback():
    def fail(settings):
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom") as caught:
        run_command("train", fail, [])
    assert caught.traceback[-1].name == "fail"


@pytest.mark.parametrize("error", [SettingError("wrong"), RunFolderError("wrong"), PermissionError(13, "wrong")])
def test_what_the_user_can_mend_is_told_without_a_traceback(error, capsys):
    def fail(settings):
        raise error

    assert run_command("train", fail, []) == 2
    assert "wrong" in capsys.readouterr().err


def test_other_errors_of_value_are_faults_of_the_program():
    assert not is_mendable(ValueError("of somebody else"))
    assert not is_mendable(RuntimeError())


def test_ctrl_c_ends_with_130_and_one_line(capsys):
    def interrupt(settings):
        raise KeyboardInterrupt

    assert run_command("train", interrupt, []) == 130
    assert capsys.readouterr().err == "confreg-train: interrupted.\n"


def test_presets_of_ones_own_come_from_config_dir(tmp_path):
    (tmp_path / "presets" / "model").mkdir(parents=True)
    (tmp_path / "presets" / "model" / "mine.yaml").write_text("defaults: [gpt2_tiny, _self_]\nn_layer: 5\n")
    seen = []
    assert run_command("train", seen.append, ["--config-dir", "presets", "model=mine"]) == 0
    assert seen[0].model.n_layer == 5


def test_an_existing_run_of_another_configuration_is_refused_tidily(capsys):
    def task(settings):
        with RunFolder.prepare(settings):
            pass

    assert run_command("train", task, ["run.name=one"]) == 0
    assert run_command("train", task, ["run.name=one", "seed=1"]) == 2
    assert "seed: there 0, asked for 1" in capsys.readouterr().err
    assert sorted(os.listdir("runs")) == ["one"]
