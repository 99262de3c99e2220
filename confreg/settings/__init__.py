"""The closed, typed configuration: every default and every range, once."""

from confreg.settings.data import DataSettings, SyntheticSettings, SyntheticSource, TextSettings, TextSource
from confreg.settings.mapping import digest, identity, setting_types, settings_from_mapping, settings_to_mapping
from confreg.settings.measure import MeasurementRequest, MeasureSettings, SelectionRules, UniversalRules
from confreg.settings.mixture import MixtureSettings, PartSettings, is_all_synthetic, texts_of
from confreg.settings.model import LoraSettings, ModelChoice, ModelSettings, OptimizerSettings, PretrainedSettings
from confreg.settings.ranges import SettingError, check_ranges, setting
from confreg.settings.run import (
    CallbackSettings,
    ClockSettings,
    LoggerSettings,
    RunSettings,
    Settings,
    TrainerSettings,
    WandbSettings,
)

__all__ = [
    "CallbackSettings",
    "ClockSettings",
    "DataSettings",
    "LoggerSettings",
    "LoraSettings",
    "MeasureSettings",
    "MeasurementRequest",
    "MixtureSettings",
    "ModelChoice",
    "ModelSettings",
    "OptimizerSettings",
    "PartSettings",
    "PretrainedSettings",
    "RunSettings",
    "SelectionRules",
    "SettingError",
    "Settings",
    "SyntheticSettings",
    "SyntheticSource",
    "TextSettings",
    "TextSource",
    "TrainerSettings",
    "UniversalRules",
    "WandbSettings",
    "check_ranges",
    "digest",
    "identity",
    "is_all_synthetic",
    "setting",
    "setting_types",
    "settings_from_mapping",
    "settings_to_mapping",
    "texts_of",
]
