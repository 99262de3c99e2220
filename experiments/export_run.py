"""A saved step of a run as a folder for plain transformers, with a model card."""

from __future__ import annotations

import warnings
from pathlib import Path

from confreg.experiments.measure_choices import OWN
from confreg.experiments.reproducing import command_of
from confreg.figures.model_card.card import write_model_card
from confreg.figures.model_card.subject import CardSubject, records_until
from confreg.figures.run_records import RunRecords
from confreg.models.checkpoints import CheckpointError, weights_sha256
from confreg.models.export import save_pretrained
from confreg.models.runs import SavedRun, SavedStep
from confreg.records.run_folder import read_facts
from confreg.settings import settings_to_mapping

EXPORTED = "exported"  # folder of a run


def export_run(run: Path, step: int | None = None, folder: Path | None = None) -> Path:
    """Write weights, configuration, tokenizer, ``README.md`` and figures, all or nothing.

    Args:
        run: the run's folder.
        step: a saved optimizer step; None: the last.
        folder: new or empty; None: ``RUN/exported/step=00000512``.

    Returns:
        The folder.

    Raises:
        CheckpointError: where the step is not saved, or its checkpoint is damaged.
        ExportError: where the folder holds something, or plain transformers does not know the model.
        ReportError: for records that cannot be read, or are about other weights.
        RunFolderError: where the folder is no run.
    """
    saved = SavedRun(run)
    if not saved.steps:
        raise CheckpointError(f"{run} has no checkpoints; expected at least one. A run saves them unless callbacks.save=false.")
    chosen = saved.steps[-1] if step is None else step
    target = run / EXPORTED / f"step={chosen:08d}" if folder is None else folder
    return save_pretrained(run, chosen, target, lambda place, opened: write_model_card(_subject(saved, chosen, opened, place), place))


def _subject(run: SavedRun, step: int, opened: SavedStep, place: Path) -> CardSubject:
    model, weights = opened.model, weights_sha256(opened.model)
    records, facts = _records(run.folder, step, weights), read_facts(run.folder)
    if records is None:
        measure = f"confreg-measure source={run.folder} steps=[{step}]"
        warnings.warn(f"step {step} was not measured, so the card has no numbers: {measure}, then export again.", stacklevel=2)
    return CardSubject(
        name=run.settings.run.name or run.folder.resolve().name,
        config=settings_to_mapping(run.settings),
        facts=facts,
        step=step,
        tokens_seen=opened.tokens_seen,
        weights_sha256=weights,
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        vocabulary_size=model.config.vocab_size,
        has_tokenizer=(place / "tokenizer_config.json").exists(),
        command=command_of(run.settings, facts),
        records=records,
    )


def _records(run: Path, step: int, weights: str) -> RunRecords | None:
    """Of the run itself, else of a later measurement by its own request, which gives the same rows."""
    places = (run, run / "measured" / OWN)
    return next((found for place in places if (found := records_until(place, step, weights)) is not None), None)
