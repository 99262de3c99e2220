# %% [markdown]
# # The callbacks in a project of your own
#
# Your LightningModule, your data, your Trainer: three callbacks measure, save and log on one clock. The module only has to keep a
# transformers causal language model as `.model` (or to be measured through one: see `confreg.measure`).
# Run it with `python docs/examples/own_project.py`; it takes some seconds and writes into `./own_project`.

# %%
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel

from confreg import Blocks, MeasurementRequest, RecordStore, clock_steps
from confreg.callbacks import LogRecords, MeasureOnClock, SaveOnClock

FOLDER, MAX_STEPS, VOCABULARY_SIZE = Path("own_project"), 60, 64


class MyModule(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        config = GPT2Config(
            vocab_size=VOCABULARY_SIZE, n_positions=32, n_embd=32, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None
        )
        self.model = GPT2LMHeadModel(config)

    def training_step(self, batch, _):
        loss = self.model(input_ids=batch[0], labels=batch[0]).loss
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


# %% [markdown]
# ## Your token ids
# Two held-out parts: replacement values come from the first, effects from the second. Here: random walks over the vocabulary.

# %%
generator = torch.Generator().manual_seed(0)
pl.seed_everything(0, verbose=False)


def walks(n_blocks: int) -> torch.Tensor:
    """Token ids, block x token: each step goes a few ids up or down."""
    moves = torch.randint(-2, 3, (n_blocks, 32), generator=generator)
    return (torch.randint(VOCABULARY_SIZE, (n_blocks, 1), generator=generator) + moves.cumsum(1)) % VOCABULARY_SIZE


train = walks(2048)
blocks = Blocks(reference=walks(16), measured=walks(32))  # each block its own document: the clusters of the standard errors
token_counts = torch.bincount(train.flatten(), minlength=VOCABULARY_SIZE)

# %% [markdown]
# ## One clock for measuring, saving and logging
# Step 0, two steps in each doubling, the last. Measuring changes nothing: the training has the same losses without the callbacks.

# %%
steps, store = clock_steps(MAX_STEPS, per_doubling=2), RecordStore(FOLDER / "records")
callbacks = [
    MeasureOnClock(blocks, token_counts, steps, MeasurementRequest(control_draws=1), store),
    SaveOnClock(FOLDER / "checkpoints", steps, resume_every=MAX_STEPS),  # behind MeasureOnClock: records are durable first
    LogRecords(store),
]
trainer = pl.Trainer(max_steps=MAX_STEPS, accelerator="cpu", callbacks=callbacks, logger=CSVLogger(FOLDER), enable_checkpointing=False)
trainer.fit(MyModule(), DataLoader(TensorDataset(train), batch_size=16, shuffle=True))

# %%
rows = store.read("model").to_pandas()
print(rows[["step", "loss_nats", "entropy_nats", "n_entropy_neurons", "n_frequency_neurons"]].to_string(index=False))

# %% [markdown]
# ## The suite as a validation hook
# With `when="validation"` it runs after every validation instead, also under `trainer.validate` of a checkpoint:
#
#     trainer = pl.Trainer(callbacks=[MeasureOnClock(blocks, token_counts, when="validation", store=store)])
#     trainer.validate(module, validation_loader, ckpt_path="own_project/checkpoints/step=00000032.ckpt")
#
# `callback.latest` holds the records of the last measurement. The page of such a folder: `confreg-report own_project`.
