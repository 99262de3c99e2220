"""One training run, from its settings to its page."""

from __future__ import annotations

import logging
import shlex
import warnings
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from torch import Tensor

from confreg.callbacks import ClockWandbLogger
from confreg.callbacks.averaged_weights import averages_weights
from confreg.cost import described, estimate_cost
from confreg.experiments import assembly
from confreg.experiments.ending import TERMINATED, NoteEnd, TerminatedError, end_as_slurm_asks, keep_counts
from confreg.experiments.resuming import command_to_go_on, refuse_other_text, state_to_go_on_from, where_to_go_on
from confreg.figures.page import write_page
from confreg.figures.summary import named_neurons_table
from confreg.languages.blocks import Blocks, Language
from confreg.languages.model_sources import ModelSource
from confreg.languages.sources import language_of, measured_blocks
from confreg.languages.token_counts import SeenTokenCounts
from confreg.models.checkpoints import step_of, weights_sha256
from confreg.models.plain_model import effective_model
from confreg.models.runs import save_tokenizer, saved_token_counts
from confreg.models.swaps import swapped_parts
from confreg.records.environment import now, reproducibility
from confreg.records.run_folder import RunFolder
from confreg.settings import PretrainedSettings, Settings
from confreg.training.data_module import LanguageBlocks
from confreg.training.language_module import LanguageModule

PAGE = "report.html"
SAID_TO_EVERYBODY = ("PU available: ", "Tip: For seamless", "Trainer already configured with model summary")
console = Console(stderr=False)


def train(settings: Settings) -> int:
    """Train, measure, save and draw the page; the exit code.

    An interrupted or failed run keeps what is complete and can be resumed.
    """
    with RunFolder.prepare(settings) as folder:
        if folder.is_finished:
            _say(f"{folder.target} is finished already.")
            if not (folder.target / PAGE).exists():
                _draw(settings, folder)
        else:
            _quiet()
            _fit(settings, folder)
    _report(settings, folder)
    return 0


@rank_zero_only
def _draw(settings: Settings, folder: RunFolder, loggers: Sequence[ClockWandbLogger] = (), step: int = 0) -> None:
    """The page, which is part of a complete run, and its copy for W&B, which is still open.

    The page says already that the run is finished; ``run.json`` does when W&B is closed too: one killed in between is a run to go on with.
    """
    if settings.callbacks.measure:
        facts = {} if folder.is_finished else {"status": "finished", "finished": now()}
        page = write_page(folder.path, facts=facts)
        for logger in loggers:
            logger.log_page(page, step)


def _quiet() -> None:
    """Leave out what Lightning says to everybody: other products, accelerators that are not there, its own deprecations."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_about_this_run)
    warnings.filterwarnings(
        "ignore", message=".*(LeafSpec|does not have many workers|smaller than the logging interval|Previous log files).*"
    )


def _is_about_this_run(record: logging.LogRecord) -> bool:
    """What was asked for (a profiler's report, say) passes."""
    return not any(text in record.getMessage() for text in SAID_TO_EVERYBODY)


def _fit(settings: Settings, folder: RunFolder) -> None:
    """Everything between the first and the last step; W&B is closed whatever happens."""
    if settings.trainer.threads:
        torch.set_num_threads(settings.trainer.threads)
    folder.update_run_json(reproducibility=reproducibility())
    language = language_of(settings.data_read, settings.seed)
    module = assembly.module_of(settings, language)
    blocks = measured_blocks(language, settings.measure, settings.seed)
    token_counts = _token_counts(settings, folder, language)
    if folder.is_resumed:
        refuse_other_text(folder, language.facts())
    resume_from = state_to_go_on_from(folder.path / "checkpoints", _say) if folder.is_resumed else None
    start_step = step_of(resume_from) if resume_from else 0
    if folder.is_writer:
        keep_counts(folder, blocks, token_counts)
        save_tokenizer(folder.path, language.tokenizer)
        folder.update_run_json(language=language.facts(), seed=settings.seed, model=_model_facts(settings, module))
        _announce(settings, folder, module, start_step)
    callbacks = assembly.callbacks_of(settings, folder.path, blocks, token_counts)
    callbacks.append(NoteEnd(folder, blocks, token_counts, settings.trainer.max_steps))
    loggers = assembly.loggers_of(settings, folder, start_step)
    trainer = assembly.trainer_of(settings, folder.path, callbacks, loggers)
    _announce_measuring(settings, trainer, module, blocks, token_counts, start_step)
    folder.update_run_json(measured_weights="averaged" if averages_weights(trainer) else "current")
    wandb_loggers = [each for each in loggers if isinstance(each, ClockWandbLogger)]
    try:
        _train_to_the_end(trainer, module, assembly.data_of(settings, language, start_step), resume_from)
        _draw(settings, folder, wandb_loggers, trainer.global_step)
    except BaseException:
        _close(settings, folder, wandb_loggers, succeeded=False)
        raise
    _close(settings, folder, wandb_loggers, succeeded=True)


def _train_to_the_end(trainer: pl.Trainer, module: LanguageModule, data: LanguageBlocks, resume_from: Path | None) -> None:
    try:
        with end_as_slurm_asks():
            trainer.fit(module, datamodule=data, ckpt_path=resume_from)
    except SIGTERMException as error:
        raise TerminatedError(TERMINATED) from error
    except SystemExit as error:  # Lightning's answer to a Ctrl-C
        if trainer.interrupted:
            raise KeyboardInterrupt from error
        raise


def _close(settings: Settings, folder: RunFolder, loggers: Sequence[ClockWandbLogger], succeeded: bool) -> None:
    """Finish the W&B runs and say how to send them (a resumed run has several), and how to go on with a run that stopped."""
    for logger in loggers:
        logger.close(succeeded)
    runs = folder.read_run_json().get("wandb") or []
    if runs and settings.logger.wandb.mode == "offline" and (succeeded or folder.path == folder.target):
        paths = shlex.join(str(folder.target / each["folder"]) for each in runs)
        _say(f"W&B, for those with an account: wandb sync {paths}")
    if not succeeded and folder.path == folder.target:
        _say(f"To go on with this run {where_to_go_on(folder.path / 'checkpoints')}: {command_to_go_on(folder.target)}")


def _token_counts(settings: Settings, folder: RunFolder, language: Language) -> Tensor | SeenTokenCounts:
    """Counts over all that the run reads, or those before each measured step; a resumed run has them already."""
    kept = saved_token_counts(folder.path)
    n_blocks = assembly.n_train_blocks_read(settings)
    if kept is None:
        _say(f"Counting the tokens of the training part ({n_blocks:,} blocks).")
    if settings.frequency == "seen":
        known = kept if isinstance(kept, dict) else None
        return SeenTokenCounts.of(settings, language, known).at(assembly.measured_steps_of(settings))
    return kept if isinstance(kept, Tensor) else language.token_counts(n_blocks)


def _model_facts(settings: Settings, module: LanguageModule) -> dict[str, object]:
    """Its size, whether plain transformers has all of its parts, and the weights that a pretrained one began with."""
    swapped = swapped_parts(module.model, settings.model)
    n_parameters = sum(each.numel() for each in module.parameters())
    facts: dict[str, object] = {"n_parameters": n_parameters, "loads_in_transformers": not swapped, "swapped": swapped}
    if isinstance(settings.model, PretrainedSettings):
        n_trained = sum(each.numel() for each in module.parameters() if each.requires_grad)
        facts |= {"n_trained_parameters": n_trained, "began_with_sha256": weights_sha256(effective_model(module))}
        facts |= {"source_kind": ModelSource.of(settings.model.source, settings.model.revision).kind}
    return facts


@rank_zero_only
def _announce(settings: Settings, folder: RunFolder, module: pl.LightningModule, start_step: int) -> None:
    """Where the run writes, from where it starts, and what it costs in disk."""
    steps = assembly.steps_of(settings)
    weights = sum(each.numel() * each.element_size() for each in module.parameters())
    disk = weights * (len(steps) + 6) if settings.callbacks.save else 0  # two full states: weights and two moments each
    start = (
        f" from step {start_step}" if start_step else " from step 0 again, for it stopped before its first full state" * folder.is_resumed
    )
    cost = f"{len(steps)} clock points, about {disk / 2**20:.0f} MiB of checkpoints"
    _say(f"Run {folder.target}: {settings.trainer.max_steps} optimizer steps{start}, {cost}.")


@rank_zero_only
def _announce_measuring(
    settings: Settings, trainer: pl.Trainer, module: LanguageModule, blocks: Blocks, token_counts: Tensor | SeenTokenCounts, start_step: int
) -> None:
    """What the measurements ahead will take on the run's own device; one process, where several share them."""
    steps = [step for step in assembly.measured_steps_of(settings) if step >= start_step]
    if not settings.callbacks.measure or not steps:
        return
    last, effective = settings.trainer.max_steps, effective_model(module)
    model = deepcopy(effective) if effective is module.model else effective  # what moves to the device is not what is trained
    model.to(trainer.strategy.root_device)  # type: ignore[arg-type]
    each, at_last = (
        estimate_cost(
            model,
            blocks,
            token_counts(step) if callable(token_counts) else token_counts,
            settings.measure.request_at(step, last, settings.seed),
        )
        for step in (steps[0], steps[-1])
    )
    in_all = described(each.seconds * (len(steps) - 1) + at_last.seconds)
    _say(f"Measuring {len(steps)} times: {each} each, {described(at_last.seconds)} the last time; {in_all} in all.")


@rank_zero_only
def _report(settings: Settings, folder: RunFolder) -> None:
    """Where everything is, and which neurons were named."""
    run = folder.target
    if settings.callbacks.measure:
        console.print(named_neurons_table(run))
    page = run / PAGE
    _say(f"Page: {page}" if page.exists() else f"Run folder: {run}")


@rank_zero_only
def _say(text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False)
