"""What every page shares: data that may stand inside HTML, and a file that is complete or absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from confreg.figures.run_records import ReportError
from confreg.records.durable import write_text_durably


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
