"""Share of the default run that is watching: measuring, saving, logging, drawing the page.

The run of ``make run`` is trained in this process with a stopwatch around everything that watches: the hooks of our callbacks, the
loggers, the page. Then the same run with nothing that watches, as a control: the difference of the two totals should be about the
sum of the parts.

How to read it: the share of all watching is to stay under 0.30. Of measuring, the ablation suite is what replacing neurons adds: running
the model on the reference blocks for the values that take the activations' places, and the effects of all neurons of the last layer and of
the control draws, with their columns; it is to stay under 0.05. The rest is the model on the measured blocks and everything else of the
tables. Wall time is what a user waits for, and what other work on the
machine disturbs; CPU time of this process is steadier, and leaves out W&B's own process and waiting for the disk. Lightning's
validation (val/loss) is training's own and no part of the watching; importing Python's packages is in no total.

    python -m benchmarks.watching --threads 1
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch.loggers import CSVLogger

from benchmarks.machine import machine
from confreg import measurement, scored_pass
from confreg.callbacks import ClockWandbLogger, LogRecords, MeasureOnClock, SaveOnClock
from confreg.experiments import training_run
from confreg.experiments.composition import compose_settings

HOOKS = ("on_train_start", "on_train_batch_start", "on_train_batch_end", "on_validation_end", "on_train_end")
LOGGING = ("log_metrics", "log_hyperparams", "log_on_clock", "log_page", "save", "finalize", "close")
WATCHED: dict[str, list[tuple[Any, Sequence[str]]]] = {
    "measuring": [(MeasureOnClock, HOOKS)],
    "saving": [(SaveOnClock, HOOKS)],
    "logging": [(LogRecords, HOOKS), (ClockWandbLogger, LOGGING), (CSVLogger, LOGGING)],
    "page": [(training_run, ("write_page",))],
}
OF_MEASURING: dict[str, list[tuple[Any, Sequence[str]]]] = {
    "of measuring: replacements": [(scored_pass.ScoredPass, ("replacement",))],
    "of measuring: effects": [(scored_pass._Work, ("ablate",)), (measurement._Measurement, ("_effect_columns",))],
}
NOTHING_WATCHES = ("callbacks=none", "logger=csv", "logger.csv=false")

Seconds = tuple[float, float]  # of wall time, of CPU time


def now() -> Seconds:
    """Both clocks."""
    return time.perf_counter(), time.process_time()


@dataclass
class Stopwatch:
    """Time spent in each kind of watching; what runs inside another kind counts there."""

    watched: dict[str, list[tuple[Any, Sequence[str]]]]
    seconds: dict[str, Seconds] = field(default_factory=dict)
    _is_running: bool = False

    def around(self, function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        """The same function, timed."""

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            if self._is_running:
                return function(*arguments, **named)
            self._is_running, began = True, now()
            try:
                return function(*arguments, **named)
            finally:
                self._is_running = False
                self.seconds[kind] = _sum(self.seconds[kind], _difference(now(), began))

        return timed

    def watch(self) -> None:
        """Put itself around everything in the list, for the rest of this process."""
        for kind, owners in self.watched.items():
            self.seconds[kind] = 0.0, 0.0
            for owner, names in owners:
                for name in set(names) & set(dir(owner)):
                    setattr(owner, name, self.around(getattr(owner, name), kind))


def _sum(one: Seconds, other: Seconds) -> Seconds:
    return one[0] + other[0], one[1] + other[1]


def _difference(one: Seconds, other: Seconds) -> Seconds:
    return one[0] - other[0], one[1] - other[1]


def total_of(overrides: Sequence[str]) -> Seconds:
    """Seconds of one whole run, from its settings to its page, in a folder that is removed."""
    with tempfile.TemporaryDirectory() as folder:
        settings = compose_settings([*overrides, f"run.root={folder}", "run.name=watched"])
        began = now()
        training_run.train(settings)
        return _difference(now(), began)


def table(parts: dict[str, Seconds], of_measuring: dict[str, Seconds], total: Seconds, unwatched: Seconds) -> str:
    """Seconds and shares of the total, one line for each kind."""
    everything, suite = (functools.reduce(_sum, each.values()) for each in (parts, of_measuring))
    rows = {**parts, "all watching": everything, **of_measuring, "of measuring: the suite": suite}
    rows |= {"run": total, "run with nothing that watches": unwatched}
    lines = [f"{'':32}{'wall s':>9}{'share':>8}{'CPU s':>9}{'share':>8}"]
    for name, (wall, cpu) in rows.items():
        lines.append(f"{name:32}{wall:9.1f}{wall / total[0]:8.3f}{cpu:9.1f}{cpu / total[1]:8.3f}")
    return "\n".join(lines)


def main() -> None:
    """Print the machine and the table."""
    parser = argparse.ArgumentParser(description="Share of the default run that is watching.")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("overrides", nargs="*", help="of the configuration, as for confreg-train")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    stopwatches = Stopwatch(WATCHED), Stopwatch(OF_MEASURING)
    for stopwatch in stopwatches:
        stopwatch.watch()
    about = machine()
    total = total_of(chosen.overrides)
    parts, of_measuring = (dict(stopwatch.seconds) for stopwatch in stopwatches)
    unwatched = total_of([*chosen.overrides, *NOTHING_WATCHES])
    print(about)
    print(table(parts, of_measuring, total, unwatched))


if __name__ == "__main__":
    main()
