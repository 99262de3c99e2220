"""Groups of neurons on the command line and in presets: given, added, left out, and misspelt."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from confreg.experiments.command_line import run_command
from confreg.experiments.composition import compose_settings, with_quoted_paths
from confreg.experiments.measure_composition import compose_measure_settings
from confreg.records.run_folder import RunFolder, load_settings
from confreg.settings import MeasurementRequest, MeasureSettings, RunSettings, SettingError, Settings

GROUPS = {"rare_token": [3, 17], "trio": [1, 5, 2]}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run() -> str:
    request = MeasurementRequest(groups=dict(GROUPS))
    folder = RunFolder.prepare(Settings(measure=MeasureSettings(request=request), run=RunSettings(name="mine")))
    folder.finish()
    return folder.path.as_posix()


@pytest.mark.parametrize(
    ("overrides", "groups"),
    [
        ([], {}),
        (["measure.request.groups={}"], {}),
        (["measure.request.groups={confident: [3, 17]}"], {"confident": [3, 17]}),
        (["measure.request.groups={b: [3], a: [1]}", "measure.request.groups.c=[0]"], {"b": [3], "a": [1], "c": [0]}),
        (["+measure.request.groups.a=[1]", "++measure.request.groups={b: [2]}"], {"a": [1], "b": [2]}),
        (["measure.request.groups.a=[1]", "measure.request.groups.a=[2,3]"], {"a": [2, 3]}),
        (["measure.request.groups={a: [1], b: [2]}", "~measure.request.groups.a"], {"b": [2]}),
    ],
)
def test_groups_are_given_with_or_without_a_plus_sign(overrides: list[str], groups: dict[str, list[int]]) -> None:
    assert compose_settings(overrides).measure.request.groups == groups


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "measure.request.grups={a: [3]}",
            "measure.request.grups (on the command line) is not a setting. Did you mean measure.request.groups?",
        ),
        (
            "measure.requst.groups={a: [3]}",
            "measure.requst.groups (on the command line) is not a setting. Did you mean measure.request.groups?",
        ),
        ("request.groups={a: [3]}", "request.groups.a (on the command line) is not a setting. Did you mean measure.request.groups.NAME?"),
        ("measure.request.groups.a.b=[3]", "measure.request.groups.a.b (on the command line) is not a setting."),
        ("measure.request.groups={a.b: [3]}", "Did you mean measure.request.groups.NAME?"),
        (
            "measure.request.groups=[3,4]",
            "is '[3,4]' (on the command line); expected a mapping of names to lists, such as {confident: [3, 17]}.",
        ),
        ("measure.request.groups=null", "is 'null' (on the command line); expected a mapping of names to lists"),
        (
            "measure.request.groups={a: 3}",
            "measure.request.groups.a is '3' (on the command line); expected a list, such as [a, b], each a whole",
        ),
        ("measure.request.groups={a: [x]}", "measure.request.groups.a is 'x' (on the command line); expected a list"),
        ("measure.request.groups={a: [1.5]}", "measure.request.groups.a is '1.5' (on the command line); expected a list"),
        ("measure.request.groups={1: [3]}", "1 is no name; expected a letter, then letters, digits, _ or -."),
        ("measure.request.groups={a: []}", "measure.request.groups.a is []; expected one neuron at least"),
        ("measure.request.groups={a: [3, 64]}", "measure.request.groups.a has 64; expected neurons of the last MLP, which are 0 to 63."),
        ("~measure.request.groups", "nothing can be left out"),
    ],
)
def test_what_is_no_group_is_refused_by_its_key_with_what_was_expected(recompose, override: str, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        compose_settings([override]) if override.startswith("~") else recompose(*with_quoted_paths([override]))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_group_that_the_layer_has_not_leaves_no_folder(capsys: pytest.CaptureFixture) -> None:
    overrides = ["model.d_mlp=8", "measure.request.groups={pair: [3, 8]}", "run.name=x"]
    assert run_command("train", lambda _: pytest.fail("the task must not run"), overrides) == 2
    said = capsys.readouterr().err
    assert said == "confreg-train: measure.request.groups.pair has 8; expected neurons of the last MLP, which are 0 to 7.\n"
    assert os.listdir() == []


def test_a_preset_of_ones_own_may_have_groups(tmp_path: Path) -> None:
    file = tmp_path / "presets" / "measure" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("request:\n  groups:\n    pair: [3, 17]\n")
    settings = compose_settings(["measure=mine", "measure.request.groups.one=[4]"], tmp_path / "presets")
    assert settings.measure.request.groups == {"pair": [3, 17], "one": [4]}
    file.write_text("request:\n  groups:\n    pair: [x]\n")
    with pytest.raises(SettingError, match=r"measure\.request\.groups\.pair"):
        compose_settings(["measure=mine"], tmp_path / "presets")


def test_a_run_keeps_its_groups_whatever_they_are_called(run: str) -> None:
    assert load_settings(run).measure.request.groups == GROUPS


def test_measuring_again_keeps_adds_and_leaves_out_groups_of_the_run(run: str) -> None:
    def groups(*overrides: str) -> dict[str, list[int]]:
        return compose_measure_settings([f"source={run}", *overrides]).request.groups

    assert groups() == GROUPS
    assert groups("request.groups={one: [4]}") == {**GROUPS, "one": [4]}
    assert groups("request.groups.trio=[7]", "~request.groups.rare_token") == {"trio": [7]}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("request.groups.pair=[64]", r"^request\.groups\.pair has 64; expected neurons of the last MLP, which are 0 to 63\.$"),
        ("request.groups.pair=[]", r"^request\.groups\.pair is \[\]; expected one neuron at least"),
        ("request.grups={pair: [3]}", r"request\.grups \(on the command line\) is not a setting. Did you mean request\.groups\?"),
    ],
)
def test_measuring_again_refuses_what_the_runs_layer_has_not(run: str, override: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        compose_measure_settings([f"source={run}", override])
