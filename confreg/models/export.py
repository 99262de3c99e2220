"""A saved step of a run as a folder that plain transformers opens: weights, configuration, tokenizer."""

from __future__ import annotations

import contextlib
import errno
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel

from confreg.models.runs import TOKENIZER_FOLDER, SavedRun, SavedStep
from confreg.models.swaps import swapped_parts
from confreg.records.durable import write_folder_durably


class ExportError(ValueError):
    """A model or a place that cannot be exported; the message names it and the next move."""


def save_pretrained(run: str | Path, step: int, folder: str | Path, complete: Callable[[Path, SavedStep], None] | None = None) -> Path:
    """Write the model of a saved step as transformers writes one, complete or not at all.

    ``AutoModelForCausalLM.from_pretrained(folder)`` gives the same logits to the bit, and ``AutoTokenizer.from_pretrained(folder)`` the
    run's tokenizer.

    Args:
        run: the run's folder.
        step: an optimizer step whose checkpoint was saved.
        folder: where to write; it must not exist, or be empty.
        complete: writes more into the folder that it is given, from the opened step, before anything can be seen in its place.

    Returns:
        The folder.

    Raises:
        ExportError: where the folder holds something, or the model has parts that plain transformers does not know.
        CheckpointError: where the step has no checkpoint, or it is damaged.
        RunFolderError: where the run's folder is no run. Whatever ``complete`` raises passes.
    """
    run, folder = Path(run), Path(folder)
    _refuse_place(folder)
    opened = SavedRun(run)
    saved = opened.at(step)
    if swapped := swapped_parts(saved.model, opened.settings.model):
        raise ExportError(
            f"{run} has parts that plain transformers' {type(saved.model).__name__} does not know ({'; '.join(swapped)}): it would open "
            f"with other predictions. Use confreg.open_run({str(run)!r}, {step}) instead, or "
            "train without model.norm and model.output_bias."
        )
    tokenizer = run / TOKENIZER_FOLDER

    def fill(target: Path) -> None:
        _save_weights(saved.model, target)
        if tokenizer.is_dir():
            shutil.copytree(tokenizer, target, dirs_exist_ok=True)
        if complete is not None:
            complete(target, saved)

    _write_with_parents(folder, fill)
    if not tokenizer.is_dir():
        warnings.warn(f"{run} keeps no tokenizer, so {folder} has none: give AutoTokenizer another folder.", stacklevel=2)
    return folder


def _save_weights(model: PreTrainedModel, target: Path) -> None:
    """A full disk is an error of the file system, here too."""
    try:
        model.save_pretrained(target)
    except SafetensorError as error:
        raise OSError(errno.EIO, f"the weights cannot be written ({error})", str(target)) from error


def _refuse_place(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} exists already; expected a new or an empty folder. Choose another one, or delete it first.")
    if folder.resolve() == Path.cwd():
        raise ExportError(f"{folder} is the working directory, which cannot be put in place as a whole; give a folder below it.")


def _write_with_parents(folder: Path, fill: Callable[[Path], None]) -> None:
    """As a folder is written durably; where that fails, the folders above it that were made for it go too."""
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        write_folder_durably(folder, fill)
    except BaseException:
        with contextlib.suppress(OSError):  # somebody else has put something there meanwhile
            for parent in made:
                parent.rmdir()
        raise
