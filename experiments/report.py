"""confreg-report: the page of a run that has been measured."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

from confreg.figures.page import write_page
from confreg.figures.run_records import ReportError


def main(argv: list[str] | None = None) -> int:
    """Write the page of one run and print where it is; returns the exit code: 0, or 2 for a run that cannot be shown."""
    arguments = _parser().parse_args(argv)
    try:
        page = write_page(_only(arguments.runs), arguments.out)
    except ReportError as error:
        print(f"confreg-report: {error}", file=sys.stderr)
        return 2
    print(page)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="confreg-report",
        description="Write one static, self-contained HTML page on a run: it opens offline and asks for nothing.",
        epilog="example: confreg-report runs/default/seed=0",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folder of a run that was measured")
    parser.add_argument("--out", metavar="FILE", type=Path, help="where to write the page (default: RUN/report.html)")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('confreg')}")
    return parser


def _only(runs: list[Path]) -> Path:
    if len(runs) > 1:
        raise ReportError(
            f"got {len(runs)} runs ({', '.join(map(str, runs))}); expected one, for several runs are not aggregated yet. "
            "Call confreg-report once for each."
        )
    return runs[0]


if __name__ == "__main__":
    sys.exit(main())
