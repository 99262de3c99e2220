"""Groups of neurons: their names, their members, the layer they are in, and what they make of a run's identity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from confreg.settings import (
    MeasurementRequest,
    MeasureSettings,
    ModelSettings,
    SettingError,
    Settings,
    check_ranges,
    digest,
    setting_types,
    settings_from_mapping,
    settings_to_mapping,
)
from confreg.settings.groups import complaints_about_groups, complaints_about_neurons


def run_with(groups: Any, d_mlp: int = 64) -> Settings:
    return Settings(model=ModelSettings(d_mlp=d_mlp), measure=MeasureSettings(request=MeasurementRequest(groups=groups)))


@pytest.mark.parametrize("neurons", [[0], [3, 17], (17, 3), np.array([5, 2]), [np.int64(4)], range(64)])
def test_a_group_is_any_list_of_different_neurons(neurons: Any) -> None:
    assert [*complaints_about_groups({"a-b_2": neurons}), *complaints_about_neurons({"a-b_2": neurons}, 64)] == []
    assert MeasurementRequest(groups={"a": neurons}).groups_within(64) == {"a": sorted(map(int, neurons))}


@pytest.mark.parametrize("neurons", [[], 3, "3", ["3"], [3.0], [True], [-1], None, {}])
def test_what_is_no_list_of_neurons_is_refused_with_what_was_expected(neurons: Any) -> None:
    (text,) = complaints_about_groups({"pair": neurons})
    assert text == f"groups.pair is {neurons}; expected one neuron at least, as a list of whole numbers from 0, such as [3, 17]."


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "a b", "2", "-a", 3, None])
def test_a_name_that_could_not_stand_in_a_key_is_refused(name: Any) -> None:
    (text,) = complaints_about_groups({name: [3]})
    assert text == f"groups has one named {name!r}; expected a letter, then letters, digits, _ or -."


def test_a_run_refuses_every_bad_group_by_its_dotted_key_before_anything_is_made() -> None:
    check_ranges(run_with({"last": [63]}))
    with pytest.raises(SettingError) as caught:
        check_ranges(run_with({"empty": [], "twice": [1, 5, 1], "beyond": [3, 64, 70], "good": [0]}))
    assert str(caught.value).splitlines() == [
        "measure.request.groups.empty is []; expected one neuron at least, as a list of whole numbers from 0, such as [3, 17].",
        "measure.request.groups.twice has 1 more than once; expected each neuron once.",
        "measure.request.groups.beyond has 64, 70; expected neurons of the last MLP, which are 0 to 63.",
    ]
    with pytest.raises(SettingError, match=r"groups\.last has 63; expected neurons of the last MLP, which are 0 to 7\."):
        check_ranges(run_with({"last": [63]}, d_mlp=8))


def test_the_order_of_groups_and_of_their_neurons_plays_no_part() -> None:
    one, other = (MeasurementRequest(groups=each).groups_within(9) for each in ({"b": [2, 1], "a": [8]}, {"a": [8], "b": [1, 2]}))
    assert list(one.items()) == list(other.items()) == [("a", [8]), ("b", [1, 2])]


def test_groups_are_part_of_what_a_run_is_and_survive_the_way_to_a_mapping_and_back() -> None:
    settings = run_with({"pair": [3, 17], "one": [5]})
    assert settings_from_mapping(settings_to_mapping(settings)) == settings
    digests = {digest(settings_to_mapping(run_with(each))) for each in ({}, {"pair": [3, 17]}, {"pair": [3, 16]}, {"two": [3, 17]})}
    assert len(digests) == 4


def test_the_key_of_a_group_is_listed_once_for_all_names() -> None:
    assert [key for key in setting_types() if ".groups" in key] == ["measure.request.groups", "measure.request.groups.NAME"]
    assert setting_types()["measure.request.groups.NAME"] == list[int]
