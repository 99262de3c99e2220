"""The LightningModule: next-token cross-entropy in nats, AdamW, warm-up and cosine, randomness that depends on the step alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
import torch
from jaxtyping import Float, Int
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric
from transformers import PreTrainedModel

from confreg.models.build import model_from
from confreg.settings import ModelChoice, OptimizerSettings
from confreg.training.data_order import seed_of


def next_token_loss(logits: Float[Tensor, "block token vocab"], tokens: Int[Tensor, "block token"]) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats of every token but the first of each block."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())


def learning_rate_share(step: int, max_steps: int, warmup_steps: int, final_share: float) -> float:
    """Share of the peak learning rate at an optimizer step: linear warm-up, then half a cosine down to the final share."""
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    progress = min(1.0, max(0.0, (step - warmup_steps) / max(1, max_steps - warmup_steps)))
    return warm * (final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress)))


def reseed(seed: int, device: torch.device) -> None:
    """Reseed the generators that a model on this device draws from.

    ``torch.manual_seed`` also writes down a stack trace for every accelerator that is not in use, which takes longer than a small step's
    other overhead together.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)


class LanguageModule(pl.LightningModule):
    """A causal language model in training; the transformers model is ``.model``.

    Args:
        model: what the model is, from scratch or pretrained, as plain values.
        optimizer: settings of AdamW and its schedule, as plain values.
        vocabulary_size: token ids.
        block_length: tokens of a block.
        max_steps: optimizer steps of the whole training, the length of the schedule.
        tokens_per_step: target tokens of one optimizer step over all ranks, for ``tokens_seen``.
        seed: of the initial weights and of every step's randomness.
        architecture: of a pretrained model, the configuration from which a checkpoint builds it again without its source.
        network: the pretrained model itself, when training begins; a checkpoint keeps its weights.
    """

    def __init__(
        self,
        model: dict[str, Any] | ModelChoice,
        optimizer: dict[str, Any] | OptimizerSettings,
        vocabulary_size: int,
        block_length: int,
        max_steps: int,
        tokens_per_step: int,
        seed: int = 0,
        architecture: dict[str, Any] | None = None,
        network: PreTrainedModel | None = None,
    ) -> None:
        super().__init__()
        model = asdict(model) if isinstance(model, ModelChoice) else dict(model)
        optimizer = asdict(optimizer) if isinstance(optimizer, OptimizerSettings) else dict(optimizer)
        self.save_hyperparameters(ignore=["network"])
        self.settings = OptimizerSettings(**optimizer)
        self.max_steps, self.tokens_per_step, self.seed = max_steps, tokens_per_step, seed
        self.model = network or model_from(model, vocabulary_size, block_length, seed, architecture)
        self.loaded_step: int | None = None
        self.compiles_training = self.checkpoints_gradients = False
        self._compiled: Callable[..., Any] | None = None
        self.validation_loss = MeanMetric(nan_strategy="error").set_dtype(torch.float64)
        self.validation_entropy = MeanMetric(nan_strategy="error").set_dtype(torch.float64)

    @property
    def tokens_seen(self) -> int:
        """Target tokens of all optimizer steps done, over all ranks."""
        return (self.global_step or self.loaded_step or 0) * self.tokens_per_step

    def forward(self, tokens: Int[Tensor, "block token"]) -> Float[Tensor, "block token vocab"]:
        """Logits at every position; in training mode by the compiled network, if there is one."""
        network = self._compiled if self._compiled is not None and self.training else self.model
        logits: Tensor = network(input_ids=tokens, use_cache=False).logits
        return logits

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LanguageModule:
        """Constants that no checkpoint keeps (the frequencies of rotary positions) keep their own precision, as transformers opens them.

        Lightning's ``bf16-true`` would round them, and the model would turn its heads otherwise than the one that a checkpoint opens.
        """
        constants = [
            (module, name, module._buffers[name]) for module in self.model.modules() for name in module._non_persistent_buffers_set
        ]
        super()._apply(fn, recurse)
        for module, name, before in constants:
            after = module._buffers[name]
            if before is not None and after is not None and after.dtype != before.dtype:
                module._buffers[name] = before.to(after.device)
        return self

    def on_fit_start(self) -> None:
        """Let ``torch.compile`` make the training steps faster, where ``compiles_training`` is set.

        The model itself stays as it is, with the names of its weights: whoever evaluates, measures, averages or saves has the plain one,
        and nothing is compiled a second time for them. With ``checkpoints_gradients`` training steps keep the activations of block
        boundaries alone.
        """
        if self.checkpoints_gradients:
            recompute = getattr(self.model, "activation_checkpointing_enable", None) or self.model.gradient_checkpointing_enable
            recompute({"use_reentrant": False})  # the second name is that of older versions of transformers
        self._compiled = torch.compile(self.model.forward) if self.compiles_training else None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the step of the weights: Lightning restores its own counter only for training."""
        self.loaded_step = checkpoint["global_step"]

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        """Reseed: dropout depends on (seed, micro-batch, rank) alone, whatever ran in between."""
        number = self.trainer.fit_loop.epoch_loop.total_batch_idx
        reseed(seed_of(self.seed, number * self.trainer.world_size + self.global_rank), self.device)

    def training_step(self, batch: Int[Tensor, "block token"], batch_idx: int) -> Float[Tensor, ""]:
        """Loss of one micro-batch.

        Raises:
            FloatingPointError: where the loss is not finite; the weights are still those before the step.
        """
        loss = next_token_loss(self(batch), batch)
        if not torch.isfinite(loss):
            raise FloatingPointError(self._not_finite("train/loss", loss))
        self.log("train/loss", loss.detach())
        return loss

    def validation_step(self, batch: Int[Tensor, "block token"], batch_idx: int) -> None:
        """Loss and entropy over all predicted positions, in nats.

        Raises:
            FloatingPointError: where one of them is not finite.
        """
        logits = self(batch)
        log_probs = logits[:, :-1].float().log_softmax(-1)
        loss, entropy = next_token_loss(logits, batch), -(log_probs.exp() * log_probs).sum(-1)
        if not (torch.isfinite(loss) and torch.isfinite(entropy).all()):
            raise FloatingPointError(self._not_finite("val/loss", loss))
        self.validation_loss.update(loss, weight=batch[:, 1:].numel())
        self.validation_entropy.update(entropy)
        self.log("val/loss", self.validation_loss, prog_bar=True)
        self.log("val/entropy", self.validation_entropy)

    def _not_finite(self, name: str, value: Tensor) -> str:
        return (
            f"{name} is {value.item()} at optimizer step {self.global_step}; expected finite numbers. "
            "Lower optimizer.learning_rate, or lengthen optimizer.warmup_steps; the checkpoints before this step are whole."
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with warm-up and cosine."""
        chosen = self.settings
        optimizer = AdamW(
            parameter_groups(self.model, chosen.weight_decay),
            lr=chosen.learning_rate,
            betas=(chosen.beta1, chosen.beta2),
            eps=chosen.epsilon,
        )
        schedule = LambdaLR(
            optimizer,
            lambda step: learning_rate_share(step, self.max_steps, chosen.warmup_steps, chosen.final_learning_rate_share),
        )
        # the name is the key of Lightning's LearningRateMonitor: train/learning_rate/matrices and …/vectors
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "train/learning_rate"}}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay; vectors (norms, biases) without."""
    parameters = [each for each in model.parameters() if each.requires_grad]
    return [
        {"name": "matrices", "params": [each for each in parameters if each.ndim > 1], "weight_decay": weight_decay},
        {"name": "vectors", "params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
