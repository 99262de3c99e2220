"""What every page shares: its frame with the security policy, data that may stand inside HTML, a file that is complete or absent."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from confreg.figures.run_records import ReportError
from confreg.records.durable import write_text_durably


def text_of(name: str) -> str:
    """A template, style or script that lies beside this module, by its path from here."""
    return (files("confreg.figures") / name).read_text(encoding="utf-8")


def framed(main: str, *, title: str, styles: Iterable[str], scripts: Iterable[str], data: dict[str, Any]) -> str:
    """A whole page with everything in it: it opens offline, and the browser itself refuses every request.

    Args:
        main: what is seen, as HTML.
        title: as plain text.
        styles: names of files, in this order.
        scripts: names of files, in this order; plotly comes before them.
        data: what the scripts draw.
    """
    return Template(text_of("frame.html")).substitute(
        title=escape(title),
        style="\n".join(map(text_of, styles)),
        main=main,
        data=json_in_html(data),
        plotly=get_plotlyjs(),
        script="\n".join(map(text_of, scripts)),
    )


def json_in_html(data: dict[str, Any]) -> str:
    """JSON for a script element: "</script>" in a name would end it, "<!--" would change how the rest is read, so no "<" stays."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def write_html(target: Path, html: str) -> Path:
    """Write a page, complete or not at all.

    Raises:
        ReportError: the file cannot be written.
    """
    try:
        write_text_durably(target, html)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ReportError(
            f"{target} cannot be written ({reason}); expected a file in a folder that exists. Choose another --out."
        ) from error
    return target
