import math
from dataclasses import replace

import pytest

from confreg.settings import (
    CallbackSettings,
    MeasurementRequest,
    ModelSettings,
    OptimizerSettings,
    RunSettings,
    SettingError,
    Settings,
    SyntheticSettings,
    TextSettings,
    check_ranges,
)
from confreg.settings.run import is_safe_name


def test_the_defaults_are_within_their_ranges():
    check_ranges(Settings())
    check_ranges(Settings(data=TextSettings()))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (Settings(seed=-1), "seed is -1; expected a value at least 0."),
        (Settings(model=ModelSettings(dropout=1.0)), "model.dropout is 1.0; expected a value below 1.0."),
        (Settings(optimizer=OptimizerSettings(learning_rate=0.0)), "optimizer.learning_rate is 0.0; expected a value above 0.0."),
        (Settings(optimizer=OptimizerSettings(learning_rate=math.nan)), "optimizer.learning_rate is nan; expected a finite number."),
        (Settings(data=SyntheticSettings(redraw_probability=1.5)), "data.redraw_probability is 1.5; expected a value at most 1.0."),
        (Settings(model=ModelSettings(n_head=3)), "model.d_model is 64 and n_head is 3; expected a multiple of n_head."),
    ],
)
def test_a_value_out_of_range_is_named_with_its_key_and_what_was_expected(settings, line):
    with pytest.raises(SettingError) as caught:
        check_ranges(settings)
    assert str(caught.value) == line


def test_a_choice_that_does_not_exist_is_answered_with_the_choices():
    settings = Settings()
    settings.trainer = replace(settings.trainer, precision="8-bit")
    with pytest.raises(SettingError, match=r"trainer\.precision is '8-bit'; expected one of 32-true, 16-mixed"):
        check_ranges(settings)


def test_every_complaint_is_told_at_once():
    with pytest.raises(SettingError) as caught:
        check_ranges(Settings(seed=-1, model=ModelSettings(n_layer=0, d_mlp=0)))
    assert [line.split()[0] for line in str(caught.value).splitlines()] == ["model.n_layer", "model.d_mlp", "seed"]


@pytest.mark.parametrize("name", ["default/seed=0", "first", "a b/c.d", "überlauf"])
def test_a_plain_run_name_is_safe(name):
    assert is_safe_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../x",
        "a/../b",
        "/etc/x",
        "a//b",
        "a/",
        ".hidden",
        "a/.git",
        "~/x",
        "a\nb",
        "a\x00b",
        "..\\x",
        "C:\\x",
        " ",
        "a/ b",
        "x" * 201,
    ],
)
def test_a_run_name_that_climbs_hides_or_is_empty_is_refused(name):
    assert not is_safe_name(name)
    with pytest.raises(SettingError, match=r"run\.name is"):
        check_ranges(Settings(run=RunSettings(name=name)))


def test_an_extra_callback_needs_a_target_from_the_allow_list():
    check_ranges(
        Settings(callbacks=CallbackSettings(extra={"stop": {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "patience": 3}}))
    )
    with pytest.raises(SettingError, match=r"callbacks\.extra\.stop is 3; expected a mapping with _target_"):
        check_ranges(Settings(callbacks=CallbackSettings(extra={"stop": 3})))


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"control_draws": 2.5}, "control_draws is 2.5; expected a whole number."),
        ({"memory_mib": "64"}, "memory_mib is '64'; expected a whole number."),
        ({"memory_mib": None}, "memory_mib is None; expected a whole number."),
        ({"replacement": "scaled_by_factor", "replacement_factor": True}, "replacement_factor is True; expected a number."),
        ({"attributions": 1}, "attributions is 1; expected True or False."),
        ({"universal": 1}, "universal is 1; expected True or False."),
        ({"groups": [[0, 1]]}, "groups is [[0, 1]]; expected names, each with its neurons, such as {'pair': [3, 17]}."),
    ],
    ids=str,
)
def test_a_value_of_another_kind_is_named_with_its_key(wrong, line):
    with pytest.raises(SettingError) as caught:
        check_ranges(MeasurementRequest(**wrong))
    assert str(caught.value) == line


def test_what_are_no_settings_is_refused():
    with pytest.raises(SettingError, match=r"settings is a dict; expected settings such as MeasurementRequest\(control_draws=3\)"):
        check_ranges({"control_draws": 3})
