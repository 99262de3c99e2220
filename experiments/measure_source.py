"""Saved steps of a run, or published weights, measured: one model in memory at a time, what is there already is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from confreg.cost import described, estimate_cost
from confreg.experiments.measure_choices import device_of, threads_of
from confreg.experiments.measured_sources import MeasuredSource, Opened, source_of
from confreg.figures.summary import named_neurons_table
from confreg.interventions.self_checks import check_interventions
from confreg.languages.model_sources import ModelSourceError
from confreg.measurement import measure
from confreg.models.checkpoints import weights_sha256
from confreg.models.families import last_down_projection, output_rows
from confreg.progress import Told
from confreg.records.measured_folder import ANOTHER, MeasuredFolder, MeasuredFolderError
from confreg.records.schema import tables_asked_for
from confreg.records.store import RecordStore
from confreg.settings import SettingError
from confreg.settings.measure_command import MeasureCommandSettings

RARELY_COUNTED = 0.5  # of the vocabulary: the default of the rule that then names no token-frequency neuron
console = Console(stderr=False)


def measure_source(asked: MeasureCommandSettings) -> int:
    """Measure the steps that were asked for and are not there yet; the exit code.

    Raises:
        SettingError: where there is no source, or a step is not saved.
        ModelSourceError: where weights cannot be had, or two steps have the same.
        TextError: where the text or the counts cannot be used.
        MeasuredFolderError: where the output holds something else, or the same steps of other weights.
        RunFolderError: where the source is no run, or another process writes the output.
        CheckpointError: for a run without checkpoints, or a damaged one.
    """
    if not asked.source:
        raise SettingError("source is missing; expected a run or published weights, such as confreg-measure source=runs/default/seed=0.")
    work = _Work(asked, source_of(asked))
    done = [number for number in work.source.numbers if work.is_there(number)]
    missing = [number for number in work.source.numbers if number not in done]
    work.announce(len(done))
    if missing:
        torch.set_num_threads(threads_of(asked.threads, work.source.facts))
        work.measure(missing)
    work.report()
    return 0


class _Work:
    """What one call does: which models of which source, by which request, into which folder."""

    def __init__(self, asked: MeasureCommandSettings, source: MeasuredSource) -> None:
        self.asked, self.source = asked, source
        self.folder = MeasuredFolder(source.output, asdict(asked.request), source.record())
        self.device = device_of(asked.device, source.accelerator)
        self._is_checked = self._is_announced = False

    def is_there(self, number: int) -> bool:
        """Whether these very weights were measured into the output."""
        if not self.folder.has(number):
            return False
        if not self.source.is_compared(number):
            return True
        measured = self.folder.store.read("model", number)["weights_sha256"][0].as_py()
        with self.source.opened(number) as opened:
            there = weights_sha256(opened.model)
        if measured != there:
            raise MeasuredFolderError(
                f"{self.folder.path} has step {number} of other weights ({measured[:12]}…) than {self.source.name} has now "
                f"({there[:12]}…): it was trained or written anew since. Choose {ANOTHER}, or delete that folder first."
            )
        return True

    def measure(self, numbers: list[int]) -> None:
        """Measure these models, each complete on the disk before the next."""
        if self.source.is_compared(numbers[-1]):  # on this machine: the last model, whose neurons matter most, tells for all
            with self.source.opened(numbers[-1]) as last:
                self._announce_cost(last, numbers)
        try:
            with self.folder:
                for number, progress in _shown(numbers, self.asked.progress_bar):
                    with self.source.opened(number) as opened:
                        if not self._is_announced:  # what has to be fetched is fetched once
                            self._announce_cost(opened, numbers)
                        self._measure(number, opened, progress)
        except BaseException:
            n_there = sum(self.folder.has(number) for number in self.source.numbers)
            if n_there:
                n_all = len(self.source.numbers)
                _say(f"{n_there} of {n_all} steps are complete in {self.folder.path}; the same command goes on with the others.")
            raise

    def _measure(self, number: int, opened: Opened, progress: Told) -> None:
        self._refuse_repeated(number, weights_sha256(opened.model))
        opened.model.to(self.device)  # type: ignore[arg-type]
        if not self._is_checked:
            check_interventions(opened.model, opened.blocks)
            self._is_checked = True
        measured = opened.model, opened.blocks, opened.token_counts, self.source.request_at(number)
        self.folder.write(number, measure(*measured, step=opened.step, tokens_seen=opened.tokens_seen, progress=progress))

    def _refuse_repeated(self, number: int, sha256: str) -> None:
        """Series with wrong branches are known: the same weights twice are no two steps of a training."""
        store = self.folder.store
        for other in store.steps("model"):
            if other != number and store.read("model", other)["weights_sha256"][0].as_py() == sha256:
                raise ModelSourceError(
                    f"{self.source.name}: {self.source.label(number)} has the very weights of {self.source.label(other)} "
                    f"({sha256[:12]}…); one of them is not what its name says. Leave one of them out, into {ANOTHER}."
                )

    def announce(self, n_done: int) -> None:
        """What will be done, before it begins."""
        numbers = self.source.numbers
        span = f"at {self.source.label(numbers[0])}"
        if len(numbers) > 1:
            span = f"at {len(numbers)} steps, {self.source.label(numbers[0])} to {self.source.label(numbers[-1])}"
        there = f" {n_done} of these steps are there already." if n_done else ""
        _say(f"Measuring {self.source.name} {span}: {self._control()}, on {self.device}.{there}")
        _say(f"Into {self.folder.path}.")

    def _announce_cost(self, opened: Opened, numbers: list[int]) -> None:
        """How much there is, and how long it will take, from a small piece of one model."""
        self._is_announced, model = True, opened.model.to(self.device)  # type: ignore[arg-type]
        requests = [self.source.request_at(number) for number in numbers]
        of_draws = {each.control_draws: each for each in requests}
        costs = {n: estimate_cost(model, opened.blocks, opened.token_counts, each) for n, each in of_draws.items()}
        seconds, memory = sum(costs[each.control_draws].seconds for each in requests), max(each.memory_mib for each in costs.values())
        n_positions, n_documents = int(opened.blocks.scored_positions().sum()), int(opened.blocks.clusters().max()) + 1
        _say(f"{len(output_rows(last_down_projection(model))):,} neurons at {n_positions:,} positions of {n_documents} documents.")
        _say(f"Estimated: {described(seconds)}, and {memory:.0f} MiB above the model at its peak.")
        never = (opened.token_counts == 0).double().mean().item()
        if never > RARELY_COUNTED:
            _say(
                f"{never:.0%} of the token ids were never counted: no token-frequency neuron will be named. "
                "Count more text, or give counts=FILE.npy."
            )

    def _control(self) -> str:
        draws = {number: self.source.request_at(number).control_draws for number in self.source.numbers}
        *before, last = draws.values()
        each = sorted(set(before)) or [last]
        numbers = [f"{number} at each step" for number in each]
        if last not in each:
            numbers.append(f"{last} at the last")
        return f"control draws: {' and '.join(numbers)}"

    def report(self) -> None:
        """Who is named, whether the rows are those that the run wrote itself, and where they are."""
        console.print(named_neurons_table(self.folder.path))
        self._compare_with_live_records()
        _say(f"Tables: {self.folder.path / 'records'}. Their page: confreg-report {self.folder.path}")

    def _compare_with_live_records(self) -> None:
        place = self.source.live_records()
        if place is None:
            return
        live, tables, store = RecordStore(place), tables_asked_for(self.asked.request), self.folder.store
        both = [number for number in self.source.numbers if all(live.has(table, number) for table in tables)]
        equal = [number for number in both if all(live.read(table, number).equals(store.read(table, number)) for table in tables)]
        if both and len(equal) == len(both):
            _say(f"The rows of {len(both)} steps equal those that the run wrote itself, to the bit.")
        elif both:
            _say(
                f"The rows of {len(both) - len(equal)} of {len(both)} steps differ from those that the run wrote itself: compare git, "
                f"threads, versions and device in {place.parent / 'run.json'} and {self.folder.path / 'measured.json'}."
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
