"""How the processes of a distributed run were started, and how those that are not the first find the run's folder."""

from __future__ import annotations

import os
import time
from pathlib import Path

from confreg.records.run_lock import RunFolderError
from confreg.records.run_place import CONFIG, FACTS

RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")  # set by Lightning, torchrun and Slurm
SIZES = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")  # of what torchrun, or srun, started
HANDED_ON = "CONFREG_RUN_FOLDER"  # tells the processes that Lightning starts where the first one works
PATIENCE_S = 300.0
PAUSE_S = 0.1


def is_first_process() -> bool:
    """Whether this is the process that writes."""
    return all(os.environ.get(rank, "0") in ("", "0") for rank in RANKS)


def is_started_from_outside() -> bool:
    """Whether something else than Lightning started several processes."""
    return HANDED_ON not in os.environ and any(int(os.environ.get(size) or 1) > 1 for size in SIZES)


def wait_for_the_first(target: Path) -> None:
    """Until the first process, which nobody keeps from being the last to start, has made the folder.

    Raises:
        RunFolderError: where it takes too long.
    """
    start = time.monotonic()
    while not ((target / CONFIG).exists() and (target / FACTS).exists()):
        if time.monotonic() - start > PATIENCE_S:
            raise RunFolderError(
                f"{target} was not made by the first process within {PATIENCE_S:g} s; its own message says why. "
                "Do all processes see the same disk?"
            )
        time.sleep(PAUSE_S)
