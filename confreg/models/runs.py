"""A run's own model, blocks and token counts again, exactly as they were measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedModel

from confreg.languages.blocks import Blocks
from confreg.languages.sources import language_of
from confreg.languages.token_counts import SeenTokenCounts
from confreg.models.build import build_model
from confreg.models.checkpoints import checkpoint_path
from confreg.records.durable import write_bytes_durably, write_folder_durably
from confreg.records.run_folder import load_settings
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
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    write_bytes_durably(run / BLOCKS_FILE, content)


def saved_token_counts(run: Path) -> Int[Tensor, "vocab"] | dict[int, Int[Tensor, "vocab"]] | None:
    """The counts that an earlier process of the run kept, those of each step where they depend on it, or None."""
    path = run / BLOCKS_FILE
    return _pop_counts(load(path.read_bytes())) if path.exists() else None


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
    settings = load_settings(run)
    checkpoint = torch.load(checkpoint_path(Path(run) / "checkpoints", step), map_location="cpu", weights_only=True)
    vocabulary_size = checkpoint["hyper_parameters"]["vocabulary_size"]
    model = build_model(settings.model, vocabulary_size, settings.data.block_length, settings.seed)
    state = checkpoint["state_dict"]
    model.load_state_dict({name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)})
    return model.eval()


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
    run = Path(run)
    settings = load_settings(run)
    model = open_model(run, step)
    tensors = load((run / BLOCKS_FILE).read_bytes())
    counts = _pop_counts(tensors)
    token_counts = _counts_at(step, settings, counts) if isinstance(counts, dict) else counts
    excluded = tuple(tensors.pop("excluded_ids").tolist())
    truth = None
    if is_all_synthetic(settings.data):
        truth = language_of(settings.data, settings.seed).bayes_log_probs(tensors["measured"])
    return model, Blocks(**tensors, excluded_ids=excluded, bayes_log_probs=truth), token_counts


def _counts_at(step: int, settings: Settings, counts: dict[int, Int[Tensor, "vocab"]]) -> Int[Tensor, "vocab"]:
    """The tokens seen before a step; one that was not foreseen (an early stop, say) is counted from the language itself."""
    if step in counts:
        return counts[step]
    return SeenTokenCounts.of(settings, language_of(settings.data, settings.seed), counts)(step)
