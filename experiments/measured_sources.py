"""What confreg-measure can measure: the saved steps of a run, and published weights. Both answer the same questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from confreg.experiments.measure_choices import chosen_numbers, chosen_steps, output_of, published_output_of
from confreg.languages.blocks import Blocks, Language
from confreg.languages.model_sources import ModelSourceError, is_run
from confreg.languages.sources import language_of, measured_blocks, widened
from confreg.languages.token_counts import read_counts
from confreg.models.pretrained import check_block_length
from confreg.models.runs import SavedRun
from confreg.models.series import PublishedModel, published_models
from confreg.records.run_folder import read_facts
from confreg.settings import MeasurementRequest, MeasureSettings, settings_to_mapping
from confreg.settings.measure_command import MeasureCommandSettings, RepeatedRequest


@dataclass(frozen=True)
class Opened:
    """One model to measure, and what is measured of it."""

    model: PreTrainedModel
    blocks: Blocks
    token_counts: Tensor
    step: int | None  # None: unknown
    tokens_seen: int | None


class MeasuredSource(Protocol):
    """Models under numbers, and what is asked of each."""

    name: str  # in messages
    numbers: list[int]  # in order: optimizer steps, or places in a series
    output: Path
    facts: dict[str, Any]  # how it was made, as far as a run tells
    accelerator: str

    def label(self, number: int) -> str:
        """What a number means, in messages."""
        ...

    def record(self) -> dict[str, Any]:
        """What ``measured.json`` says of the source; plain values."""
        ...

    def opened(self, number: int) -> Any:
        """A context manager with the :class:`Opened` model."""
        ...

    def request_at(self, number: int) -> MeasurementRequest:
        """What is asked of it."""
        ...

    def is_compared(self, number: int) -> bool:
        """Whether weights that were measured before are opened again, to see that they are the same still."""
        ...

    def live_records(self) -> Path | None:
        """Where the source keeps rows that these must equal, if it does."""
        ...


class RunSource:
    """The saved steps of a run."""

    def __init__(self, asked: MeasureCommandSettings) -> None:
        self.asked, self.run = asked, SavedRun(asked.source)
        self.facts, self.name = read_facts(self.run.folder), str(self.run.folder)
        self.last_step = int(self.facts.get("steps") or self.run.settings.trainer.max_steps)
        self.numbers, self.output = chosen_steps(asked.steps, self.run), output_of(asked, self.run)
        self.accelerator = self.run.settings.trainer.accelerator

    def label(self, number: int) -> str:
        """As the protocol says."""
        return f"step {number}"

    def record(self) -> dict[str, Any]:
        """As the protocol says."""
        config = settings_to_mapping(self.run.settings)
        return {"kind": "run", "folder": self.run.folder, "last_step": self.last_step, "config": config, "facts": self.facts}

    @contextmanager
    def opened(self, number: int) -> Iterator[Opened]:
        """As the protocol says."""
        saved = self.run.at(number)
        yield Opened(saved.model, self.run.blocks, self.run.token_counts(number), number, saved.tokens_seen)

    def request_at(self, number: int) -> MeasurementRequest:
        """As the run asked, at this step, unless something else is said."""
        return self.asked.request.at(number, self.last_step, self.run.settings)

    def is_compared(self, number: int) -> bool:
        """Always: a run can be trained anew."""
        return True

    def live_records(self) -> Path | None:
        """The run's own, where nothing else is asked for."""
        return self.run.folder / "records" if self.asked.request == RepeatedRequest.own_of(self.run.settings) else None


class PublishedSource:
    """Published weights: one model, or a series."""

    def __init__(self, asked: MeasureCommandSettings) -> None:
        self.asked, self.name, self.accelerator = asked, asked.source, "auto"
        self.facts: dict[str, Any] = {}
        every = published_models(asked.source, asked.revisions, asked.per_doubling)
        self.models: dict[int, PublishedModel] = {each.number: each for each in every}
        self.numbers, self.output = chosen_numbers(asked.steps, list(self.models), asked.source), published_output_of(asked)

    def label(self, number: int) -> str:
        """As the protocol says."""
        return self.models[number].name

    def record(self) -> dict[str, Any]:
        """As the protocol says; which revision each number is stands there too, and is no part of what must be the same."""
        chosen = {"source": self.name, **self.asked.of_published_weights(), "data": asdict(self.asked.data)}
        for name in ("revisions", "per_doubling", "keep_downloads"):
            chosen.pop(name)
        names = {str(number): model.name for number, model in self.models.items()}
        return {"kind": "published", "config": chosen, "revisions": names, "facts": {"language": self.language.facts()}}

    @contextmanager
    def opened(self, number: int) -> Iterator[Opened]:
        """As the protocol says."""
        published = self.models[number]
        with published.opened(self.asked.pickled, self.asked.keep_downloads) as model:
            check_block_length(model.config, published.name, self.language.block_length)
            n_ids = len(model.get_output_embeddings().weight)
            blocks = measured_blocks(widened(self.language, n_ids), self._preset, self.asked.seed)
            yield Opened(model, blocks, self._counts(n_ids), published.step, None)

    def request_at(self, number: int) -> MeasurementRequest:
        """The defaults of every run, unless something else is said."""
        return self.asked.request.at_revision(number, self.asked.seed)

    def is_compared(self, number: int) -> bool:
        """What lies on this machine; a name on the hub would have to be fetched again."""
        return not self.models[number].is_remote

    def live_records(self) -> Path | None:
        """None: nobody else measured them."""
        return None

    @property
    def data(self) -> Any:
        """The text, in the tokens of the first model unless it names a tokenizer."""
        data = self.asked.data
        first = next(iter(self.models.values())).place
        return data if data.tokenizer is not None else dataclasses.replace(data, tokenizer=first.source)

    @cached_property
    def language(self) -> Language:
        """The text as blocks."""
        return language_of(self.data, self.asked.seed)

    @property
    def _preset(self) -> MeasureSettings:
        return MeasureSettings(n_blocks=self.asked.n_blocks, n_scored_per_block=self.asked.n_scored_per_block)

    def _counts(self, n_ids: int) -> Tensor:
        return self.language.token_counts(0) if self.asked.counts is None else read_counts(self.asked.counts, n_ids)


def source_of(asked: MeasureCommandSettings) -> MeasuredSource:
    """The source that is asked for; nothing is measured yet.

    Raises:
        ModelSourceError: where there are no such weights, or a run is told what only published weights need.
        RunFolderError: where a run's folder is damaged.
    """
    if not is_run(asked.source):
        return PublishedSource(asked)
    if given := asked.given_for_published_weights():
        raise ModelSourceError(
            f"{', '.join(given)} came with source={asked.source}, a run, which is measured on what it measured itself; "
            "expected them with published weights alone. Leave them out."
        )
    return RunSource(asked)
