"""A saved step of a run as a folder that plain transformers opens: weights, configuration, tokenizer."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

from confreg.models.runs import TOKENIZER_FOLDER, open_model
from confreg.models.swaps import swapped_parts
from confreg.records.durable import write_folder_durably


class ExportError(ValueError):
    """A model or a place that cannot be exported; the message names it and the next move."""


def save_pretrained(run: str | Path, step: int, folder: str | Path) -> Path:
    """Write the model of a saved step as transformers writes one, complete or not at all.

    ``AutoModelForCausalLM.from_pretrained(folder)`` gives the same logits to the bit, and ``AutoTokenizer.from_pretrained(folder)`` the
    run's tokenizer.

    Args:
        run: the run's folder.
        step: an optimizer step whose checkpoint was saved.
        folder: where to write; it must not exist, or be empty.

    Returns:
        The folder.

    Raises:
        ExportError: where the folder holds something, or the model has parts that plain transformers does not know.
        CheckpointError: where the step has no checkpoint, or it is damaged.
        RunFolderError: where the run's folder is no run.
    """
    run, folder = Path(run), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} exists already; expected a new or an empty folder. Choose another one, or delete it first.")
    if folder.resolve() == Path.cwd():
        raise ExportError(f"{folder} is the working directory, which cannot be put in place as a whole; give a folder below it.")
    model = open_model(run, step)
    if swapped := swapped_parts(model):
        raise ExportError(
            f"{run} has parts that plain transformers' {type(model).__name__} does not know ({'; '.join(swapped)}): it would open with "
            f"other predictions. Use confreg.open_run({str(run)!r}, {step}) instead, or train without model.norm and model.output_bias."
        )
    tokenizer = run / TOKENIZER_FOLDER

    def fill(target: Path) -> None:
        model.save_pretrained(target)
        if tokenizer.is_dir():
            shutil.copytree(tokenizer, target, dirs_exist_ok=True)

    write_folder_durably(folder, fill)
    if not tokenizer.is_dir():
        warnings.warn(f"{run} keeps no tokenizer, so {folder} has none: give AutoTokenizer another folder.", stacklevel=2)
    return folder
