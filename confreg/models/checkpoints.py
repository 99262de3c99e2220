"""Checkpoints: their names, their hashes, which is the newest whole one, and which weights a number describes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from operator import itemgetter
from pathlib import Path

import torch
from torch import Tensor, nn

from confreg.records.durable import sha256_of

CHECKPOINT = re.compile(r"step=(\d{8,})\.ckpt")


class CheckpointError(ValueError):
    """A checkpoint that is missing or damaged; the message names it and the next move."""


def checkpoint_name(step: int) -> str:
    """File name of the checkpoint of an optimizer step."""
    return f"step={step:08d}.ckpt"


def read_manifest(folder: Path) -> dict[str, str]:
    """SHA-256 of every checkpoint below the folder, by its relative path; empty where there is none yet."""
    try:
        return dict(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise CheckpointError(f"{folder / 'manifest.json'} is damaged ({error}). Delete the checkpoints folder and train anew.") from error


def checkpoint_steps(folder: Path) -> list[int]:
    """Optimizer steps whose weights are saved in the folder, in order."""
    matches = (CHECKPOINT.fullmatch(name) for name in read_manifest(folder))
    return sorted(int(match[1]) for match in matches if match)


def checkpoint_path(folder: Path, step: int) -> Path:
    """The checkpoint of a step, after its hash was compared with the manifest.

    Raises:
        CheckpointError: where it is missing or is not what was written.
    """
    path = folder / checkpoint_name(step)
    if not path.exists():
        raise CheckpointError(f"{folder} has no checkpoint of step {step}; it has the steps {checkpoint_steps(folder)}.")
    if not _is_whole(folder, path):
        raise CheckpointError(
            f"{path} is not what was written (its SHA-256 differs from the manifest). Choose another step, or train anew."
        )
    return path


def newest_resumable(folder: Path) -> Path | None:
    """The newest full state that is whole, walking back over damaged ones; None where there is none."""
    states = sorted((folder / "resume").glob("step=*.ckpt"), reverse=True)
    return next((path for path in states if _is_whole(folder, path)), None)


def damaged_states(folder: Path, newest: Path | None) -> list[Path]:
    """Full states after the newest whole one that the manifest tells of: not what was written. Any other was never complete."""
    listed = [folder / name for name in read_manifest(folder) if name.startswith("resume/")]
    return sorted(path for path in listed if path.exists() and (newest is None or path.name > newest.name))


def step_of(path: Path) -> int:
    """Optimizer step in a checkpoint's name."""
    match = CHECKPOINT.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path} is not named like a checkpoint; expected step=00000512.ckpt.")
    return int(match[1])


def _is_whole(folder: Path, path: Path) -> bool:
    return read_manifest(folder).get(path.relative_to(folder).as_posix()) == sha256_of(path)


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over the sorted names, dtypes, shapes and bytes of all parameters; tied ones count once, under their first name.

    What a checkpoint keeps beside them (the constant of a frozen norm) counts too: predictions depend on it.
    """
    kept = model.state_dict().keys()
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in kept]
    return tensors_sha256([*model.named_parameters(), *buffers])


def tensors_sha256(named: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over the sorted names, with dtype, shape and bytes of each tensor."""
    digest = hashlib.sha256()
    for name, tensor in sorted(named, key=itemgetter(0)):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
