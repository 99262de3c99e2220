"""Where the kernel's CPU time goes, by the parts of its rooms."""

from __future__ import annotations

import cProfile
import pstats
import time
from collections.abc import Callable
from typing import Any

PARTS = {  # function and module, in whose CPU seconds everything that it calls counts
    "unablated prediction": ("baseline", "readout"),
    "changes of the norm, inner products": ("ablation", "readout"),
    "means of the fields": ("of", "fields"),
    "bounds": ("of", "reach"),
    "moments that all neurons share": ("_add", "shared_moments"),
    "all moments": ("of_groups", "moments"),
    "series": ("expanded_changes", "expanded"),
    "nearest tokens": ("more_above", "ranks"),
    "whole rows": ("exact_changes", "exact"),
    "temperatures": ("improve", "temperatures"),
    "everything": ("kernel", "ablation"),
}


def profile(work: Callable[[], Any]) -> str:
    """CPU seconds and share of each part, one line each; ``all moments`` holds the line above it, ``everything`` all."""
    work()
    profiler = cProfile.Profile(time.process_time)
    profiler.runcall(work)
    found = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    seconds = {
        part: sum(row[3] for (path, _, function), row in found.items() if (function, module) == (name, _module(path)))
        for part, (name, module) in PARTS.items()
        for function in [name]
    }
    total = seconds["everything"]
    return "\n".join(f"  {part:40} {value:8.3f} s {value / total:7.1%}" for part, value in seconds.items())


def _module(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".py")
