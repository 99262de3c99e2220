"""confreg-export: a saved step of a run as a folder that plain transformers opens, with a model card."""

from __future__ import annotations

import argparse
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

REFUSED, INTERRUPTED = 2, 130  # exit codes


def main(argv: list[str] | None = None) -> int:
    """Write the folder and print where it is; returns the exit code: 0, 2 for what can be mended, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings(record=True) as said:
            folder = _export(arguments)
    except KeyboardInterrupt:
        print("confreg-export: interrupted; nothing was written.", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError) as error:
        return _refused(error, arguments)
    for each in said:
        print(f"confreg-export: {each.message}", file=sys.stderr)
    print(folder)
    return 0


def _export(arguments: argparse.Namespace) -> Path:
    """Heavy imports wait until the command line has been read."""
    from transformers.utils.logging import disable_progress_bar

    from confreg.experiments.export_run import export_run

    disable_progress_bar()
    return export_run(arguments.run, arguments.step, arguments.out)


def _refused(error: ValueError | OSError, arguments: argparse.Namespace) -> int:
    from confreg.experiments.command_line import is_mendable

    if not is_mendable(error):
        raise error
    reason = str(error)
    if isinstance(error, OSError):
        place = arguments.out or arguments.run / "exported"
        reason = f"{error.strerror or error} (reading {arguments.run}, writing {place}); expected a place with room. Choose another --out."
    print(f"confreg-export: {reason}", file=sys.stderr)
    return REFUSED


def _step(text: str) -> int | None:
    if text == "last":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}; expected a saved optimizer step, such as 512, or last.")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="confreg-export",
        description="Write a saved step of a run as a folder for plain transformers: weights, tokenizer, a model card with its neurons.",
        epilog="examples: confreg-export runs/default/seed=0; confreg-export runs/default/seed=0 --step 512 --out my_model",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    parser.add_argument("--step", metavar="N|last", type=_step, default="last", help="a saved optimizer step (default: last)")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="a new or empty folder (default: RUN/exported/step=00000512)")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('confreg')}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
