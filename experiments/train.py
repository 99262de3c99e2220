"""``confreg-train``: train from scratch, measuring on the clock."""

from __future__ import annotations

import sys


def main() -> None:
    """The console script; heavy imports wait until the command line has been read."""
    from confreg.experiments.command_line import run_command

    sys.exit(run_command("train", _train))


def _train(settings):  # type: ignore[no-untyped-def]
    from confreg.experiments.training_run import train

    return train(settings)


if __name__ == "__main__":
    main()
