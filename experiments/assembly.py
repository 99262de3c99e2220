"""From the settings to the parts of a training run; what each part does stands elsewhere."""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Checkpoint, ModelSummary, ProgressBar, RichModelSummary, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from torch import Tensor

from confreg.callbacks import ClockWandbLogger, LogRecords, MeasureOnClock, SaveOnClock
from confreg.clock import clock_steps
from confreg.experiments.loggers import extra_loggers
from confreg.experiments.surroundings import trains_on_gpu
from confreg.languages.blocks import Blocks, Language
from confreg.languages.sources import widened
from confreg.languages.token_counts import SeenTokenCounts
from confreg.models.pretrained import architecture_of, check_block_length, open_pretrained
from confreg.records.redaction import redacted
from confreg.records.run_folder import RunFolder, load_settings
from confreg.records.store import RecordStore
from confreg.settings import MeasurementRequest, PretrainedSettings, Settings, settings_to_mapping
from confreg.training.data_module import LanguageBlocks
from confreg.training.language_module import LanguageModule


def steps_of(settings: Settings) -> tuple[int, ...]:
    """The clock of a run."""
    return clock_steps(settings.trainer.max_steps, settings.clock.per_doubling, settings.clock.max_points)


def measured_steps_of(settings: Settings) -> tuple[int, ...]:
    """The optimizer steps at which a run will measure, as far as they are known before."""
    if settings.callbacks.measure_when == "clock":
        return steps_of(settings)
    every, last = min(settings.trainer.validate_every, settings.trainer.max_steps), settings.trainer.max_steps
    return tuple(range(every, last + 1, every))


def n_train_blocks_read(settings: Settings) -> int:
    """Blocks that the whole training reads, over all processes."""
    return settings.trainer.max_steps * settings.trainer.accumulate_batches * settings.blocks_per_batch


def module_of(settings: Settings, language: Language) -> LanguageModule:
    """The LightningModule, with plain values for hyperparameters so that a safe load reads its checkpoints."""
    blocks_per_step = n_train_blocks_read(settings) // settings.trainer.max_steps
    chosen, network = settings.model, None
    if isinstance(chosen, PretrainedSettings):
        network = open_pretrained(chosen, settings.seed)
        check_block_length(network.config, chosen.source, language.block_length)
        widened(language, len(network.get_input_embeddings().weight))  # type: ignore[arg-type]
    module = LanguageModule(
        model=asdict(settings.model),
        optimizer=asdict(settings.optimizer),
        vocabulary_size=language.vocabulary_size,
        block_length=language.block_length,
        max_steps=settings.trainer.max_steps,
        tokens_per_step=blocks_per_step * (language.block_length - 1),
        seed=settings.seed,
        architecture=None if network is None else architecture_of(network),
        network=network,
    )
    module.checkpoints_gradients = settings.trainer.gradient_checkpointing
    module.compiles_training = settings.trainer.compile  # no hyperparameter: a checkpoint is the same with it and without
    return module


def data_of(settings: Settings, language: Language, start_step: int) -> LanguageBlocks:
    """The data from an optimizer step on."""
    trainer = settings.trainer
    return LanguageBlocks(
        language,
        settings.data.batch_size,
        n_batches=trainer.max_steps * trainer.accumulate_batches,
        seed=settings.seed,
        start=start_step * trainer.accumulate_batches,
        repeat=trainer.overfit_batches,
        workers=settings.data.workers,
        validation_batches=trainer.validation_batches,
    )


def callbacks_of(settings: Settings, folder: Path, blocks: Blocks, token_counts: Tensor | SeenTokenCounts) -> list[pl.Callback]:
    """What watches: callbacks from the configuration, then ours in the order of durability: records, checkpoints, mirrors.

    One that averages weights, or stops the training, has then done so before the step is measured and saved.
    """
    chosen, store = settings.callbacks, RecordStore(folder / "records")
    callbacks: list[pl.Callback] = [instantiate(each) for each in chosen.extra.values()]
    if chosen.measure:
        callbacks.append(_measuring(settings, blocks, token_counts, store))
    if chosen.save:
        callbacks.append(SaveOnClock(folder / "checkpoints", steps_of(settings), settings.clock.resume_every))
    if chosen.log:
        callbacks.append(LogRecords(store, config_of(folder)))
    if settings.trainer.progress_bar and not any(isinstance(each, ProgressBar) for each in callbacks):
        callbacks.append(RichProgressBar(leave=True))
    if settings.trainer.model_summary and not any(isinstance(each, ModelSummary) for each in callbacks):
        callbacks.append(RichModelSummary())
    return callbacks


def _measuring(settings: Settings, blocks: Blocks, token_counts: Tensor | SeenTokenCounts, store: RecordStore) -> MeasureOnClock:
    return MeasureOnClock(
        blocks,
        token_counts,
        steps_of(settings),
        partial(_request_at, settings),  # functions that ddp_spawn can send to its processes
        store,
        when=settings.callbacks.measure_when,
        last_request=partial(_request_of_the_last, settings),
    )


def _request_at(settings: Settings, step: int) -> MeasurementRequest:
    return settings.measure.request_at(step, settings.trainer.max_steps, settings.seed)


def _request_of_the_last(settings: Settings, step: int) -> MeasurementRequest:
    return settings.measure.request_at(step, step, settings.seed)


def config_of(folder: Path) -> dict[str, Any]:
    """What loggers are told of a run: its ``config.yaml`` as a plain mapping, secrets redacted."""
    return redacted(settings_to_mapping(load_settings(folder)))


def loggers_of(settings: Settings, folder: RunFolder, start_step: int) -> list[Logger]:
    """Those that were chosen; a resumed run opens a CSV of its own, because Lightning empties one that it finds."""
    config, loggers = config_of(folder.path), list[Logger]()
    name = config["run"]["name"]
    if settings.logger.csv:
        loggers.append(CSVLogger(folder.path, name="csv", version=f"from_step={start_step:08d}"))
    if settings.logger.wandb.mode != "disabled":
        loggers.append(ClockWandbLogger(folder.path, settings.logger.wandb, name, config, on_begin=partial(_note_wandb_run, folder)))
    return [*loggers, *extra_loggers(settings, folder, name)]


def _note_wandb_run(folder: RunFolder, run_id: str, place: Path) -> None:
    """Where each W&B run of a folder lies, at once, so that a killed run is found too; a resumed run has several."""
    runs = folder.read_run_json().get("wandb") or []
    folder.update_run_json(wandb=[*runs, {"id": run_id, "folder": os.path.relpath(place, folder.path)}])


def trainer_of(settings: Settings, folder: Path, callbacks: list[pl.Callback], loggers: list[Logger]) -> pl.Trainer:
    """Lightning's trainer for one long epoch; order, sampling and checkpoints are this project's own.

    So is going on after Slurm took the machine away: Lightning's requeueing would begin the data again with weights in the middle.
    """
    chosen = settings.trainer
    return pl.Trainer(
        accelerator="cuda" if trains_on_gpu(chosen) else "cpu",
        devices=chosen.devices,
        num_nodes=chosen.nodes,
        strategy=chosen.strategy,
        precision=chosen.precision,  # type: ignore[arg-type]
        max_steps=chosen.max_steps,
        max_epochs=1,
        accumulate_grad_batches=chosen.accumulate_batches,
        gradient_clip_val=chosen.gradient_clip_norm,
        val_check_interval=min(chosen.validate_every, chosen.max_steps) * chosen.accumulate_batches,
        limit_val_batches=chosen.validation_batches,
        num_sanity_val_steps=0,
        log_every_n_steps=chosen.log_every,
        deterministic=chosen.deterministic,
        profiler=chosen.profiler,
        callbacks=callbacks,
        logger=loggers or False,
        default_root_dir=folder,
        enable_checkpointing=any(isinstance(each, Checkpoint) for each in callbacks),  # Lightning's own, only where asked for
        enable_progress_bar=any(isinstance(each, ProgressBar) for each in callbacks),
        enable_model_summary=any(isinstance(each, ModelSummary) for each in callbacks),
        use_distributed_sampler=False,
        plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
    )
