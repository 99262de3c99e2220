"""From the settings to the parts of a training run; what each part does stands elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.utils import instantiate
from lightning.pytorch.callbacks import RichModelSummary, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger

from confreg.callbacks import ClockWandbLogger, LogRecords, MeasureOnClock, SaveOnClock
from confreg.clock import clock_steps
from confreg.languages.blocks import Blocks, Language
from confreg.records.run_folder import RunFolder
from confreg.records.store import RecordStore
from confreg.settings import Settings
from confreg.training.data_module import LanguageBlocks
from confreg.training.language_module import LanguageModule


def steps_of(settings: Settings) -> tuple[int, ...]:
    """The clock of a run."""
    return clock_steps(settings.trainer.max_steps, settings.clock.per_doubling, settings.clock.max_points)


def world_size_of(settings: Settings) -> int:
    """Processes that train together."""
    return settings.trainer.devices * settings.trainer.nodes


def n_train_blocks_read(settings: Settings) -> int:
    """Blocks that the whole training reads, over all processes."""
    trainer = settings.trainer
    return trainer.max_steps * trainer.accumulate_batches * settings.data.batch_size * world_size_of(settings)


def module_of(settings: Settings, language: Language) -> LanguageModule:
    """The LightningModule, with plain values for hyperparameters so that a safe load reads its checkpoints."""
    blocks_per_step = n_train_blocks_read(settings) // settings.trainer.max_steps
    return LanguageModule(
        model=asdict(settings.model),
        optimizer=asdict(settings.optimizer),
        vocabulary_size=language.vocabulary_size,
        block_length=language.block_length,
        max_steps=settings.trainer.max_steps,
        tokens_per_step=blocks_per_step * (language.block_length - 1),
        seed=settings.seed,
    )


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


def callbacks_of(settings: Settings, folder: Path, blocks: Blocks, token_counts: Any) -> list[pl.Callback]:
    """What watches, in the order of durability: records, then checkpoints, then the mirrors."""
    chosen, steps, store = settings.callbacks, steps_of(settings), RecordStore(folder / "records")
    callbacks: list[pl.Callback] = []
    if chosen.measure:
        last, seed, preset = settings.trainer.max_steps, settings.seed, settings.measure
        callbacks.append(
            MeasureOnClock(blocks, token_counts, steps, lambda step: preset.request_at(step, last, seed), store, when=chosen.measure_when)
        )
    if chosen.save:
        callbacks.append(SaveOnClock(folder / "checkpoints", steps, settings.clock.resume_every))
    if chosen.log:
        callbacks.append(LogRecords(store))
    callbacks += [instantiate(each) for each in chosen.extra.values()]
    if settings.trainer.progress_bar:
        callbacks.append(RichProgressBar(leave=True))
    if settings.trainer.model_summary:
        callbacks.append(RichModelSummary())
    return callbacks


def loggers_of(settings: Settings, folder: RunFolder, config: dict[str, Any], start_step: int) -> list[Logger]:
    """CSV and W&B, as chosen; a resumed run opens a CSV of its own, because Lightning empties one that it finds."""
    loggers: list[Logger] = []
    if settings.logger.csv:
        loggers.append(CSVLogger(folder.path, name="csv", version=f"from_step={start_step:08d}"))
    if settings.logger.wandb.mode != "disabled":
        loggers.append(ClockWandbLogger(folder.path, settings.logger.wandb, config["run"]["name"], config))
    return loggers


def trainer_of(settings: Settings, folder: Path, callbacks: list[pl.Callback], loggers: list[Logger]) -> pl.Trainer:
    """Lightning's trainer for one long epoch; order, sampling and checkpoints are this project's own."""
    chosen = settings.trainer
    return pl.Trainer(
        accelerator=chosen.accelerator,
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
        enable_checkpointing=False,
        enable_progress_bar=chosen.progress_bar,
        enable_model_summary=chosen.model_summary,
        use_distributed_sampler=False,
    )
