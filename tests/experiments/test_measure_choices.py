from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from confreg.experiments.measure_choices import chosen_steps, device_of, output_of, threads_of
from confreg.models.checkpoints import CheckpointError
from confreg.settings import SettingError, Settings
from confreg.settings.measure_command import MeasureCommandSettings, RepeatedRequest


@pytest.fixture
def run(tmp_path):
    return SimpleNamespace(folder=tmp_path, steps=[0, 1, 64, 91, 128], settings=Settings())


@pytest.mark.parametrize(("asked", "steps"), [("all", [0, 1, 64, 91, 128]), ("last", [128]), (64, [64]), ([91, 0, 91], [0, 91]), (0, [0])])
def test_steps_are_those_that_are_saved_in_their_order(run, asked, steps):
    assert chosen_steps(asked, run) == steps


@pytest.mark.parametrize(("asked", "near"), [(80, "64 and 91"), ([0, 63], "64 and 91"), (5000, "91 and 128"), (2, "0 and 1")])
def test_a_step_that_is_not_saved_is_answered_with_the_nearest(run, asked, near):
    with pytest.raises(SettingError, match=rf"has not saved; the nearest are {near} \(5 steps are saved, 0 to 128\)"):
        chosen_steps(asked, run)


def test_a_run_without_checkpoints_is_refused_whatever_is_asked(run):
    run.steps = []
    for asked in ("all", "last", [0]):
        with pytest.raises(CheckpointError, match=r"has no checkpoints; .* unless callbacks\.save=false"):
            chosen_steps(asked, run)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "own"),
        ({"control_draws": 20}, "control_draws=20"),
        ({"control_draws": 20, "batch_blocks": 4}, "batch_blocks=4+control_draws=20"),
        ({"null_dimensions": 3}, "null_dimensions=3"),
        ({"groups": {"pair": [3, 17]}, "batch_blocks": 4}, "batch_blocks=4+pair=3,17"),
    ],
)
def test_a_measurement_is_named_by_what_differs_from_the_runs_own_request(run, changes, name):
    own = RepeatedRequest.own_of(run.settings)
    asked = MeasureCommandSettings(request=replace(own, **changes))
    assert output_of(asked, run) == run.folder / "measured" / name


def test_a_measurement_without_a_group_of_the_run_has_a_name_of_its_own(run):
    run.settings.measure.request.groups = {"pair": [3, 17], "one": [5]}
    own = RepeatedRequest.own_of(run.settings)
    names = [output_of(MeasureCommandSettings(request=replace(own, groups=each)), run).name for each in (own.groups, {"one": [5]}, {})]
    assert names == ["own", "pair=None", "one=None+pair=None"]


def test_a_name_that_would_be_no_folder_becomes_eight_digits(run):
    own = RepeatedRequest.own_of(run.settings)
    names = {output_of(MeasureCommandSettings(request=replace(own, replacement=text)), run).name for text in ("a/b", "a/c", "x" * 200)}
    assert len(names) == 3
    assert all(len(name) == 8 and int(name, 16) >= 0 for name in names)


def test_a_name_or_an_output_of_ones_own_is_taken(run, tmp_path):
    assert output_of(MeasureCommandSettings(name="strict"), run) == tmp_path / "measured" / "strict"
    assert output_of(MeasureCommandSettings(output="elsewhere/deep"), run).as_posix() == "elsewhere/deep"


@pytest.mark.parametrize(
    ("asked", "accelerator", "has_cuda", "device"),
    [
        ("auto", "auto", True, "cuda"),
        ("auto", "auto", False, "cpu"),
        ("auto", "gpu", True, "cuda"),
        ("auto", "cuda", False, "cpu"),
        ("auto", "cpu", True, "cpu"),
        ("cpu", "auto", True, "cpu"),
        ("cuda", "cpu", True, "cuda"),
    ],
)
def test_the_device_is_the_one_on_which_the_run_would_train_here(monkeypatch, asked, accelerator, has_cuda, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)  # has no float64
    assert device_of(asked, accelerator) == torch.device(device)


def test_a_device_that_this_machine_does_not_have_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SettingError, match="device is 'cuda', which this machine does not have"):
        device_of("cuda", "auto")


def test_the_threads_are_those_of_the_run_where_there_are_so_many_processors(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    facts = [{"reproducibility": {"threads": had}} for had in (1, 4, 8, None)]
    assert [threads_of(None, each) for each in facts] == [1, 4, 2, 2]
    assert threads_of(None, {}) == 2
    assert threads_of(3, facts[0]) == 3
