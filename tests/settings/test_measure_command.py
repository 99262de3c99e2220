from dataclasses import replace

import pytest

from confreg.settings import MeasurementRequest, MeasureSettings, SelectionRules, SettingError, Settings, check_ranges
from confreg.settings.measure_command import MeasureCommandSettings, RepeatedRequest

OWN = MeasurementRequest(null_dimensions=7, memory_mib=64, rules=SelectionRules(n_stderr=3.0))
RUN = Settings(seed=5, measure=MeasureSettings(control_draws=2, control_draws_last=9, request=OWN))


@pytest.mark.parametrize("step", [0, 64, 100])
def test_a_runs_own_request_is_at_every_step_the_one_that_it_measured_itself_with(step):
    asked, own = RepeatedRequest.own_of(RUN).at(step, 100, RUN), RUN.measure.request_at(step, 100, RUN.seed)
    assert asked == own
    assert (asked.null_dimensions, asked.control_draws) == (7, 9 if step == 100 else 2)


def test_a_number_of_control_draws_that_is_given_holds_at_every_step_and_the_seed_still_follows_the_step():
    request = replace(RepeatedRequest.own_of(RUN), control_draws=4)
    at = [request.at(step, 100, RUN) for step in (0, 64, 100)]
    assert [each.control_draws for each in at] == [4, 4, 4]
    assert [each.control_seed for each in at] == [RUN.measure.request_at(step, 100, 5).control_seed for step in (0, 64, 100)]


def test_a_control_seed_of_zero_is_a_seed_that_is_given():
    request = replace(RepeatedRequest.own_of(RUN), control_seed=0, control_draws=0).at(64, 100, RUN)
    assert (request.control_seed, request.control_draws) == (0, 0)


@pytest.mark.parametrize("steps", ["all", "last", 0, 512, [0], [512, 0]])
def test_steps_may_be_a_word_a_number_or_a_list(steps):
    check_ranges(MeasureCommandSettings(source="runs/x", steps=steps))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": "first"}, "steps is 'first'; expected optimizer steps such as [0,64,512], last, or all."),
        ({"steps": []}, "steps is []"),
        ({"steps": [0, -1]}, "steps is [0, -1]"),
        ({"steps": [True]}, "steps is [True]"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"steps": None}, "steps is None"),
        ({"name": "a/b"}, "name is 'a/b'; expected the name of a folder below RUN/measured or measured/SOURCE"),
        ({"name": ".."}, "name is '..'"),
        ({"output": " "}, "output is empty"),
        ({"output": "a", "name": "b"}, "name is 'b' and output is 'a'; expected one of them"),
        ({"device": "tpu"}, "device is 'tpu'; expected one of auto, cpu, cuda."),
        ({"threads": 0}, "threads is 0"),
        ({"request": RepeatedRequest(control_draws=-1)}, "request.control_draws is -1; expected a value at least 0."),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(changes, message):
    with pytest.raises(SettingError) as caught:
        check_ranges(MeasureCommandSettings(source="runs/x", **changes))
    assert message in str(caught.value)
