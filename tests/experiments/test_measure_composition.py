import os
import re

import pytest

from confreg.experiments.command_line import is_mendable, run_command
from confreg.experiments.commands import MEASURE
from confreg.experiments.explanations import unknown_key
from confreg.experiments.measure_composition import compose_measure_settings
from confreg.records.run_folder import RunFolder
from confreg.settings import MeasurementRequest, MeasureSettings, RunSettings, Settings
from confreg.settings.measure_command import MeasureCommandSettings, RepeatedRequest

OWN = MeasureSettings(request=MeasurementRequest(null_dimensions=7, memory_mib=64))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run():
    settings = Settings(seed=5, measure=OWN, run=RunSettings(name="default/seed=5"))
    folder = RunFolder.prepare(settings)
    folder.finish()
    return folder.path.as_posix()


def never(settings):
    raise AssertionError("the task must not run")


def refusal(overrides, capsys):
    before = sorted(os.walk("."))
    assert run_command("measure", never, overrides) == 2
    error = capsys.readouterr().err
    assert error.startswith("confreg-measure: ")
    assert "Traceback" not in error
    assert len(error.splitlines()) <= 3
    assert sorted(os.walk(".")) == before
    return error


def test_without_a_source_the_configuration_is_the_dataclasses_default():
    assert compose_measure_settings([]) == MeasureCommandSettings()


def test_what_is_not_given_is_the_request_with_which_the_run_measured_itself(run):
    settings = compose_measure_settings([f"source={run}", "request.batch_blocks=3", "steps=[0,64]"])
    assert (settings.source, settings.steps) == (run, [0, 64])
    own = RepeatedRequest.own_of(Settings(measure=OWN))
    assert (own.null_dimensions, own.memory_mib) == (7, 64)
    assert settings.request == RepeatedRequest(null_dimensions=7, memory_mib=64, batch_blocks=3)
    assert compose_measure_settings([f"source={run}", "request.null_dimensions=null"]).request.null_dimensions is None


def test_a_run_composed_before_leaves_nothing_behind(run):
    compose_measure_settings([f"source={run}"])
    assert compose_measure_settings([]) == MeasureCommandSettings()


@pytest.mark.parametrize("key", sorted(each for each in MEASURE.keys if not each.endswith(".NAME")))  # a name of one's own is any
def test_every_misspelt_key_is_answered_with_the_right_one(key):
    parent, dot, name = key.rpartition(".")
    wrong = f"{parent}{dot}{name[:2]}{name[1:]}"
    assert unknown_key(wrong, "here", MEASURE) == (
        f"{wrong} (here) is not a setting. Did you mean {key}? All keys: confreg-measure --cfg job"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sorce=x", "sorce (on the command line) is not a setting. Did you mean source?"),
        ("model.n_layer=3", "model.n_layer (on the command line) is not a setting."),
        ("measure.request.replacement=zero", "Did you mean request.replacement?"),
        ("+foo=1", "foo (on the command line) is not a setting."),
        ("~request", "nothing can be left out"),
        ("steps", "expected KEY=VALUE or GROUP=PRESET, such as steps=last"),
        ("steps=0,64", "A list is written in brackets, [a,b]."),
        ("steps=some", "steps is 'some'; expected optimizer steps such as [0,64,512], last, or all."),
        ("request.control_draws=x", "request.control_draws is 'x' (on the command line); expected a whole number, or null."),
        ("source=./nowhere", "'./nowhere': there is no such file or folder; expected the NAME of a published model"),
    ],
)
def test_a_bad_override_is_refused_with_what_came_and_what_was_expected(override, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        compose_measure_settings([override])
    assert is_mendable(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_refusal_ends_with_2_and_one_line_and_makes_no_folder(capsys):
    assert "expected a value at least 0" in refusal(["request.control_draws=-1"], capsys)
    assert "the configuration of another command: confreg-train" in refusal(["--config-name=train"], capsys)


def test_a_folder_that_is_no_run_is_answered_with_the_runs_in_it(run, capsys):
    said = refusal([f"source={run.rpartition('/')[0]}"], capsys)
    assert "is a folder without config.json; expected the NAME of a published model" in said
    assert f"It holds {run}: choose one." in said


def test_a_file_is_answered_with_what_was_expected(run, capsys):
    assert "a file that is neither a GGUF file nor a checkpoint within a run's folder" in refusal([f"source={run}/run.json"], capsys)


def test_many_sources_at_once_are_refused_with_the_next_move(capsys):
    assert "call confreg-measure once for each source" in refusal(["-m", "source=a,b"], capsys)


def test_the_other_command_refuses_this_ones_configuration(capsys):
    assert run_command("train", never, ["--config-name", "measure"]) == 2
    assert "the configuration of another command: confreg-measure" in capsys.readouterr().err


def test_help_says_what_can_be_asked_and_shows_examples(capsys):
    with pytest.raises(SystemExit) as caught:
        run_command("measure", never, ["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    for words in ("source=RUN", "steps=[0,64,512]", "request.KEY=VALUE", "name=NAME", "output=DIR", "confreg-report"):
        assert words in text
    assert "data:" not in text  # presets of the training are none of its business
    assert os.listdir() == []


def test_the_configuration_can_be_shown_with_the_request_of_the_source(run, capsys):
    assert run_command("measure", never, ["--cfg", "job", f"source={run}"]) == 0
    assert "null_dimensions: 7" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys):
    assert run_command("measure", never, ["--version"]) == 0
    assert capsys.readouterr().out.startswith("confreg 0.")
