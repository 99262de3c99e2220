import math
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch

from confreg.figures.naming_thresholds import layer_thresholds, rule_numbers
from confreg.figures.run_records import read_run
from confreg.neurons.selection import Evidence, thresholds_of_layer
from confreg.settings import SelectionRules, Settings


def thresholds_of_the_rule(neurons: pd.DataFrame, entropy_nats: float, rules: SelectionRules):
    """What confreg.neurons.selection, which names the neurons, makes of the same layer."""
    columns = {name: torch.tensor(neurons[name].to_numpy()) for name in ("entropy_effect", "kl_from_frequency_effect", "null_space_share")}
    rest = dict.fromkeys(Evidence.__dataclass_fields__, columns["null_space_share"]) | columns
    return thresholds_of_layer(Evidence(**rest), entropy_nats, neurons["null_space_share_chance"].iloc[0], rules)


@pytest.mark.parametrize("entropy_share_floor", [0.0, 0.001, 0.1])
def test_the_drawn_thresholds_are_those_by_which_neurons_are_named(make_run, entropy_share_floor):
    records = read_run(make_run(steps=(0, 64, 1500), n_neurons=33, n_layers=2))
    config = asdict(Settings())
    config["measure"]["request"]["rules"]["entropy_share_floor"] = entropy_share_floor
    rules = SelectionRules(entropy_share_floor=entropy_share_floor)
    found = layer_thresholds(records.neurons, records.model, config)
    assert len(found) == 6
    for (step, layer), row in found.iterrows():
        neurons = records.neurons[(records.neurons["step"] == step) & (records.neurons["layer"] == layer)]
        entropy_nats = records.model.set_index("step").loc[step, "entropy_nats"]
        expected = thresholds_of_the_rule(neurons, entropy_nats, rules)
        assert row["entropy_effect_min"] == pytest.approx(expected.entropy_effect)
        assert row["kl_from_frequency_effect_min"] == pytest.approx(expected.kl_from_frequency_effect)
        assert row["null_space_share_chance"] == expected.null_space_share


def test_numbers_of_the_run_are_those_of_its_configuration():
    numbers = rule_numbers(asdict(Settings()))
    assert numbers == {name: getattr(SelectionRules(), name) for name in numbers}
    assert len(numbers) == 3


def test_without_a_configuration_or_an_entropy_no_effect_threshold_is_claimed(make_run):
    records = read_run(make_run(steps=(0, 64), n_neurons=16))
    assert set(rule_numbers({}).values()) == {None}
    assert (
        layer_thresholds(records.neurons, records.model, {})[["entropy_effect_min", "kl_from_frequency_effect_min"]].isna().all(axis=None)
    )
    lacking = layer_thresholds(records.neurons, records.model[records.model["step"] == 64], asdict(Settings()))
    assert np.isnan(lacking.loc[(0, 1), "entropy_effect_min"])
    assert math.isfinite(lacking.loc[(64, 1), "entropy_effect_min"])
