"""Saved steps of a run measured again: one model in memory at a time, what is there already is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from confreg.cost import described, estimate_cost
from confreg.experiments.measure_choices import chosen_steps, device_of, output_of, threads_of
from confreg.figures.summary import named_neurons_table
from confreg.measurement import measure
from confreg.models.checkpoints import weights_sha256
from confreg.models.runs import SavedRun
from confreg.progress import Told
from confreg.records.measured_folder import ANOTHER, MeasuredFolder, MeasuredFolderError
from confreg.records.run_folder import read_facts
from confreg.records.schema import tables_asked_for
from confreg.records.store import RecordStore
from confreg.settings import SettingError, settings_to_mapping
from confreg.settings.measure_command import MeasureCommandSettings, RepeatedRequest

console = Console(stderr=False)


def measure_run(asked: MeasureCommandSettings) -> int:
    """Measure the steps that were asked for and are not there yet; the exit code.

    Raises:
        SettingError: where there is no source, or a step is not saved.
        MeasuredFolderError: where the output holds something else, or the same steps of other weights.
        RunFolderError: where the source is no run, or another process writes the output.
        CheckpointError: for a run without checkpoints, or a damaged one.
    """
    if not asked.source:
        raise SettingError("source is missing; expected the folder of a run, such as confreg-measure source=runs/default/seed=0.")
    run = SavedRun(asked.source)
    facts = read_facts(run.folder)
    work = _Work(asked, run, facts)
    done = [step for step in work.steps if work.is_there(step)]
    missing = [step for step in work.steps if step not in done]
    work.announce(len(done))
    if missing:
        torch.set_num_threads(threads_of(asked.threads, facts))
        work.announce_cost(missing)
        work.measure(missing)
    work.report()
    return 0


class _Work:
    """What one call does: which steps of which run, by which request, into which folder."""

    def __init__(self, asked: MeasureCommandSettings, run: SavedRun, facts: dict[str, Any]) -> None:
        self.asked, self.run, self.request = asked, run, asked.request
        self.last_step = int(facts.get("steps") or run.settings.trainer.max_steps)
        self.steps = chosen_steps(asked.steps, run)
        config = settings_to_mapping(run.settings)
        source = {"kind": "run", "folder": run.folder, "last_step": self.last_step, "config": config, "facts": facts}
        self.folder = MeasuredFolder(output_of(asked, run), asdict(asked.request), source)
        self.device = device_of(asked.device, run.settings.trainer.accelerator)

    def is_there(self, step: int) -> bool:
        """Whether these very weights were measured into the output."""
        if not self.folder.has(step):
            return False
        measured = self.folder.store.read("model", step)["weights_sha256"][0].as_py()
        saved = weights_sha256(self.run.at(step).model)
        if measured != saved:
            raise MeasuredFolderError(
                f"{self.folder.path} has step {step} of other weights ({measured[:12]}…) than the checkpoint in {self.run.folder} "
                f"({saved[:12]}…): the run was trained anew since. Choose {ANOTHER}, or delete that folder first."
            )
        return True

    def measure(self, steps: list[int]) -> None:
        """Measure these steps, each complete on the disk before the next."""
        try:
            with self.folder:
                for step, progress in _shown(steps, self.asked.progress_bar):
                    self._measure(step, progress)
        except BaseException:
            n_there = sum(self.folder.has(step) for step in self.steps)
            if n_there:
                _say(f"{n_there} of {len(self.steps)} steps are complete in {self.folder.path}; the same command goes on with the others.")
            raise

    def _measure(self, step: int, progress: Told) -> None:
        saved = self.run.at(step)
        request, counts = self.request.at(step, self.last_step, self.run.settings), self.run.token_counts(step)
        saved.model.to(self.device)  # type: ignore[arg-type]
        measured = saved.model, self.run.blocks, counts, request
        self.folder.write(step, measure(*measured, step=step, tokens_seen=saved.tokens_seen, progress=progress))

    def announce(self, n_done: int) -> None:
        """What will be done, before it begins."""
        settings, steps, blocks = self.run.settings, self.steps, self.run.blocks
        span = f"at step {steps[0]}" if len(steps) == 1 else f"at {len(steps)} steps, {steps[0]} to {steps[-1]}"
        size = f"{settings.model.d_mlp} neurons, {int(blocks.scored_positions().sum()):,} positions"
        there = f" {n_done} of these steps are there already." if n_done else ""
        _say(f"Measuring {self.run.folder} {span}: {size}, {self._control()}, on {self.device}.{there}")
        _say(f"Into {self.folder.path}.")

    def announce_cost(self, steps: list[int]) -> None:
        """How long the missing steps will take, from a small piece of the last one."""
        step, settings = steps[-1], self.run.settings
        model, counts = self.run.at(step).model.to(self.device), self.run.token_counts(step)  # type: ignore[arg-type]
        requests = [self.request.at(each, self.last_step, settings) for each in steps]
        costs = {r.control_draws: estimate_cost(model, self.run.blocks, counts, r) for r in {r.control_draws: r for r in requests}.values()}
        seconds, memory = sum(costs[r.control_draws].seconds for r in requests), max(each.memory_mib for each in costs.values())
        _say(f"Estimated: {described(seconds)}, and {memory:.0f} MiB above the model at its peak.")

    def _control(self) -> str:
        draws = {step: self.request.at(step, self.last_step, self.run.settings).control_draws for step in self.steps}
        each = sorted({number for step, number in draws.items() if step != self.last_step})
        numbers = [f"{number} at each step" for number in each]
        if draws.get(self.last_step) not in (None, *each):
            numbers.append(f"{draws[self.last_step]} at the last")
        return f"control draws: {' and '.join(numbers)}"

    def report(self) -> None:
        """Who is named, whether the rows are those that the run wrote itself, and where they are."""
        console.print(named_neurons_table(self.folder.path))
        if self.request == RepeatedRequest.own_of(self.run.settings):
            self._compare_with_the_run()
        _say(f"Tables: {self.folder.path / 'records'}. Their page: confreg-report {self.folder.path}")

    def _compare_with_the_run(self) -> None:
        live, tables = RecordStore(self.run.folder / "records"), tables_asked_for(self.request)
        both = [step for step in self.steps if all(live.has(table, step) for table in tables)]
        equal = [step for step in both if all(live.read(table, step).equals(self.folder.store.read(table, step)) for table in tables)]
        if both and len(equal) == len(both):
            _say(f"The rows of {len(both)} steps equal those that the run wrote itself, to the bit.")
        elif both:
            _say(
                f"The rows of {len(both) - len(equal)} of {len(both)} steps differ from those that the run wrote itself: compare git, "
                f"threads, versions and device in {self.run.folder / 'run.json'} and {self.folder.path / 'measured.json'}."
            )


def _shown(steps: list[int], with_bar: bool) -> Iterator[tuple[int, Told]]:
    """The steps, with a progress bar over them, and whom to tell how far one is."""
    columns = (TextColumn("step {task.fields[step]}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not with_bar) as progress:
        task = progress.add_task("measuring", total=len(steps), step=steps[0])
        for n_done, step in enumerate(steps):
            progress.update(task, step=step)
            yield step, partial(_told, progress, task, n_done)
            progress.update(task, completed=n_done + 1)


def _told(progress: Progress, task: TaskID, n_steps_done: int, n_positions_done: int, n_positions: int) -> None:
    """How far the step is that is measured now."""
    progress.update(task, completed=n_steps_done + n_positions_done / n_positions)


def _say(text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False)
