"""What a call of confreg-measure means for one source: which steps, which folder, which device, how many threads."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from confreg.models.checkpoints import CheckpointError
from confreg.models.runs import SavedRun
from confreg.settings import SettingError
from confreg.settings.mapping import flattened
from confreg.settings.measure_command import ALL, LAST, MeasureCommandSettings, RepeatedRequest
from confreg.settings.run import is_safe_name

OWN = "own"  # name of a measurement by the run's own request
LONGEST_NAME = 100  # characters


def chosen_steps(asked: Any, run: SavedRun) -> list[int]:
    """The saved steps that a setting means, in order.

    Raises:
        CheckpointError: where nothing is saved.
        SettingError: for a step that is not saved, with the nearest that are.
    """
    saved = run.steps
    if not saved:
        raise CheckpointError(f"{run.folder} has no checkpoints; expected at least one. A run saves them unless callbacks.save=false.")
    if asked in (ALL, LAST):
        return saved if asked == ALL else saved[-1:]
    steps = sorted(set(asked if isinstance(asked, list) else [asked]))
    for step in steps:
        if step not in saved:
            near = sorted(sorted(saved, key=lambda each: abs(each - step))[:2])
            raise SettingError(
                f"steps has {step}, which {run.folder} has not saved; the nearest are {' and '.join(map(str, near))} "
                f"({len(saved)} steps are saved, {saved[0]} to {saved[-1]})."
            )
    return steps


def chosen_numbers(asked: Any, there: list[int], source: str) -> list[int]:
    """The models of a series that a setting means, by their steps (or places), in order.

    Raises:
        SettingError: for one that is not there.
    """
    if asked in (ALL, LAST):
        return there if asked == ALL else there[-1:]
    steps = sorted(set(asked if isinstance(asked, list) else [asked]))
    for step in steps:
        if step not in there:
            raise SettingError(f"steps has {step}, and the chosen revisions of {source} are {', '.join(map(str, there))}.")
    return steps


def published_output_of(asked: MeasureCommandSettings) -> Path:
    """Where the tables of published weights go: what was asked for, or a folder that is named by the source and by what was changed."""
    if asked.output is not None:
        return Path(asked.output)
    parts = [each for each in asked.source.replace("\\", "/").split("/") if each not in ("", ".", "..", "~")]
    folder = "--".join(parts[-2:]).lstrip(".") or "model"
    return Path("measured") / folder / (asked.name or _name_of(asked.request, RepeatedRequest()))


def output_of(asked: MeasureCommandSettings, run: SavedRun) -> Path:
    """Where the tables go: what was asked for, or a folder in the run that is named by what differs from its own request."""
    if asked.output is not None:
        return Path(asked.output)
    return run.folder / "measured" / (asked.name or _name_of(asked.request, RepeatedRequest.own_of(run.settings)))


def _name_of(request: RepeatedRequest, own: RepeatedRequest) -> str:
    plain, asked = ({"groups": {}, **dict(flattened(asdict(each)))} for each in (own, request))  # of no groups, too
    changed = {key: asked.get(key) for key in sorted({*plain, *asked}) if asked.get(key) != plain.get(key)}
    name = "+".join(f"{key.rpartition('.')[2]}={_in_a_name(value)}" for key, value in changed.items()) or OWN
    is_plain = len(name) <= LONGEST_NAME and "/" not in name and is_safe_name(name)
    return name if is_plain else sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]


def _in_a_name(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def device_of(asked: str, accelerator: str) -> torch.device:
    """That on which the run would train on this machine, unless another one is asked for.

    Args:
        asked: the setting ``device``.
        accelerator: the run's ``trainer.accelerator``.

    Raises:
        SettingError: for a device that this machine does not have.
    """
    there = {"cuda": torch.cuda.is_available(), "cpu": True}
    if asked != "auto" and not there[asked]:
        raise SettingError(f"device is {asked!r}, which this machine does not have; expected auto or cpu.")
    wanted = [accelerator, "cpu"] if accelerator in there else ["cuda", "cpu"]
    return torch.device(asked if asked != "auto" else next(each for each in wanted if there[each]))


def threads_of(asked: int | None, facts: dict[str, Any]) -> int:
    """CPU threads: as many as the run had, where this machine has so many processors, unless a number is asked for.

    Args:
        asked: the setting ``threads``.
        facts: ``run.json``.
    """
    had = (facts.get("reproducibility") or {}).get("threads")
    if asked is not None:
        return asked
    return had if isinstance(had, int) and 1 <= had <= (os.cpu_count() or 1) else torch.get_num_threads()
