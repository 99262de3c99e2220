"""Whether W&B lets this machine in: asked before a run makes a folder, so that an online run does not fail in its middle."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import wandb

NEXT_MOVE = "Log in with `wandb login` (or set WANDB_API_KEY), or use logger=offline: `wandb sync` sends the run later."


class WandbError(ValueError):
    """W&B refuses, or does not answer; the message says what W&B said and the next move."""

    def __init__(self, reason: object) -> None:
        said = str(reason).strip().partition("\n")[0]
        super().__init__(f"logger.wandb.mode is 'online', but W&B cannot be used: {said}\n{NEXT_MOVE}")


@cache
def check_account() -> None:
    """Log in with the credentials that this machine has, once, and let W&B's server confirm them; takes at most about 10 seconds.

    Raises:
        WandbError: no credentials, refused ones, or no answer. Nothing is asked for, and nothing is left behind.
    """
    with tempfile.TemporaryDirectory() as folder, cache_in(Path(folder)):
        try:
            has_account = wandb.login(prompt=False, verify=True)
        except wandb.Error as error:
            raise WandbError(error) from error
        finally:
            wandb.teardown()  # its service would go on writing its logs into this folder
    if not has_account:
        raise WandbError("this machine has no login of W&B, or WANDB_MODE turns it off.")


@contextlib.contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """W&B's service reads where its own logs go when it starts; a choice of the user's stays."""
    chosen = "WANDB_CACHE_DIR" in os.environ
    os.environ.setdefault("WANDB_CACHE_DIR", str(folder))
    try:
        yield
    finally:
        if not chosen:
            del os.environ["WANDB_CACHE_DIR"]
