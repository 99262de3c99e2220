"""What a machine must have for a configuration; asked before any folder exists."""

from __future__ import annotations

import pytest
import torch

from confreg.experiments import surroundings
from confreg.experiments.command_line import run_command
from confreg.experiments.composition import compose_settings
from confreg.experiments.surroundings import check_accelerator, check_callbacks, check_compiler, trains_on_gpu
from confreg.settings import CallbackSettings, SettingError, Settings, TrainerSettings


def extra(**entries):
    return Settings(callbacks=CallbackSettings(extra=entries))


def test_a_machine_without_a_compiler_is_told_so_before_any_folder_is_made(monkeypatch, tmp_path, capsys):
    def no_compiler(_function):
        def fail(*_):
            raise RuntimeError("\nNo working C++ compiler found in torch._inductor.config.cpp.cxx\nmany more lines")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.chdir(tmp_path)
    assert run_command("train", lambda settings: pytest.fail("must not run"), ["trainer=compiled"]) == 2
    error = capsys.readouterr().err
    assert "No working C++ compiler found" in error
    assert "set trainer.compile=false" in error
    assert "many more lines" not in error
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_compiled_where_nobody_asks_for_it(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda _: pytest.fail("compiled"))
    check_compiler(TrainerSettings())


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"_target_": "lightning.pytorch.callbacks.NoSuchCallback"}, "callbacks.extra.mine cannot be made: .*NoSuchCallback"),
        ({"_target_": "lightning.pytorch.callbacks.EarlyStopping"}, "callbacks.extra.mine cannot be made: .*monitor"),
        ({"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/loss", "mode": "up"}, "cannot be made: .*mode"),
        ({"_target_": "confreg.callbacks.ClockWandbLogger"}, "callbacks.extra.mine cannot be made"),
    ],
)
def test_a_callback_that_cannot_be_made_is_refused_by_name(entry, text):
    with pytest.raises(SettingError, match=text):
        check_callbacks(extra(mine=entry))


@pytest.mark.parametrize(("trainer", "is_refused"), [({}, True), ({"accelerator": "cpu"}, True), ({"accelerator": "gpu"}, False)])
def test_a_missing_package_of_a_callback_is_named_with_the_way_to_install_it(monkeypatch, trainer, is_refused):
    monkeypatch.setattr(surroundings, "find_spec", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = extra(stats={"_target_": "lightning.pytorch.callbacks.DeviceStatsMonitor"})
    settings.trainer = TrainerSettings(**trainer)
    if not is_refused:
        check_callbacks(settings)
        return
    with pytest.raises(SettingError, match=r"psutil, which is not installed: pip install 'confreg\[monitors\]'"):
        check_callbacks(settings)


@pytest.mark.parametrize(("accelerator", "has_cuda", "expected"), [("auto", True, True), ("auto", False, False), ("cpu", True, False)])
def test_a_run_trains_on_a_cuda_device_or_on_the_cpu(monkeypatch, accelerator, has_cuda, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert trains_on_gpu(compose_settings([f"trainer.accelerator={accelerator}"]).trainer) is expected


def test_processes_are_not_forked_from_one_that_uses_a_gpu(monkeypatch):
    settings = compose_settings(["trainer.strategy=ddp_fork", "trainer.devices=2"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SettingError, match="ddp_fork on a GPU"):
        check_accelerator(settings.trainer)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_accelerator(settings.trainer)
