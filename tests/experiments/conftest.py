"""One composed configuration for many refusals: composing anew for each would take a minute."""

import copy

import pytest
from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser

from confreg.experiments.composition import REFUSALS, composing, settings_of
from confreg.experiments.explanations import explain
from confreg.settings import SettingError


@pytest.fixture(autouse=True)
def _no_debugger(monkeypatch):
    """Hydra takes a measurement of coverage for a debugger, and then lets a job's error through instead of ending with 1."""
    monkeypatch.setattr("hydra._internal.utils.is_under_debugger", lambda: False)


@pytest.fixture(scope="session")
def composed():
    with composing([], None):
        return compose("train")


@pytest.fixture
def recompose(composed):
    """Settings after more overrides, the way Hydra applies them to a composed configuration."""

    def with_overrides(*overrides):
        config = copy.deepcopy(composed)
        try:
            ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(list(overrides)), config)
            return settings_of(config, overrides)
        except SettingError:
            raise
        except REFUSALS as error:
            raise SettingError(explain(error, overrides, None)) from error

    return with_overrides
