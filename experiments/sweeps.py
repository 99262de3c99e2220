"""A sweep: every job validated before the first one starts, each in a folder named by its own configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # its expansion of choices is the one that will run
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from confreg.experiments.composition import compose_settings, composing
from confreg.records.run_place import target_of
from confreg.settings import SettingError, Settings, digest, settings_to_mapping


def sweep_jobs(overrides: Sequence[str], config_dir: Path | str | None, config_name: str) -> list[tuple[list[str], Settings]]:
    """Overrides and settings of every job of a sweep.

    Choices of a sweeper other than Hydra's own are known to it alone: then only what is fixed is validated.

    Raises:
        SettingError: for the first job that cannot run; it names the job.
    """
    if any(each.startswith("resume=") for each in overrides):
        raise SettingError("resume came together with -m; go on with one run at a time, or repeat the sweep under its run.name.")
    jobs = []
    for job in _expanded(overrides, config_dir):
        try:
            settings = compose_settings(job, config_dir, config_name)
            _refuse_relaunching(settings)
        except SettingError as error:
            raise SettingError(f"{error}\nIn the job: {' '.join(job)}") from error
        jobs.append((job, settings))
    return jobs


def _expanded(overrides: Sequence[str], config_dir: Path | str | None) -> list[list[str]]:
    with composing(overrides, config_dir):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        parsed = parser.parse_overrides(list(overrides))
        if any(each.startswith("hydra/sweeper=") for each in overrides):
            parsed = [each for each in parsed if not each.is_sweep_override()]
        return [list(job) for job in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]]


def _refuse_relaunching(settings: Settings) -> None:
    """Lightning's ddp starts the whole command again in each process, the sweep included; ranks then train different jobs."""
    trainer = settings.trainer
    if trainer.strategy in ("auto", "ddp") and trainer.devices * trainer.nodes > 1:  # auto is ddp where there are several processes
        raise SettingError(
            f"trainer.strategy is {trainer.strategy} in a sweep of runs with several processes each; expected ddp_spawn or ddp_fork, which "
            "do not start the command again."
        )


def sweep_folder(jobs: list[tuple[list[str], Settings]]) -> tuple[str, Path]:
    """Name and folder of a sweep: ``run.root/run.name``, or one named by the time."""
    run = jobs[0][1].run
    folder = target_of(run)
    return folder.relative_to(run.root).as_posix(), folder


def job_settings(settings: Settings, sweep: str) -> Settings:
    """The settings of one job in its own folder, ``run.root/SWEEP/8 hex digits``: a repeated sweep finds what is done.

    W&B shows the jobs as one group, named like the sweep unless the settings name it.
    """
    wandb = replace(settings.logger.wandb, group=settings.logger.wandb.group or sweep)
    run = replace(settings.run, name=f"{sweep}/{digest(settings_to_mapping(settings))}")
    return replace(settings, run=run, logger=replace(settings.logger, wandb=wandb))


def compare_jobs(sweep: Path) -> Path | None:
    """The page that compares the jobs of a sweep, written anew; None while fewer than two of them have finished.

    Raises:
        ReportError: the page cannot be written.
    """
    from confreg.figures.comparison.page import write_comparison  # pandas and plotly: not for those who only ask for --help
    from confreg.figures.comparison.runs import read_compared_runs
    from confreg.figures.run_records import ReportError

    try:
        compared = read_compared_runs([sweep])
    except ReportError:  # nothing was measured
        return None
    return write_comparison(compared) if sum(run.is_finished for run in compared.runs) > 1 else None


def as_override(key: str, value: str) -> str:
    """An override whose value is one quoted string, whatever characters it has."""
    quoted = value.replace("'", "\\'")
    return f"{key}='{quoted}'"
