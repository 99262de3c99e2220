"""The replacement of a request and its number: what goes together, and what it is called."""

from typing import Any

import pytest

from confreg.settings import MeasurementRequest, MeasureSettings, SettingError, check_ranges


@pytest.mark.parametrize(
    ("request_keys", "label"),
    [
        ({}, "mean_over_reference_tokens"),
        ({"replacement": "fixed_value", "replacement_value": 0}, "fixed_value(0.0)"),
        ({"replacement": "scaled_by_factor", "replacement_factor": 1e-7}, "scaled_by_factor(1e-07)"),
        ({"replacement": "resampled_from_reference_tokens"}, "resampled_from_reference_tokens(0)"),
        ({"replacement": "resampled_from_reference_tokens", "replacement_seed": 7}, "resampled_from_reference_tokens(7)"),
    ],
)
def test_a_request_names_its_replacement_with_the_number(request_keys: dict[str, Any], label: str) -> None:
    request = MeasurementRequest(**request_keys)
    check_ranges(request)
    assert request.replacement_label == label


@pytest.mark.parametrize(
    ("request_keys", "message"),
    [
        ({"replacement": "fixed_value"}, "replacement_value is null and replacement is 'fixed_value'; expected a number"),
        ({"replacement": "scaled_by_factor"}, "replacement_factor is null and replacement is 'scaled_by_factor'; expected a number"),
        ({"replacement_value": 0.0}, "replacement_value is 0.0 and replacement is 'mean_over_reference_tokens', which does not use it; "),
        ({"replacement": "zero", "replacement_seed": 1}, "expected replacement=resampled_from_reference_tokens, or no replacement_seed"),
        (
            {"replacement": "fixed_value", "replacement_value": 1.0, "replacement_factor": 2.0},
            "replacement_factor is 2.0 and replacement is 'fixed_value'",
        ),
        ({"replacement": "fixed_value", "replacement_value": float("inf")}, "replacement_value is inf; expected a finite number"),
    ],
)
def test_a_number_that_is_missing_or_of_another_replacement_is_refused_by_name(request_keys: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        check_ranges(MeasurementRequest(**request_keys))


def test_a_misspelt_replacement_is_the_only_complaint() -> None:
    with pytest.raises(SettingError) as caught:
        check_ranges(MeasurementRequest(replacement="fixd_value", replacement_value=1.0))
    assert str(caught.value).startswith("replacement is 'fixd_value'; expected one of mean_over_reference_tokens, ")
    assert len(str(caught.value).splitlines()) == 1


def test_every_clock_step_replaces_by_the_same_and_draws_from_the_same_seed() -> None:
    settings = MeasureSettings(request=MeasurementRequest(replacement="resampled_from_reference_tokens", replacement_seed=7))
    labels = {settings.request_at(step, last=8, seed=1).replacement_label for step in (0, 4, 8)}
    assert labels == {"resampled_from_reference_tokens(7)"}
