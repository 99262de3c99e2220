"""What a run was made with: versions, git state and the conditions of reproducibility."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("confreg", "torch", "lightning", "transformers", "hydra-core", "wandb", "numpy", "datasets", "pyarrow")
GIT_PATIENCE = 10.0  # seconds; a repository on a slow network file system must not hold up a run


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that a number may depend on; None where one is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_state(folder: Path | None = None) -> dict[str, Any] | None:
    """Commit of a working directory and whether files differ from it; None where there is no repository or no git."""
    commit = _git(["rev-parse", "HEAD"], folder)
    if commit is None:
        return None
    changes = _git(["status", "--porcelain", "--untracked-files=no"], folder)
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(arguments: list[str], folder: Path | None) -> str | None:
    quiet = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=folder, env=quiet, capture_output=True, text=True, timeout=GIT_PATIENCE, check=True, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def reproducibility() -> dict[str, Any]:
    """Conditions under which the same configuration gives the same bits: platform, CPU threads, device.

    What only torch knows is null while torch is not imported: records need no torch.
    """
    torch = sys.modules.get("torch")
    has_cuda = torch is not None and torch.cuda.is_available()
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads() if torch is not None else None,
        "device": torch.cuda.get_device_name(0) if torch is not None and has_cuda else "cpu",
    }
