"""Confidence regulation in language models: train, measure, watch.

The front door: ``measure`` a model on ``Blocks`` by a ``MeasurementRequest`` (what that takes: ``estimate_cost``), ``open_run``
what a run measured, and ``save_pretrained`` its model for plain transformers. For callbacks in a project of one's own: ``clock_steps`` says
when, a ``RecordStore`` keeps the tables.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from confreg.clock import clock_steps
    from confreg.cost import estimate_cost
    from confreg.languages.blocks import Blocks
    from confreg.measurement import measure
    from confreg.models.export import save_pretrained
    from confreg.models.runs import open_run
    from confreg.records.store import RecordStore
    from confreg.settings import MeasurementRequest

__all__ = ["Blocks", "MeasurementRequest", "RecordStore", "clock_steps", "estimate_cost", "measure", "open_run", "save_pretrained"]

_HOMES = {
    "Blocks": "confreg.languages.blocks",
    "MeasurementRequest": "confreg.settings",
    "RecordStore": "confreg.records.store",
    "clock_steps": "confreg.clock",
    "estimate_cost": "confreg.cost",
    "measure": "confreg.measurement",
    "open_run": "confreg.models.runs",
    "save_pretrained": "confreg.models.export",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the page and ``--help`` need neither torch nor transformers."""
    if name == "__version__":
        return version("confreg")
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'confreg' has no attribute {name!r}; it has {', '.join(__all__)}.")
