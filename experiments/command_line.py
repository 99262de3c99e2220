"""What every command shares: validate first, then let Hydra run the job; errors in a few lines, exit codes that mean something."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser  # the parser that hydra.main itself uses
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from confreg.experiments.commands import COMMANDS, TRAIN, Command
from confreg.experiments.composition import (
    CONFIG_MODULE,
    check_model_names,
    compose_settings,
    settings_of,
    with_quoted_paths,
)
from confreg.experiments.measure_composition import compose_measure_settings
from confreg.experiments.schemas import register_measure_schema, register_schemas
from confreg.experiments.surroundings import check_surroundings
from confreg.experiments.sweep_files import redact_multirun, write_sweep
from confreg.experiments.sweeps import as_override, compare_jobs, job_settings, sweep_folder, sweep_jobs
from confreg.settings import SettingError

Task = Callable[[Any], int | None]  # of the command's own settings
REFUSED, INTERRUPTED = 2, 130  # exit codes


def run_command(name: str, task: Task, argv: Sequence[str] | None = None) -> int:
    """Run a task with the settings of a command line; every flag of Hydra is available.

    Args:
        name: of the command, ``confreg-NAME``, whose primary configuration is ``conf/NAME.yaml``.
        task: gets the checked settings; returns an exit code or None.
        argv: arguments without the program; default those of the process.

    Returns:
        0, the task's own code, 2 for what the user can mend (printed without a traceback), 130 after Ctrl-C.
        Any other exception of the task comes through with its whole traceback.
    """
    arguments = with_quoted_paths(sys.argv[1:] if argv is None else argv)
    try:
        if "--version" in arguments:
            print(f"confreg {metadata.version('confreg')}")
            return 0
        with _as_process_arguments(arguments):
            return _run(COMMANDS[name], task, arguments)
    except KeyboardInterrupt:
        print(f"confreg-{name}: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if not is_mendable(error) or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"confreg-{name}: {error}", file=sys.stderr)
        return REFUSED


def is_mendable(error: Exception) -> bool:
    """Whether an error is about what the user gave or where it is written: then its message is enough.

    These are the errors that confreg itself names (SettingError, TextError, RunFolderError…) and those of the file system.
    """
    is_named_here = isinstance(error, ValueError) and type(error).__module__.split(".")[0] == "confreg"
    return is_named_here or isinstance(error, OSError)


@contextlib.contextmanager
def _as_process_arguments(arguments: list[str]) -> Iterator[None]:
    """Hydra reads ``sys.argv``, and so does Lightning when it starts more processes; the program's own name stays."""
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before


def _run(command: Command, task: Task, arguments: list[str]) -> int:
    flags = get_args_parser().parse_args(arguments)
    _refuse_flags(command, flags)
    config_name = flags.config_name or command.name
    job = _Job(task)
    register_schemas()
    register_measure_schema()
    if flags.multirun:
        _prepare_sweep(job, flags, config_name)
    elif not (flags.help or flags.hydra_help or flags.shell_completion):
        job.settings = _checked_settings(command, flags, config_name)
    try:
        hydra.main(config_path=f"pkg://{CONFIG_MODULE}", config_name=config_name, version_base="1.3")(job)()
    except SystemExit:  # a job of a sweep raised: Hydra has gone on with the others and said so
        _compare(job)
        raise
    _compare(job)
    if job.error is not None:
        raise job.error
    return job.code


def _refuse_flags(command: Command, flags: argparse.Namespace) -> None:
    if flags.config_path is not None or flags.experimental_rerun is not None:
        raise SettingError("--config-path and --experimental-rerun are not available; add presets with --config-dir FOLDER.")
    if flags.config_name in COMMANDS and flags.config_name != command.name:
        raise SettingError(f"--config-name is {flags.config_name}, the configuration of another command: confreg-{flags.config_name}.")
    if flags.multirun and command is not TRAIN:
        raise SettingError(f"-m is not available here; call confreg-{command.name} once for each source.")


def _checked_settings(command: Command, flags: argparse.Namespace, config_name: str) -> Any:
    """The settings of a single job, refused where they cannot be used; measuring checks its source when it begins."""
    if command is not TRAIN:
        return compose_measure_settings(flags.overrides, flags.config_dir)
    settings = compose_settings(flags.overrides, flags.config_dir, config_name)
    check_model_names(settings)
    check_surroundings(settings)
    return settings


def _prepare_sweep(job: _Job, flags: argparse.Namespace, config_name: str) -> None:
    """Validate every job of a sweep, then make its folder and say to Hydra where it is."""
    jobs = sweep_jobs(flags.overrides, flags.config_dir, config_name)
    for _, settings in jobs:
        check_model_names(settings)
        check_surroundings(settings)
    job.sweep, folder = sweep_folder(jobs)
    job.sweep_folder = folder
    write_sweep(folder, jobs)
    if not any(each.startswith("hydra.sweep.dir=") for each in flags.overrides):
        sys.argv.append(as_override("hydra.sweep.dir", folder.as_posix()))


def _compare(job: _Job) -> None:
    """Say where the jobs of a sweep are compared; a page that cannot be written costs a line, not the exit code of the jobs."""
    if job.sweep_folder is None:
        return
    try:
        page = compare_jobs(job.sweep_folder)
    except ValueError as error:
        print(error, file=sys.stderr)
        return
    if page is not None:
        print(f"Comparison: {page}")


@dataclass
class _Job:
    """The task as Hydra calls it; keeps what a single run returned or raised, so that Hydra does not shorten the traceback."""

    task: Task
    settings: Any = None  # of a single job
    sweep: str | None = None
    sweep_folder: Path | None = None
    code: int = 0
    error: Exception | None = field(default=None, repr=False)

    def __call__(self, config: DictConfig) -> None:
        if self.sweep is not None:
            self._one_of_a_sweep(config, self.sweep)
            return
        assert self.settings is not None
        try:
            self.code = self.task(self.settings) or 0
        except Exception as error:
            self.error = error

    def _one_of_a_sweep(self, config: DictConfig, sweep: str) -> None:
        """Say at once what went wrong, and leave it to Hydra to go on with the other jobs and to fail in the end."""
        redact_multirun(Path(HydraConfig.get().sweep.dir))  # Hydra has just written it, before the first job
        try:
            code = self.task(job_settings(settings_of(config), sweep)) or 0
        except Exception as error:
            if is_mendable(error):
                print(error, file=sys.stderr)
            else:
                traceback.print_exc()
            raise
        self.code = max(self.code, code)
