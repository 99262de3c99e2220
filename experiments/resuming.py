"""What a run that goes on must find: the text that it began with, and a full state that is whole."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from confreg.experiments.sweeps import as_override
from confreg.models.checkpoints import CheckpointError, damaged_states, newest_resumable, step_of
from confreg.records.run_folder import RunFolder, RunFolderError

FINGERPRINTS = ("text_sha256", "fingerprint")  # of the documents, and of the blocks that a tokenizer makes of them
PLAIN = re.compile(r"[\w./=-]+", re.ASCII)  # neither a shell nor Hydra reads anything into it


def refuse_other_text(folder: RunFolder, language: Mapping[str, Any]) -> None:
    """Raise where the language is not the one that ``run.json`` tells of: a run would count, train and measure two texts.

    Raises:
        RunFolderError: naming what differs.
    """
    kept = dict(_fingerprints(folder.read_run_json().get("language") or {}))
    found = dict(_fingerprints(json.loads(json.dumps(language))))
    differing = sorted(key for key in kept.keys() & found.keys() if kept[key] != found[key])
    if differing:
        lines = [f"  {key}: there {str(kept[key])[:16]}…, now {str(found[key])[:16]}…" for key in differing]
        move = "Put the text back as it was, or train anew under another run.name."
        raise RunFolderError("\n".join([f"{folder.target} was begun with another text:", *lines, move]))


def _fingerprints(facts: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _fingerprints(value, f"{place}{key}.")
        elif key in FINGERPRINTS:
            yield f"{place}{key}", value


def state_to_go_on_from(checkpoints: Path, say: Callable[[str], None]) -> Path | None:
    """The newest full state that is whole; None where the run stopped before it had one. Damaged ones are named.

    Raises:
        CheckpointError: where there are full states and all are damaged.
    """
    newest = newest_resumable(checkpoints)
    damaged = damaged_states(checkpoints, newest)
    names = ", ".join(each.name for each in damaged)
    if damaged and newest is None:
        raise CheckpointError(
            f"{checkpoints / 'resume'} has no full state that is what was written (the SHA-256 of {names} differs from the manifest). "
            "Restore one from a copy, or delete the resume folder to begin again from step 0."
        )
    if damaged:
        say(f"Damaged, so that the run goes on from an earlier full state: {names}.")
    return newest


def command_to_go_on(target: Path) -> str:
    """What to type, as a shell reads it."""
    plain = f"resume={target}"
    return f"confreg-train {plain if PLAIN.fullmatch(plain) else shlex.quote(as_override('resume', str(target)))}"


def where_to_go_on(checkpoints: Path) -> str:
    """From which step that will be."""
    return f"from step {max(map(step_of, (checkpoints / 'resume').glob('step=*.ckpt')), default=0)}"
