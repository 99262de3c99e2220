"""Confidence regulation in language models: train, measure, watch.

The front door: ``measure`` a model on ``Blocks`` by a ``MeasurementRequest``, and ``open_run`` what a run measured.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from confreg.languages.blocks import Blocks
    from confreg.measurement import measure
    from confreg.models.runs import open_run
    from confreg.settings import MeasurementRequest

__all__ = ["Blocks", "MeasurementRequest", "measure", "open_run"]

_HOMES = {
    "Blocks": "confreg.languages.blocks",
    "MeasurementRequest": "confreg.settings",
    "measure": "confreg.measurement",
    "open_run": "confreg.models.runs",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the page and ``--help`` need neither torch nor transformers."""
    if name == "__version__":
        return version("confreg")
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'confreg' has no attribute {name!r}; it has {', '.join(__all__)}.")
