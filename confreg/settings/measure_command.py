"""What confreg-measure is told: what to measure again, at which steps, how, and where the tables go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from confreg.settings.measure import MeasurementRequest
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


@dataclass
class MeasureCommandSettings:
    """One call of confreg-measure, closed and typed."""

    source: str = ""  # folder of a run
    steps: Any = ALL  # optimizer steps, [0, 64, 512]; or last; or all that are saved
    name: str | None = None  # folder below SOURCE/measured; None: own, or what differs from the run's own request
    output: str | None = None  # a folder anywhere else, in place of SOURCE/measured/NAME
    request: RepeatedRequest = field(default_factory=RepeatedRequest)  # what is not given is as the run measured itself
    device: str = setting("auto", choices=("auto", "cpu", "cuda", "mps"))  # auto: that on which the run would train here
    threads: int | None = setting(None, at_least=1)  # CPU threads; None: as many as the run had, where there are so many; they change bits
    progress_bar: bool = True

    def complaints(self) -> Iterator[str]:
        if not _are_steps(self.steps):
            yield f"steps is {self.steps!r}; expected optimizer steps such as [0,64,512], last, or all."
        if self.name is not None and ("/" in self.name or not is_safe_name(self.name)):
            yield f"name is {self.name!r}; expected the name of a folder below SOURCE/measured: no /, no leading dot."
        if self.output is not None and not self.output.strip():
            yield "output is empty; expected a folder, or null for SOURCE/measured/NAME."
        if self.output is not None and self.name is not None:
            yield f"name is {self.name!r} and output is {self.output!r}; expected one of them: name is a folder below SOURCE/measured."


def _are_steps(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_step(each) for each in value)
    return value in (ALL, LAST) or _is_step(value)


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
