"""The dataclasses of confreg.settings as Hydra's schemas: what is not a field of theirs cannot be configured."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from confreg.settings import Settings
from confreg.settings.mapping import KINDS
from confreg.settings.measure_command import MeasureCommandSettings, RepeatedRequest


def register_schemas() -> None:
    """Make ``settings_schema``, ``schema/data/KIND`` and ``schema/model/KIND`` known to Hydra; again does no harm.

    The root's ``data`` and ``model`` are missing on purpose: OmegaConf cannot replace one subclass by another, only fill a gap.
    """
    store = ConfigStore.instance()
    store.store(name="settings_schema", node=Settings(data=MISSING, model=MISSING))
    for part, kinds in KINDS.items():
        for name, kind in kinds.items():
            store.store(group=f"schema/{part}", name=name, node=kind)


def register_measure_schema(request: RepeatedRequest | None = None) -> None:
    """Make ``measure_schema`` known to Hydra, with this request as its default; the last one that was registered counts."""
    node = MeasureCommandSettings(request=request or RepeatedRequest())
    ConfigStore.instance().store(name="measure_schema", node=node)
