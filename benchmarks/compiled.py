"""Training speed with ``trainer.compile=true`` as a multiple of that without.

Two bare loops over the default model, one compiled, take turns of a few steps in one process; the first steps of both, in which the
code is generated, are timed apart.

How to read it: above 1.0 the compiled steps are faster; the seconds of the first step say how many steps that takes to pay.

    python -m benchmarks.compiled --steps 200 --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.throughput import bare_training, chosen_settings


def seconds_of(training: Iterator[Tensor], steps: int) -> float:
    """Wall time of so many steps."""
    began = time.perf_counter()
    for _ in range(steps):
        next(training)
    return time.perf_counter() - began


def main() -> None:
    """Print the machine, the seconds of the first steps, and the median ratio with its quartiles."""
    parser = argparse.ArgumentParser(description="Training speed with trainer.compile=true as a multiple of that without.")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps of each side")
    parser.add_argument("--turn", type=int, default=5, help="steps of a turn")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("overrides", nargs="*", help="of the configuration, as for confreg-train")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    plain, compiled = (
        bare_training(chosen_settings(chosen.steps + 2, [*chosen.overrides, f"trainer.compile={flag}"])) for flag in ("false", "true")
    )
    print(machine())
    print(f"first step: plain {seconds_of(plain, 1):.1f} s, compiled {seconds_of(compiled, 1):.1f} s")
    turns = chosen.steps // chosen.turn
    ratios = [seconds_of(plain, chosen.turn) / seconds_of(compiled, chosen.turn) for _ in range(turns)]
    low, median, high = statistics.quantiles(ratios, n=4)
    print(f"throughput, compiled / plain: median {median:.3f}, quartiles {low:.3f} and {high:.3f}, {len(ratios)} pairs of turns")


if __name__ == "__main__":
    main()
