from dataclasses import replace

from confreg.records.run_identity import condition_of
from confreg.settings import Settings, settings_to_mapping


def mapping(**changes):
    return settings_to_mapping(replace(Settings(), **changes))


def test_runs_that_differ_in_the_seed_and_the_place_are_one_condition():
    elsewhere = replace(Settings().run, root="/elsewhere", name="mine/seed=7")
    assert condition_of(mapping(seed=7, run=elsewhere)) == condition_of(mapping())


def test_runs_that_differ_in_a_setting_are_two_conditions_and_the_key_is_told():
    one, other = condition_of(mapping()), condition_of(mapping(optimizer=replace(Settings().optimizer, weight_decay=0.25)))
    assert [key for key in one if one[key] != other[key]] == ["optimizer.weight_decay"]
    assert "seed" not in one


def test_a_run_of_an_older_version_has_the_default_where_it_knew_no_setting():
    older = mapping()
    del older["optimizer"]["warmup_steps"], older["measure"]
    assert condition_of(older) == condition_of(mapping())


def test_a_configuration_of_another_version_stays_as_it_was_written():
    strange = {"model": {"wheels": 4}, "seed": 1, "run": {"name": "x"}}
    assert condition_of(strange) == {"model.wheels": 4}
    assert condition_of({"model": 5}) == {"model": 5}


def test_no_configuration_says_nothing():
    assert condition_of({}) == {}
