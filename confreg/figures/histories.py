"""Since when each neuron has been named: spells of consecutive clock steps, and the neurons that formed."""

from __future__ import annotations

import pandas as pd

# Kind of neuron -> the column of the records that names it.
KINDS = {"entropy": "is_entropy_neuron", "token-frequency": "is_frequency_neuron"}
FORMED_AFTER = 3  # consecutive clock steps


def naming_spells(neurons: pd.DataFrame) -> pd.DataFrame:
    """Spells of consecutive clock steps at which a neuron was named.

    Args:
        neurons: rows of the ``neurons`` table; the clock is the set of steps that it holds.

    Returns:
        One row per spell: ``layer``, ``neuron``, ``kind``, ``first_step``, ``last_step`` (optimizer steps, both named) and
        ``n_clock_steps``; ordered by first step.
    """
    clock = {step: index for index, step in enumerate(sorted(neurons["step"].unique()))}
    spells = pd.concat([_spells_of_one_kind(neurons, kind, clock) for kind in KINDS], ignore_index=True)
    return spells.sort_values(["first_step", "kind", "layer", "neuron"], ignore_index=True)


def _spells_of_one_kind(neurons: pd.DataFrame, kind: str, clock: dict[int, int]) -> pd.DataFrame:
    named = neurons.loc[neurons[KINDS[kind]].astype(bool), ["layer", "neuron", "step"]].sort_values(["layer", "neuron", "step"])
    position = named["step"].map(clock)
    goes_on = (named[["layer", "neuron"]].diff().eq(0).all(axis=1)) & position.diff().eq(1)
    spells = named.assign(kind=kind, spell=(~goes_on).cumsum()).groupby("spell", as_index=False)
    table = spells.agg(
        layer=("layer", "first"),
        neuron=("neuron", "first"),
        kind=("kind", "first"),
        first_step=("step", "first"),
        last_step=("step", "last"),
        n_clock_steps=("step", "size"),
    )
    return table.drop(columns="spell").astype(dict.fromkeys(("layer", "neuron", "first_step", "last_step", "n_clock_steps"), "int64"))


def formed_neurons(neurons: pd.DataFrame) -> pd.DataFrame:
    """Neurons that were named at three or more consecutive clock steps.

    Returns:
        One row per neuron and kind: ``layer``, ``neuron``, ``kind``, ``formed_step`` (first step of its first such spell) and
        ``formed_since`` (first step of the such spell that reaches the last clock step; null for a neuron that was lost).
    """
    spells = naming_spells(neurons)
    long = spells[spells["n_clock_steps"] >= FORMED_AFTER]
    holds = long[long["last_step"] == neurons["step"].max()]
    keys = ["layer", "neuron", "kind"]
    first = long.groupby(keys, as_index=False).agg(formed_step=("first_step", "min"))
    since = holds[[*keys, "first_step"]].rename(columns={"first_step": "formed_since"})
    table = first.merge(since, on=keys, how="left").astype({"formed_since": "Int64"})
    return table.sort_values(["formed_step", *keys], ignore_index=True)


def named_at_last(neurons: pd.DataFrame) -> pd.DataFrame:
    """Neurons that are named at the last clock step, largest effect on entropy first.

    Returns:
        Their rows of ``neurons``, one per neuron and kind, with ``kind``, ``formed_since`` (optimizer steps, null before it formed),
        ``norm_relative`` and ``logit_var_relative`` (multiples of the layer's median at that step).
    """
    last = neurons[neurons["step"] == neurons["step"].max()]
    medians = last.groupby("layer")[["w_out_norm", "logit_var"]].transform("median")
    last = last.assign(
        norm_relative=last["w_out_norm"] / medians["w_out_norm"], logit_var_relative=last["logit_var"] / medians["logit_var"]
    )
    named = pd.concat([last[last[flag].astype(bool)].assign(kind=kind) for kind, flag in KINDS.items()], ignore_index=True)
    named = named.merge(formed_neurons(neurons).drop(columns="formed_step"), on=["layer", "neuron", "kind"], how="left")
    return named.sort_values(["kind", "entropy_effect"], ascending=[True, False], ignore_index=True)
