"""``confreg-measure``: measure what a run has saved, as it measured itself or with another request."""

from __future__ import annotations

import sys

from confreg.settings.measure_command import MeasureCommandSettings


def main() -> None:
    """The console script; heavy imports wait until the command line has been read."""
    from confreg.experiments.command_line import run_command

    sys.exit(run_command("measure", _measure))


def _measure(settings: MeasureCommandSettings) -> int:
    from confreg.experiments.measure_source import measure_source

    return measure_source(settings)


if __name__ == "__main__":
    main()
