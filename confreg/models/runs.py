"""A run's own model, blocks and token counts again, exactly as they were measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import PreTrainedModel

from confreg.languages.blocks import Blocks
from confreg.languages.sources import language_of, widened
from confreg.languages.token_counts import SeenTokenCounts
from confreg.models.adapters import without_adapters
from confreg.models.build import model_from
from confreg.models.checkpoints import CheckpointError, checkpoint_path, checkpoint_steps, tensors_sha256
from confreg.records.durable import write_bytes_durably, write_folder_durably
from confreg.records.run_folder import RunFolderError, load_settings
from confreg.settings import Settings, is_all_synthetic

BLOCKS_FILE = "blocks.safetensors"
TOKENIZER_FOLDER = "tokenizer"
PREFIX = "model."  # of the transformers model within the LightningModule


def save_blocks(run: Path, blocks: Blocks, token_counts: Int[Tensor, "vocab"] | SeenTokenCounts) -> None:
    """Keep what a run measures beside its records; the language's truth is computed again when it is asked for."""
    steps, counts = token_counts.table() if isinstance(token_counts, SeenTokenCounts) else (None, token_counts)
    tensors = {
        "reference": blocks.reference,
        "measured": blocks.measured,
        "scored": blocks.scored_positions(),
        "documents": blocks.clusters() if blocks.documents is None else blocks.documents,
        "excluded_ids": torch.tensor(blocks.excluded_ids, dtype=torch.int64),
        "token_counts": counts,  # one row for each of the steps, where they depend on it
    }
    if steps is not None:
        tensors["token_counts_steps"] = steps
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_bytes_durably(run / BLOCKS_FILE, save(tensors, metadata={"sha256": tensors_sha256(tensors.items())}))


def saved_token_counts(run: Path) -> Int[Tensor, "vocab"] | dict[int, Int[Tensor, "vocab"]] | None:
    """The counts that an earlier process of the run kept, those of each step where they depend on it, or None."""
    path = run / BLOCKS_FILE
    return _pop_counts(_read_tensors(path)) if path.exists() else None


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """What was written, or an error; a file of an earlier version has no hash to compare with."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors, told = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118  not a mapping
    except (SafetensorError, OSError) as error:
        raise RunFolderError(f"{path} is damaged ({error}). Restore it from a copy, or train anew under another run.name.") from error
    if told.get("sha256", "") not in ("", tensors_sha256(tensors.items())):
        raise RunFolderError(
            f"{path} is not what was written (its SHA-256 differs). Restore it from a copy, or train anew under another run.name."
        )
    return tensors


def _pop_counts(tensors: dict[str, Tensor]) -> Int[Tensor, "vocab"] | dict[int, Int[Tensor, "vocab"]]:
    counts, steps = tensors.pop("token_counts"), tensors.pop("token_counts_steps", None)
    return counts if steps is None else dict(zip(steps.tolist(), counts, strict=True))


def save_tokenizer(run: Path, tokenizer: Any) -> None:
    """Keep a language's tokenizer as transformers writes it, so that nobody needs the text to read ids; None keeps nothing."""
    target = run / TOKENIZER_FOLDER
    if tokenizer is not None and not target.exists():
        write_folder_durably(target, tokenizer.save_pretrained)


def open_model(run: str | Path, step: int) -> PreTrainedModel:
    """The model of a saved step: the plain causal language model (fp32, CPU, evaluation mode).

    Raises:
        CheckpointError: where the step has no checkpoint, or it is damaged.
        RunFolderError: where the folder is no run.
    """
    return SavedRun(run).at(step).model


def open_run(run: str | Path, step: int) -> tuple[PreTrainedModel, Blocks, Int[Tensor, "vocab"]]:
    """The model of a saved step with the blocks and token counts of the live measurement.

    Args:
        run: the run's folder.
        step: an optimizer step whose checkpoint was saved.

    Returns:
        The plain causal language model (fp32, CPU, evaluation mode), the blocks, and one count for each vocabulary id.

    Raises:
        CheckpointError: where the step has no checkpoint, or it is damaged.
        RunFolderError: where the folder is no run.
    """
    saved = SavedRun(run)
    opened = saved.at(step)
    return opened.model, saved.blocks, saved.token_counts(step)


@dataclass(frozen=True)
class SavedStep:
    """What a checkpoint gives: the model (fp32, CPU, evaluation mode), and the target tokens of its training where it tells them."""

    model: PreTrainedModel
    tokens_seen: int | None


class SavedRun:
    """A run that is opened at several of its steps: what they share is read once, each model when it is asked for.

    Args:
        folder: of the run.

    Raises:
        RunFolderError: where the folder is no run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.settings = Path(folder), load_settings(folder)

    @property
    def steps(self) -> list[int]:
        """Optimizer steps whose weights are saved, in order."""
        return checkpoint_steps(self.folder / "checkpoints")

    def at(self, step: int) -> SavedStep:
        """A saved step.

        Raises:
            CheckpointError: where the step has no checkpoint, or it is damaged.
        """
        if not isinstance(step, int):
            raise CheckpointError(f"step is {step!r}; expected a saved optimizer step of {self.folder}: {', '.join(map(str, self.steps))}.")
        checkpoint = torch.load(checkpoint_path(self.folder / "checkpoints", step), map_location="cpu", weights_only=True)
        made_with, state, settings = checkpoint["hyper_parameters"], checkpoint["state_dict"], self.settings
        sizes = made_with["vocabulary_size"], settings.data.block_length, settings.seed
        model = model_from(asdict(settings.model), *sizes, made_with.get("architecture"))
        model.load_state_dict({name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)})
        tokens_per_step = made_with.get("tokens_per_step")
        return SavedStep(without_adapters(model.eval()), None if tokens_per_step is None else step * tokens_per_step)

    @cached_property
    def blocks(self) -> Blocks:
        """Exactly what the run measured, with the truth where its language has one."""
        tensors = self._tensors()
        _pop_counts(tensors)
        excluded = tuple(tensors.pop("excluded_ids").tolist())
        truth = None
        if is_all_synthetic(self.settings.data):
            truth = language_of(self.settings.data_read, self.settings.seed).bayes_log_probs(tensors["measured"])
        return Blocks(**tensors, excluded_ids=excluded, bayes_log_probs=truth)

    def token_counts(self, step: int) -> Int[Tensor, "vocab"]:
        """One count for each vocabulary id, of the tokens that the run counted for this step."""
        counts = self._token_counts
        return _counts_at(step, self.settings, counts) if isinstance(counts, dict) else counts

    @cached_property
    def _token_counts(self) -> Int[Tensor, "vocab"] | dict[int, Int[Tensor, "vocab"]]:
        return _pop_counts(self._tensors())

    def _tensors(self) -> dict[str, Tensor]:
        path = self.folder / BLOCKS_FILE
        if not path.exists():
            raise RunFolderError(f"{path} does not exist: the run stopped before it began to train. Go on with it, or choose another one.")
        return _read_tensors(path)


def _counts_at(step: int, settings: Settings, counts: dict[int, Int[Tensor, "vocab"]]) -> Int[Tensor, "vocab"]:
    """The tokens seen before a step; one that was not foreseen (an early stop, say) is counted from the language itself."""
    if step in counts:
        return counts[step]
    language = widened(language_of(settings.data_read, settings.seed), len(next(iter(counts.values()))))
    return SeenTokenCounts.of(settings, language, counts)(step)
