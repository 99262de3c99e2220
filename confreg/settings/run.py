"""The whole configuration of a training run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from confreg.settings.data import DataSettings, SyntheticSettings, TextSettings
from confreg.settings.groups import complaints_about_neurons
from confreg.settings.measure import MeasureSettings
from confreg.settings.model import ModelChoice, ModelSettings, OptimizerSettings, PretrainedSettings
from confreg.settings.ranges import setting
from confreg.settings.targets import complaints_about_callbacks, complaints_about_loggers

LARGEST_SEED = 2**63 - 1  # of torch's generators
LONGEST_PART = 200  # bytes of one folder's name: file systems allow 255, and a hidden sibling needs some of them


@dataclass
class ClockSettings:
    """At which optimizer steps a run saves and measures: step 0, log-spaced steps, the last."""

    per_doubling: int = setting(2, at_least=1)
    max_points: int | None = setting(None, at_least=2)  # None: all of them; a limit keeps the first steps and the last
    resume_every: int = setting(256, at_least=1)  # optimizer steps between full states; the last two are kept


@dataclass
class CallbackSettings:
    """What watches the training."""

    measure: bool = True
    measure_when: str = setting("clock", choices=("clock", "validation"))
    save: bool = True
    log: bool = True
    extra: dict[str, Any] = field(default_factory=dict)  # name -> {_target_: lightning.pytorch.callbacks.…, …}

    def complaints(self) -> Iterator[str]:
        yield from complaints_about_callbacks(self.extra, "extra")


@dataclass
class WandbSettings:
    """Weights & Biases; offline needs no account."""

    mode: str = setting("offline", choices=("offline", "online", "disabled"))
    project: str = "confreg"
    entity: str | None = None
    group: str | None = None  # None: in a sweep the sweep's name, else no group
    job_type: str = "train"
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    top_neurons: int = setting(16, at_least=0, at_most=1000)  # rows of each clock step's table; 0: no tables
    histogram_bins: int = setting(32, at_least=0, at_most=512)  # of each clock step's histograms over the neurons; 0: none
    page: bool = True  # the finished page of the run, about 5 MB
    init_timeout_s: float = setting(30.0, above=0.0)  # seconds to wait for W&B's server at the beginning; online only
    finish_timeout_s: float = setting(600.0, above=0.0)  # and at the end, for all to be sent; what is not stays on disk


@dataclass
class LoggerSettings:
    """Where scalars go beside the records."""

    csv: bool = True
    wandb: WandbSettings = field(default_factory=WandbSettings)
    extra: dict[str, Any] = field(default_factory=dict)  # name -> {_target_: lightning.pytorch.loggers.…, …}

    def complaints(self) -> Iterator[str]:
        yield from complaints_about_loggers(self.extra, "extra")


@dataclass
class TrainerSettings:
    """How Lightning trains."""

    max_steps: int = setting(1024, at_least=1)  # optimizer steps
    accumulate_batches: int = setting(1, at_least=1)  # micro-batches in one optimizer step
    gradient_clip_norm: float | None = setting(1.0, above=0.0)
    precision: str = setting("32-true", choices=("32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"))
    accelerator: str = setting("auto", choices=("auto", "cpu", "cuda", "gpu"))  # auto: cuda where there is one; MPS has no float64
    devices: int = setting(1, at_least=1)
    nodes: int = setting(1, at_least=1)
    strategy: str = setting("auto", choices=("auto", "ddp", "ddp_spawn", "ddp_fork"))
    gradient_checkpointing: bool = False  # compute activations again in the backward pass: less memory, more time, the same numbers
    compile: bool = False  # torch.compile of the network in training steps; measurements and validation read it uncompiled
    deterministic: bool = False  # torch's deterministic algorithms
    threads: int | None = setting(None, at_least=1)  # CPU threads; None keeps torch's own choice; it changes bits
    validate_every: int = setting(256, at_least=1)  # optimizer steps
    validation_batches: int = setting(2, at_least=0)  # 0: no validation
    overfit_batches: int = setting(0, at_least=0)  # 0: all data; n: the same n batches again and again
    log_every: int = setting(10, at_least=1)  # optimizer steps between rows of train/loss
    profiler: str | None = setting(None, choices=("simple", "advanced"))
    progress_bar: bool = True
    model_summary: bool = True


@dataclass
class RunSettings:
    """Where a run lives."""

    root: str = "runs"  # folder of all runs
    name: str | None = None  # folder below root; None: experiment/date_time.microseconds
    experiment: str = "train"  # first part of the default name
    replace: bool = False  # train anew beside an existing run and take its place when complete

    def complaints(self) -> Iterator[str]:
        if not self.root.strip():
            yield "root is empty; expected a folder, such as runs."
        for name in ("name", "experiment"):
            value = getattr(self, name)
            if value is not None and not is_safe_name(value):
                yield f"{name} is {value!r}; expected a folder below run.root: parts divided by /, none empty, none starting with a dot."


def is_safe_name(name: str) -> bool:
    """Whether a run's name stays below the root: a relative path of printable parts that neither climb nor hide."""
    parts = name.split("/")
    plain = name.isprintable() and "\\" not in name
    return plain and all(0 < len(part.encode()) <= LONGEST_PART and part == part.strip() and part[0] not in ".~" for part in parts)


@dataclass
class Settings:
    """One training run, closed and typed."""

    data: DataSettings = field(default_factory=SyntheticSettings)
    model: ModelChoice = field(default_factory=ModelSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    clock: ClockSettings = field(default_factory=ClockSettings)
    measure: MeasureSettings = field(default_factory=MeasureSettings)
    callbacks: CallbackSettings = field(default_factory=CallbackSettings)
    logger: LoggerSettings = field(default_factory=LoggerSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    run: RunSettings = field(default_factory=RunSettings)
    frequency: str = setting("corpus", choices=("corpus", "seen"))  # tokens counted: the training part, or those read before each step
    seed: int = setting(0, at_least=0, at_most=LARGEST_SEED)
    resume: str | None = None  # a run folder to go on with

    @property
    def blocks_per_batch(self) -> int:
        """Blocks of one micro-batch, over all processes."""
        return self.data.batch_size * self.trainer.devices * self.trainer.nodes

    @property
    def data_read(self) -> DataSettings:
        """The data as the model reads it: text in the tokens of a pretrained model, unless it names a tokenizer of its own."""
        data, model = self.data, self.model
        if isinstance(model, PretrainedSettings) and isinstance(data, TextSettings) and data.tokenizer is None:
            return replace(data, tokenizer=model.tokenizer or model.source)
        return data

    def complaints(self) -> Iterator[str]:
        if isinstance(self.model, ModelSettings):
            for text in complaints_about_neurons(self.measure.request.groups, self.model.d_mlp):
                yield f"measure.request.{text}"
        elif not isinstance(self.data, TextSettings | SyntheticSettings):
            kind = type(self.data).__name__
            yield f"model is pretrained and data is {kind}; expected data=text, in the model's tokens, or a synthetic language of its size."
        if self.callbacks.measure and self.callbacks.measure_when == "validation" and self.trainer.validation_batches == 0:
            yield "callbacks.measure_when is 'validation' and trainer.validation_batches is 0; expected at least 1, or the clock."
