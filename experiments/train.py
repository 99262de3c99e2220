"""``confreg-train``: train from scratch, measuring on the clock."""

from __future__ import annotations

import sys

from confreg.settings import Settings


def main() -> None:
    """The console script; heavy imports wait until the command line has been read."""
    from confreg.experiments.command_line import run_command

    sys.exit(run_command("train", _train))


def _train(settings: Settings) -> int:
    from confreg.experiments.training_run import train

    return train(settings)


if __name__ == "__main__":
    main()
