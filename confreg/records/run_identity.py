"""Which runs are the same, and which are one condition repeated: what identifies a configuration, without and with the seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confreg.settings import identity, settings_from_mapping, settings_to_mapping

SEED = "seed"


def identity_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs share when they are the same, whichever versions wrote them.

    Args:
        config: ``config.yaml`` as a plain mapping.

    Returns:
        Dotted keys and values. A setting that the run's version did not know yet has its default; the configuration of a version that
        this one cannot read stays as it was written. Empty for an empty configuration.
    """
    return identity(_completed(config))


def condition_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs share when they differ in nothing but the seed; the same as ``identity_of`` without it."""
    return {key: value for key, value in identity_of(config).items() if key != SEED}


def _completed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    if not config:
        return {}
    try:
        return settings_to_mapping(settings_from_mapping(config))
    except (ValueError, TypeError, AttributeError):  # SettingError, or groups that are no mappings
        return config
