"""The commands that Hydra configures: the name of each, and the closed settings behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from confreg.settings import Settings, setting_types
from confreg.settings.measure_command import MeasureCommandSettings


@dataclass(frozen=True)
class Command:
    """A console script.

    Attributes:
        name: the script is ``confreg-NAME``, its configuration ``conf/NAME.yaml``.
        settings: the dataclass that closes the configuration.
        example: an override that it understands, for messages.
    """

    name: str
    settings: type
    example: str

    @property
    def keys(self) -> dict[str, Any]:
        """Every dotted key of its configuration with the annotated type."""
        return setting_types(self.settings)


TRAIN = Command("train", Settings, "trainer.max_steps=20")
MEASURE = Command("measure", MeasureCommandSettings, "steps=last")
COMMANDS = {each.name: each for each in (TRAIN, MEASURE)}
