"""What a model card is about: one saved step of a run, with what was measured up to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from confreg.figures.run_records import ReportError, RunRecords, read_run, setting_of
from confreg.records.store import RecordStore

# Of the exported step alone; the page draws shares without their bounds.
KEYS = ("step", "layer", "neuron")
BOUNDS = ("entropy_norm_mediated_share_low", "frequency_mediated_share_low")


@dataclass(frozen=True)
class CardSubject:
    """One exported step.

    Attributes:
        name: of the run, as its owner chose it.
        config: ``config.yaml`` as a plain mapping.
        facts: ``run.json``.
        step: optimizer steps done.
        tokens_seen: target tokens of the training, None where unknown.
        weights_sha256: as in the tables.
        n_parameters: tied ones once.
        vocabulary_size: token ids.
        has_tokenizer: whether one lies beside the weights.
        command: trains the run again; None where no command line says all of it.
        records: what was measured up to and with the step; None where the step was not measured.
    """

    name: str
    config: dict[str, Any]
    facts: dict[str, Any]
    step: int
    tokens_seen: int | None
    weights_sha256: str
    n_parameters: int
    vocabulary_size: int
    has_tokenizer: bool
    command: str | None = None
    records: RunRecords | None = None


def records_until(folder: Path, step: int, weights_sha256: str) -> RunRecords | None:
    """Records up to and with a step, as if the run had ended there.

    Args:
        folder: of a run, or of a measurement of its saved steps.
        step: the last step that counts.
        weights_sha256: of the weights that the records of this step must be about.

    Returns:
        The records, in ``neurons`` the lower bounds of shares at that step too; None where the step was not measured there.

    Raises:
        ReportError: for records that cannot be read, or are about other weights.
    """
    store = RecordStore(folder / "records")
    if not (store.has("neurons", step) and store.has("model", step)):
        return None
    measured = store.read("model", step)["weights_sha256"][0].as_py()
    if measured != weights_sha256:
        raise ReportError(
            f"{folder / 'records'} has step {step} of other weights ({str(measured)[:12]}…) than the checkpoint ({weights_sha256[:12]}…); "
            "expected the same. Put back what belongs together, or train anew."
        )
    records = read_run(folder)
    neurons, model, spectrum = (table[table["step"] <= step] for table in (records.neurons, records.model, records.spectrum))
    neurons = neurons.merge(_bounds(store, step), on=[*KEYS], how="left")
    config, facts = _without_the_end(records.config), _of_the_weights(records.facts)
    return replace(records, neurons=neurons, model=model, spectrum=spectrum, config=config, facts=facts)


def _bounds(store: RecordStore, step: int) -> pd.DataFrame:
    """A bound that an older table lacks is null."""
    rows = store.read("neurons", step)
    return rows.select([name for name in (*KEYS, *BOUNDS) if name in rows.column_names]).to_pandas().reindex(columns=[*KEYS, *BOUNDS])


def _without_the_end(config: dict[str, Any]) -> dict[str, Any]:
    """The rules stay; that the training went on, or was to, says nothing about a step on its way."""
    return {key: value for key, value in config.items() if key != "trainer"}


def _of_the_weights(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: facts[key] for key in ("measured_weights",) if key in facts}


def is_of_numbers(facts: dict[str, Any]) -> bool:
    """Whether the tokens of the run's language are numbers, which only synthetic languages have."""
    parts = setting_of(facts, "language.parts", {})
    kinds = {setting_of(facts, "language.kind"), *(setting_of(part, "kind") for part in parts.values() if isinstance(part, dict))}
    return kinds - {"mixture"} == {"synthetic"}
