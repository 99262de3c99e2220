import pytest

from confreg.settings import (
    CallbackSettings,
    RunSettings,
    SettingError,
    Settings,
    SyntheticSettings,
    TextSettings,
    digest,
    identity,
    setting_types,
    settings_from_mapping,
    settings_to_mapping,
)


@pytest.mark.parametrize("data", [SyntheticSettings(rank=3), TextSettings(source="a.txt")])
def test_settings_survive_the_way_to_a_mapping_and_back(data):
    extra = {"stop": {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/loss"}}
    settings = Settings(data=data, callbacks=CallbackSettings(extra=extra), seed=3)
    assert settings_from_mapping(settings_to_mapping(settings)) == settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "x"}, "seed: Value 'x'"),
        ({"sed": 1}, "sed"),
        ({"seed": -1}, "seed is -1"),
        ({"data": {"source": "a", "rank": 3}}, "data"),
        ({"model": {"n_layr": 1}}, "model.n_layr"),
    ],
)
def test_a_mapping_that_is_not_a_configuration_is_refused_by_key(change, message):
    with pytest.raises(SettingError, match=message):
        settings_from_mapping(settings_to_mapping(Settings()) | change)


def test_where_a_run_lives_and_what_only_looks_on_is_not_its_identity():
    one, other = Settings(), Settings(run=RunSettings(root="elsewhere", name="x"), resume="y")
    other.logger.wandb.mode, other.trainer.progress_bar = "disabled", False
    assert identity(settings_to_mapping(one)) == identity(settings_to_mapping(other))
    assert digest(settings_to_mapping(one)) == digest(settings_to_mapping(other))


def test_a_change_of_any_other_value_changes_the_digest():
    digests = {digest(settings_to_mapping(each)) for each in (Settings(), Settings(seed=1), Settings(data=SyntheticSettings(rank=3)))}
    assert len(digests) == 3
    assert all(len(each) == 8 and int(each, 16) >= 0 for each in digests)


def test_the_keys_are_those_of_the_dataclasses_with_both_kinds_of_data():
    types = setting_types()
    assert types["model.n_layer"] is int
    assert types["measure.request.rules.clusters_min"] is int
    assert {"data.rank", "data.source", "model", "seed"} <= set(types)
