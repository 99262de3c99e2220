from importlib import resources
from pathlib import Path

import pytest
import yaml

from confreg.experiments.composition import compose_settings
from confreg.settings import Settings, SyntheticSettings, TextSettings
from confreg.settings.targets import ALLOWED_PREFIXES, LOGGER_PREFIXES, is_allowed

CONF = Path(str(resources.files("confreg.conf")))
GROUPS = ("data", "model", "optimizer", "clock", "measure", "callbacks", "logger", "trainer", "experiment", "debug")
PRESETS = [(path.parent.name, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
FILES = sorted(CONF.rglob("*.yaml"))
NEEDED = {("model", name): ["model.source=somebody/something", "data=text"] for name in ("pretrained", "lora")}
ABSENT = "(absent)"  # from the default: entries of extra, settings of another kind of data


def test_the_composed_default_is_the_dataclasses_default():
    assert compose_settings([]) == Settings()


def test_every_group_has_a_preset():
    assert {group for group, _ in PRESETS} == set(GROUPS)


@pytest.mark.parametrize(("group", "name"), PRESETS, ids=[f"{group}={name}" for group, name in PRESETS])
def test_every_preset_composes(group, name):
    assert isinstance(compose_settings([f"{group}={name}", *NEEDED.get((group, name), [])]), Settings)


def test_text_and_speeches_are_text_and_the_default_is_synthetic():
    assert isinstance(compose_settings(["data=text", "data.source=a.txt"]).data, TextSettings)
    assert isinstance(compose_settings(["experiment=sotu"]).data, TextSettings)
    assert isinstance(compose_settings([]).data, SyntheticSettings)


def test_debugging_takes_20_steps_and_two_points_of_the_clock():
    settings = compose_settings(["debug=limit"])
    assert (settings.trainer.max_steps, settings.clock.max_points) == (20, 2)


def test_overfitting_repeats_one_batch():
    assert compose_settings(["debug=overfit"]).trainer.overfit_batches == 1


def test_two_processes_on_the_cpu():
    trainer = compose_settings(["debug=cpu_ddp"]).trainer
    assert (trainer.accelerator, trainer.strategy, trainer.devices) == ("cpu", "ddp", 2)


def test_an_experiment_and_a_debug_preset_go_together():
    settings = compose_settings(["experiment=sotu", "debug=limit"])
    assert isinstance(settings.data, TextSettings)
    assert settings.trainer.max_steps == 20


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_a_file_is_short_names_only_allowed_code_and_says_what_each_key_means(path):
    lines = path.read_text().splitlines()
    content = yaml.safe_load(path.read_text()) or {}
    assert len(lines) <= 30
    assert lines[0].startswith("#")
    prefixes = {"callbacks": ALLOWED_PREFIXES, "logger": LOGGER_PREFIXES}.get(path.parent.name, ())
    assert all(is_allowed(value, prefixes) for key, value in leaves_of(content) if key.rpartition(".")[2] == "_target_")
    if path.parent.name in GROUPS:
        leaves = [line for line in lines if ":" in line and not line.lstrip().startswith(("#", "-")) and not line.rstrip().endswith(":")]
        assert [line for line in leaves if "#" not in line] == []


@pytest.mark.parametrize(("group", "name"), PRESETS, ids=[f"{group}={name}" for group, name in PRESETS])
def test_a_preset_holds_only_what_differs_from_the_defaults(group, name):
    content = yaml.safe_load((CONF / group / f"{name}.yaml").read_text()) or {}
    content.pop("defaults", None)
    default = Settings()
    here = default if group in ("experiment", "debug") else getattr(default, group)
    if name == "sotu" and group == "data":  # names its source although it is the default, because that is what it is for
        content.pop("source")
    if group in ("experiment", "debug"):
        content.pop("data", None)
    assert [key for key, value in leaves_of(content) if value_at(here, key) == value] == []


def leaves_of(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves_of(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def value_at(settings, key):
    for part in key.split("."):
        settings = settings.get(part, ABSENT) if isinstance(settings, dict) else getattr(settings, part, ABSENT)
    return settings
