"""From overrides to the settings of confreg-measure: its schema carries the request with which the source measured itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra import compose

from confreg.experiments.commands import MEASURE
from confreg.experiments.composition import command_settings, composing, refuse_by_grammar, with_quoted_paths
from confreg.experiments.schemas import register_measure_schema
from confreg.languages.model_sources import ModelSource, is_folder_of_models, is_run
from confreg.records.run_folder import load_settings
from confreg.settings import ModelSettings, SettingError
from confreg.settings.groups import complaints_about_neurons
from confreg.settings.measure_command import MeasureCommandSettings, RepeatedRequest


def compose_measure_settings(overrides: Sequence[str], config_dir: Path | str | None = None) -> MeasureCommandSettings:
    """The settings of one call of confreg-measure; no file or folder is made.

    What the overrides do not say of ``request`` is as in the run that ``source`` names. Without a source the configuration can be
    looked at, with the defaults of every run.

    Raises:
        SettingError: for anything that cannot be used: names the key, what came, what was expected.
        ModelSourceError: where the source is neither a run nor published weights.
    """
    overrides = with_quoted_paths(overrides)
    source = _source_of(overrides)
    run = load_settings(Path(source).expanduser()) if source and is_run(source) else None
    if source and run is None:
        _check_published(source)
    register_measure_schema(None if run is None else RepeatedRequest.own_of(run))
    with composing(overrides, config_dir, MEASURE) as all_overrides:
        refuse_by_grammar(overrides, MEASURE)
        config = compose(MEASURE.name, all_overrides, return_hydra_config=True)
        settings = command_settings(config, overrides, MEASURE)
    assert isinstance(settings, MeasureCommandSettings)
    model = None if run is None else run.model
    foreign = [*complaints_about_neurons(settings.request.groups, model.d_mlp)] if isinstance(model, ModelSettings) else []
    if foreign:
        raise SettingError("\n".join(f"request.{each}" for each in foreign))
    return settings


def _check_published(source: str) -> None:
    """Refuse a path that leads to no weights; what is a name on the hub is seen when it is asked for.

    Raises:
        ModelSourceError: naming it, and what was expected.
    """
    if not is_folder_of_models(Path(source).expanduser()):
        ModelSource.of(source)


def _source_of(overrides: Sequence[str]) -> str:
    """The source as it will be composed, which is needed before: the last one that is given."""
    given = [each.partition("=")[2] for each in overrides if each.startswith("source=")]
    value = given[-1].strip("'\"") if given else ""
    return "" if value in ("null", "None", "???") else value
