"""Training speed through Lightning, with no callbacks and no logger, as a share of a bare PyTorch loop's.

Both sides train the default model on the default language: the same initial weights, batches (each side makes its own, which
counts), optimizer, schedule and clipping. They take turns of a few steps in one process and one thread: whenever Lightning asks
for the first batch of its turn, the bare loop has its turn first. The losses of both must be equal to the bit, or the benchmark
fails: then it would not be the same work.

How to read it: 1.0 means that Lightning and ``LanguageModule`` cost nothing; 0.95 that a step takes 5 % longer. The median is
taken over pairs of neighbouring turns, so that a machine which gets busier or slower does it to both.

    python -m benchmarks.throughput --steps 400 --threads 1
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import machine
from confreg.experiments import assembly
from confreg.experiments.composition import compose_settings
from confreg.languages.synthetic import SyntheticLanguage
from confreg.settings import Settings, SyntheticSettings
from confreg.training.language_module import LanguageModule, next_token_loss

NOTHING_WATCHES = ("callbacks=none", "logger=csv", "logger.csv=false", "trainer=cpu", "trainer.progress_bar=false")
NOTHING_ELSE_RUNS = ("trainer.model_summary=false", "trainer.validation_batches=0")
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
UNTIMED_TURNS = 4  # at the start: allocations, moments of the optimizer, caches


class Alternating(SyntheticLanguage):
    """Lightning's language: before the first batch of each turn it lets the bare loop have a turn, and it holds the watch.

    Args:
        settings: of the language.
        seed: of the run.
        bare_loop: goes on by one step each time.
        turn_steps: steps of a turn.
        now: the watch, in seconds.
    """

    def __init__(
        self, settings: SyntheticSettings, seed: int, bare_loop: Iterator[Tensor], turn_steps: int, now: Callable[[], float]
    ) -> None:
        super().__init__(settings, seed)
        self.bare_loop, self.turn_steps, self.now = bare_loop, turn_steps, now
        self.bare_losses: list[Tensor] = []
        self.seconds: dict[str, list[float]] = {"bare": [], "lightning": []}  # of each turn
        self._n_batches, self._turn_began = 0, 0.0

    def train_blocks(self, indices: Sequence[int]) -> Tensor:
        """The blocks of a batch, perhaps after a turn of the bare loop."""
        if self._n_batches % self.turn_steps == 0:
            began = self.now()
            if self._n_batches:
                self.seconds["lightning"].append(began - self._turn_began)
            self.bare_losses += [next(self.bare_loop) for _ in range(self.turn_steps)]
            self._turn_began = self.now()
            self.seconds["bare"].append(self._turn_began - began)
        self._n_batches += 1
        return super().train_blocks(indices)


class HeardModule(LanguageModule):
    """The module that trains, keeping the loss of each step."""

    losses: list[Tensor]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """As ever."""
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.detach())
        return loss


def bare_training(settings: Settings) -> Iterator[Tensor]:
    """The same training in the fewest lines of PyTorch, one step at a time; the loss of each. With ``trainer.compile`` as that says."""
    language = SyntheticLanguage(settings.data, settings.seed)  # type: ignore[arg-type]
    module = assembly.module_of(settings, language)
    module.on_fit_start()
    chosen = module.configure_optimizers()
    optimizer, schedule = chosen["optimizer"], chosen["lr_scheduler"]["scheduler"]
    # in the optimizer's order, as Lightning has it: a norm is a sum, and a sum in another order has other last bits
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    for batch in assembly.data_of(settings, language, start_step=0).train_dataloader():
        loss = next_token_loss(module(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings.trainer.gradient_clip_norm or torch.inf)
        optimizer.step()
        schedule.step()
        yield loss.detach()


def throughput_ratios(settings: Settings, turn_steps: int, now: Callable[[], float]) -> list[float]:
    """Throughput of Lightning over that of the bare loop, for each pair of neighbouring turns.

    Raises:
        AssertionError: where the two sides did not have the same losses to the bit.
    """
    language = Alternating(settings.data, settings.seed, bare_training(settings), turn_steps, now)  # type: ignore[arg-type]
    module = HeardModule(**assembly.module_of(settings, language).hparams)
    module.losses = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = assembly.trainer_of(settings, Path(folder), callbacks=[], loggers=[])
        trainer.fit(module, datamodule=assembly.data_of(settings, language, start_step=0))
    assert torch.equal(torch.stack(module.losses), torch.stack(language.bare_losses)), "the two sides did different work"
    pairs = zip(language.seconds["bare"], language.seconds["lightning"], strict=False)  # nobody ends Lightning's last turn
    return [bare / lightning for bare, lightning in list(pairs)[UNTIMED_TURNS:]]


def chosen_settings(steps: int, overrides: Sequence[str]) -> Settings:
    """The default run with nothing that watches, and a whole number of turns."""
    settings = compose_settings([*NOTHING_WATCHES, *NOTHING_ELSE_RUNS, *overrides])
    return replace(settings, trainer=replace(settings.trainer, max_steps=steps))


def main() -> None:
    """Print the machine and the median ratio with its quartiles."""
    parser = argparse.ArgumentParser(description="Training speed through Lightning as a share of a bare PyTorch loop's.")
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of each side")
    parser.add_argument("--turn", type=int, default=5, help="steps of a turn")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: of this process, steadier on a busy machine")
    parser.add_argument("overrides", nargs="*", help="of the configuration, as for confreg-train")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*(LeafSpec|does not have many workers).*")
    settings = chosen_settings(chosen.steps - chosen.steps % chosen.turn, chosen.overrides)
    print(machine())
    ratios = throughput_ratios(settings, chosen.turn, CLOCKS[chosen.clock])
    low, median, high = statistics.quantiles(ratios, n=4)
    spread = f"quartiles {low:.3f} and {high:.3f}, {len(ratios)} pairs of turns"
    print(f"throughput by {chosen.clock} time, Lightning / bare loop: median {median:.3f}, {spread}")


if __name__ == "__main__":
    main()
