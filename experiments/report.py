"""confreg-report: the page of a run that has been measured, or one page that compares several."""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

from confreg.figures.comparison.page import write_comparison
from confreg.figures.comparison.places import holds_runs
from confreg.figures.comparison.runs import read_compared_runs
from confreg.figures.page import write_page
from confreg.figures.run_records import ReportError


def main(argv: list[str] | None = None) -> int:
    """Write a page and print where it is; returns the exit code: 0, or 2 where no run can be shown."""
    arguments = _parser().parse_args(argv)
    try:
        page = _write(arguments.runs, arguments.out)
    except ReportError as error:
        print(f"confreg-report: {error}", file=sys.stderr)
        return 2
    print(page)
    return 0


def _write(runs: list[Path], out: Path | None) -> Path:
    if len(runs) == 1 and not holds_runs(runs[0]):
        return write_page(runs[0], out)
    compared = read_compared_runs(runs)
    for run in compared.left_out:
        print(f"confreg-report: {run.name} is not shown: {run.reason}", file=sys.stderr)
    return write_comparison(compared, out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="confreg-report",
        description="Write one static, self-contained HTML page on a run, or on several beside each other: it opens offline.",
        epilog="examples: confreg-report runs/default/seed=0 (one run); confreg-report runs/default (its seeds); confreg-report A B",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folder of a measured run, or a sweep or folder with runs in it")
    where = "default: RUN/report.html; of several runs comparison.html in the folder where they lie"
    parser.add_argument("--out", metavar="FILE", type=Path, help=f"where to write the page ({where})")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('confreg')}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
