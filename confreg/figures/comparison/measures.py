"""One row per clock step of a run: what several runs are compared by."""

from __future__ import annotations

import numpy as np
import pandas as pd

from confreg.figures.histories import FORMED_AFTER, KINDS, naming_spells
from confreg.figures.page_data import EXACT_NULL
from confreg.figures.run_records import RunRecords

MODEL_MEASURES = (
    "n_entropy_neurons",
    "n_entropy_neurons_control",
    "n_frequency_neurons",
    "n_frequency_neurons_control",
    "loss_nats",
    "bayes_loss_nats",
    "excess_loss_nats",
    "excess_entropy_nats",
    "entropy_nats",
    "calibration_error",
)
FORMED = {"entropy": "n_formed_entropy_neurons", "token-frequency": "n_formed_frequency_neurons"}
LARGEST = {
    "largest_entropy_effect": "entropy_effect",
    "largest_null_space_share": "null_space_share",
    "null_space_share_chance": "null_space_share_chance",
}
SPECTRUM_TAIL = "spectrum_tail"
MEASURES = (*MODEL_MEASURES, *FORMED.values(), *LARGEST, SPECTRUM_TAIL)


def measures_over_steps(records: RunRecords) -> pd.DataFrame:
    """Everything that is compared, over the clock steps of one run.

    Returns:
        Float columns ``MEASURES``, indexed by ``step`` (optimizer steps, sorted); null where a table lacks the step or the value.
    """
    model = records.model.drop_duplicates("step", keep="last").set_index("step").reindex(columns=list(MODEL_MEASURES))
    neurons = records.neurons.groupby("step")[list(LARGEST.values())].max()
    largest = neurons.set_axis(list(LARGEST), axis="columns")
    table = pd.concat([model, formed_over_steps(records.neurons), largest, spectrum_tail(records.spectrum)], axis="columns")
    return table.sort_index().rename_axis("step").astype("float64")[list(MEASURES)]


def formed_over_steps(neurons: pd.DataFrame) -> pd.DataFrame:
    """How many neurons are in a spell of namings that is long enough to count as formed, from the first step of the spell on.

    Returns:
        One column for each kind, indexed by the measured steps.
    """
    spells, steps = naming_spells(neurons), np.sort(neurons["step"].unique())
    long = spells[spells["n_clock_steps"] >= FORMED_AFTER]
    counts = {FORMED[kind]: _n_covering(long[long["kind"] == kind], steps) for kind in KINDS}
    return pd.DataFrame(counts, index=steps)


def _n_covering(spells: pd.DataFrame, steps: np.ndarray) -> np.ndarray:
    """How many spells each step lies in."""
    first, last = spells["first_step"].to_numpy()[:, None], spells["last_step"].to_numpy()[:, None]
    return ((first <= steps) & (steps <= last)).sum(axis=0)


def spectrum_tail(spectrum: pd.DataFrame) -> pd.Series:
    """The smallest singular value over the median at each step; what is zero by construction is left out of both.

    Small values mean an effective null space: directions that the unembedding can hardly see.
    """
    values = spectrum["singular_value"].astype("float64")
    seen = spectrum.assign(value=values)[values > EXACT_NULL * values.groupby(spectrum["step"]).transform("max")]
    by_step = seen.groupby("step")["value"]
    return (by_step.min() / by_step.median()).rename(SPECTRUM_TAIL)
