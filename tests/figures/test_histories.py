import numpy as np
import pandas as pd
import pytest

from confreg.figures.histories import formed_neurons, named_at_last, naming_spells


def frame_of(named: dict[tuple[int, int], str], steps: tuple[int, ...]) -> pd.DataFrame:
    """A neurons table from one string for each neuron: "e" entropy, "f" token-frequency, "b" both, "." neither at that clock step."""
    rows = [
        {
            "step": step,
            "layer": layer,
            "neuron": neuron,
            "is_entropy_neuron": letter in "eb",
            "is_frequency_neuron": letter in "fb",
            "w_out_norm": 1.0 + neuron,
            "logit_var": 0.5,
            "entropy_effect": 0.1 * neuron,
        }
        for (layer, neuron), letters in named.items()
        for step, letter in zip(steps, letters, strict=True)
    ]
    return pd.DataFrame(rows)


def spells_by_walking(named: dict[tuple[int, int], str], steps: tuple[int, ...]) -> set[tuple]:
    spells = set()
    for (layer, neuron), letters in named.items():
        for kind, members in (("entropy", "eb"), ("token-frequency", "fb")):
            start = None
            for position, letter in enumerate([*letters, "."]):
                if letter in members and start is None:
                    start = position
                if letter not in members and start is not None:
                    spells.add((layer, neuron, kind, steps[start], steps[position - 1], position - start))
                    start = None
    return spells


def test_spells_equal_a_walk_along_each_neuron():
    generator = np.random.default_rng(0)
    steps = (0, 1, 2, 3, 4, 6, 8, 11)
    named = {(layer, neuron): "".join(generator.choice(list("..efb"), len(steps))) for layer in (0, 3) for neuron in range(12)}
    found = naming_spells(frame_of(named, steps))
    assert {tuple(row) for row in found.itertuples(index=False)} == spells_by_walking(named, steps)
    assert found["first_step"].is_monotonic_increasing


def test_three_consecutive_clock_steps_form_a_neuron_and_two_do_not():
    found = formed_neurons(frame_of({(1, 5): ".ee.", (1, 6): ".eee"}, (0, 1, 2, 4)))
    assert found[["layer", "neuron", "kind", "formed_step", "formed_since"]].values.tolist() == [[1, 6, "entropy", 1, 1]]


def test_a_neuron_that_was_lost_keeps_the_step_at_which_it_formed():
    found = formed_neurons(frame_of({(1, 5): "fff.f", (1, 6): "....."}, (0, 1, 2, 4, 8))).iloc[0]
    assert found["formed_step"] == 0
    assert pd.isna(found["formed_since"])


def test_a_neuron_that_forms_again_has_formed_since_the_second_time():
    found = formed_neurons(frame_of({(1, 5): "eee.eee"}, (0, 1, 2, 3, 4, 6, 8)))
    assert found[["formed_step", "formed_since"]].values.tolist() == [[0, 4]]


def test_a_neuron_of_both_kinds_has_a_history_in_each():
    found = formed_neurons(frame_of({(1, 5): "febbb"}, (0, 1, 2, 3, 4)))
    assert found[["kind", "formed_since"]].values.tolist() == [["entropy", 1], ["token-frequency", 2]]


def test_same_index_in_two_layers_is_two_neurons():
    found = naming_spells(frame_of({(0, 5): "ee.", (1, 5): "..e"}, (0, 1, 2)))
    assert len(found) == 2


def test_without_names_there_are_no_spells_and_nobody_formed():
    frame = frame_of({(1, 0): "..", (1, 1): ".."}, (0, 1))
    assert naming_spells(frame).empty
    assert formed_neurons(frame).empty
    assert named_at_last(frame).empty


def test_named_at_last_relates_each_neuron_to_its_own_layer():
    found = named_at_last(frame_of({(0, 0): "..e", (0, 1): "...", (0, 2): "...", (1, 9): "fff"}, (0, 1, 2)))
    by_kind = found.set_index("kind")
    assert by_kind.loc["entropy", "norm_relative"] == pytest.approx(1.0 / 2.0)
    assert by_kind.loc["token-frequency", "norm_relative"] == 1.0
    assert pd.isna(by_kind.loc["entropy", "formed_since"])
    assert by_kind.loc["token-frequency", "formed_since"] == 0
