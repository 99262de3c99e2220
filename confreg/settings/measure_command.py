"""What confreg-measure is told: of which weights, at which steps, on what text, how, and where the tables go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from confreg.settings.data import TextSettings
from confreg.settings.measure import MeasurementRequest, MeasureSettings
from confreg.settings.ranges import setting
from confreg.settings.run import Settings, is_safe_name

ALL, LAST = "all", "last"


@dataclass
class RepeatedRequest(MeasurementRequest):
    """A request to what a run has saved: the run's own, in which some values are changed for all steps.

    The run draws its control afresh at each step, and more often at the last; a number that is given here holds at every step.
    """

    control_draws: int | None = setting(None, at_least=0)  # type: ignore[assignment]  # None: as the run, at each step and at the last
    control_seed: int | None = setting(None, at_least=0)  # type: ignore[assignment]  # None: as the run, by (seed, step)

    @classmethod
    def own_of(cls, run: Settings) -> RepeatedRequest:
        """The request with which a run measured itself."""
        own = {each.name: getattr(run.measure.request, each.name) for each in fields(MeasurementRequest)}
        return cls(**own | {"control_draws": None, "control_seed": None})

    def at(self, step: int, last: int, run: Settings) -> MeasurementRequest:
        """The request for one step.

        Args:
            step: optimizer step.
            last: the step at which the run ended, or will end.
            run: the settings of the run.
        """
        asked = {each.name: getattr(self, each.name) for each in fields(MeasurementRequest)}
        own = run.measure.request_at(step, last, run.seed)
        control = {"control_draws": own.control_draws, "control_seed": own.control_seed}
        return MeasurementRequest(**asked | {name: value for name, value in control.items() if asked[name] is None})

    def at_revision(self, number: int, seed: int) -> MeasurementRequest:
        """The request for published weights: as at a clock step of a run, one draw of the control for each.

        Args:
            number: step, or place in the series.
            seed: of the control.
        """
        asked = {each.name: getattr(self, each.name) for each in fields(MeasurementRequest)}
        own = MeasureSettings().request_at(number, -1, seed)
        control = {"control_draws": own.control_draws, "control_seed": own.control_seed}
        return MeasurementRequest(**asked | {name: value for name, value in control.items() if asked[name] is None})


@dataclass
class PublishedWeights:
    """What a call says of weights that no run of confreg made: which of a series, and on what they are measured."""

    revisions: list[str] = field(default_factory=list)  # names, patterns: [main], [step0, "step1*"]; none: main, or all models of a folder
    per_doubling: int | None = setting(None, at_least=1)  # of revisions that are steps; the first and the last always in. None: all
    data: TextSettings = field(default_factory=TextSettings)  # in the tokens of the model, unless it names a tokenizer
    n_blocks: int = setting(MeasureSettings.n_blocks, at_least=1)  # at most, of each of the two parts
    n_scored_per_block: int = setting(MeasureSettings.n_scored_per_block, at_least=1)  # positions
    counts: str | None = None  # a file .npy with one count for each token id; None: those of the training part of the text
    pickled: bool = False  # weights without safetensors: read a pickle, by torch's safe loader
    keep_downloads: bool = False  # of what is fetched for this call; what was there before stays
    seed: int = setting(0, at_least=0)  # draws the scored positions, and the control

    def of_published_weights(self) -> dict[str, Any]:
        """These settings alone."""
        return {each.name: getattr(self, each.name) for each in fields(PublishedWeights)}

    def given_for_published_weights(self) -> list[str]:
        """Those of them that are not at their defaults."""
        default = PublishedWeights()
        return [name for name, value in self.of_published_weights().items() if value != getattr(default, name)]


@dataclass
class MeasureCommandSettings(PublishedWeights):
    """One call of confreg-measure, closed and typed."""

    source: str = ""  # RUN; or published weights: a NAME on the hub, a FOLDER, a FILE.gguf, a folder of several models
    steps: Any = ALL  # optimizer steps, [0, 64, 512]; or last; or all that are there
    name: str | None = None  # folder below RUN/measured, or measured/SOURCE; None: own, or what differs from the source's own request
    output: str | None = None  # a folder anywhere else, in place of that
    request: RepeatedRequest = field(default_factory=RepeatedRequest)  # what is not given is as the run measured itself
    device: str = setting("auto", choices=("auto", "cpu", "cuda"))  # auto: that on which the run would train here
    threads: int | None = setting(None, at_least=1)  # CPU threads; None: as many as the run had, where there are so many; they change bits
    progress_bar: bool = True

    def complaints(self) -> Iterator[str]:
        if self.counts is not None and not self.counts.endswith(".npy"):
            yield f"counts is {self.counts!r}; expected a file .npy with one whole number for each token id."
        if not _are_steps(self.steps):
            yield f"steps is {self.steps!r}; expected optimizer steps such as [0,64,512], last, or all."
        if self.name is not None and ("/" in self.name or not is_safe_name(self.name)):
            yield f"name is {self.name!r}; expected the name of a folder below RUN/measured or measured/SOURCE: no /, no leading dot."
        if self.output is not None and not self.output.strip():
            yield "output is empty; expected a folder, or null for the default place."
        if self.output is not None and self.name is not None:
            yield f"name is {self.name!r} and output is {self.output!r}; expected one of them: name is a folder below the default place."


def _are_steps(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_step(each) for each in value)
    return value in (ALL, LAST) or _is_step(value)


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
