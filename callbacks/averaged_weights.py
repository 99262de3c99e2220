"""Which weights a checkpoint holds while Lightning averages them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import lightning.pytorch as pl
from lightning.pytorch.callbacks import WeightAveraging


def averages_weights(trainer: pl.Trainer) -> bool:
    """Whether a callback of Lightning's (EMA, SWA over steps) keeps averages of the weights."""
    return any(isinstance(each, WeightAveraging) for each in trainer.callbacks)  # type: ignore[attr-defined]


@contextmanager
def checkpointed_weights(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """Within, the module holds the weights that go into the checkpoint of this step: the averages, where Lightning keeps some.

    Lightning puts averages into the ``state_dict`` of its full states, shows them to validation and ends the training with them; this
    uses the exchange that it makes around validation, which copies every value there and back, so that training goes on with the same
    bits. Without averages nothing changes.
    """
    averaging = [each for each in trainer.callbacks if isinstance(each, WeightAveraging)]  # type: ignore[attr-defined]
    for each in averaging:
        each.on_validation_epoch_start(trainer, pl_module)
    try:
        yield
    finally:
        for each in reversed(averaging):
            each.on_validation_epoch_end(trainer, pl_module)
