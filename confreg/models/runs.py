"""A run's own model, blocks and token counts again, exactly as they were measured."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Int
from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedModel

from confreg.languages.blocks import Blocks
from confreg.languages.sources import language_of
from confreg.models.build import build_model
from confreg.models.checkpoints import checkpoint_path
from confreg.records.durable import write_bytes_durably
from confreg.records.run_folder import load_settings
from confreg.settings import SyntheticSettings

BLOCKS_FILE = "blocks.safetensors"
PREFIX = "model."  # of the transformers model within the LightningModule


def save_blocks(run: Path, blocks: Blocks, token_counts: Int[Tensor, "vocab"]) -> None:
    """Keep what a run measures beside its records; the language's truth is computed again when it is asked for."""
    tensors = {
        "reference": blocks.reference,
        "measured": blocks.measured,
        "scored": blocks.scored_positions(),
        "documents": blocks.clusters() if blocks.documents is None else blocks.documents,
        "excluded_ids": torch.tensor(blocks.excluded_ids, dtype=torch.int64),
        "token_counts": token_counts,
    }
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    write_bytes_durably(run / BLOCKS_FILE, content)


def saved_token_counts(run: Path) -> Int[Tensor, "vocab"] | None:
    """The counts that an earlier process of the run kept, or None."""
    path = run / BLOCKS_FILE
    return load(path.read_bytes())["token_counts"] if path.exists() else None


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
    checkpoint = torch.load(checkpoint_path(run / "checkpoints", step), map_location="cpu", weights_only=True)
    tensors = load((run / BLOCKS_FILE).read_bytes())
    token_counts = tensors.pop("token_counts")
    model = build_model(settings.model, len(token_counts), settings.data.block_length, settings.seed)
    state = checkpoint["state_dict"]
    model.load_state_dict({name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)})
    excluded = tuple(tensors.pop("excluded_ids").tolist())
    truth = None
    if isinstance(settings.data, SyntheticSettings):
        truth = language_of(settings.data, settings.seed).bayes_log_probs(tensors["measured"])
    return model.eval(), Blocks(**tensors, excluded_ids=excluded, bayes_log_probs=truth), token_counts
