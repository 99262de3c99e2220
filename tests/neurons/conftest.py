"""A tiny GPT-2's last layer in float64, and the paper's ablations the slow way: through its own final norm and unembedding."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from confreg.neurons.ablation import Ablation, Baseline


@dataclass
class LastLayer:
    """One residual and one set of activations for each position; every neuron is replaced by its own value."""

    model: GPT2LMHeadModel
    residual: Tensor  # [position, d_model]
    activations: Tensor  # [position, neuron]
    replacement: Tensor  # [neuron]
    targets: Tensor  # [position]
    frequency_log_probs: Tensor  # [vocab]

    @property
    def w_out(self) -> Tensor:
        return self.model.transformer.h[-1].mlp.c_proj.weight

    @property
    def frequency_direction(self) -> Tensor:
        centred = self.frequency_log_probs - self.frequency_log_probs.mean()
        return centred / centred.norm()

    def scale(self, residual: Tensor) -> Tensor:
        return (residual.var(-1, correction=0) + self.model.transformer.ln_f.eps).sqrt()

    def logits(self, residual: Tensor, scale: Tensor | None = None) -> Tensor:
        """Through the real modules, or with another scale in the norm."""
        norm = self.model.transformer.ln_f
        if scale is None:
            return self.model.lm_head(norm(residual))
        return self.model.lm_head(norm.weight * (residual - residual.mean()) / scale + norm.bias)

    def slow_changes(self) -> dict[str, Tensor]:
        """Every effect by its definition, one position and one neuron at a time: [position, neuron]."""
        changes: dict[str, Tensor] = {}
        for position, residual in enumerate(self.residual):
            for neuron, write in enumerate(self.w_out):
                changed = residual + (self.replacement[neuron] - self.activations[position, neuron]) * write
                for name, value in self._changes_of_pair(position, residual, changed).items():
                    changes.setdefault(name, torch.zeros(self.activations.shape, dtype=torch.float64))[position, neuron] = value
        return changes

    def _changes_of_pair(self, position: int, residual: Tensor, changed: Tensor) -> dict[str, float]:
        direction, log_q = self.frequency_direction, self.frequency_log_probs.tolist()
        before, after = self.logits(residual), self.logits(changed)
        frozen = self.logits(changed, scale=self.scale(residual))
        scale_only = self.logits(residual, scale=self.scale(changed))
        frozen_frequency = after + (before @ direction - after @ direction) * direction
        target = int(self.targets[position])
        p, new_p, frozen_p = log_softmax(before), log_softmax(after), log_softmax(frozen)
        return {
            "loss": p[target] - new_p[target],
            "loss_frozen_norm": p[target] - frozen_p[target],
            "loss_scale_only": p[target] - log_softmax(scale_only)[target],
            "loss_frozen_frequency": p[target] - log_softmax(frozen_frequency)[target],
            "entropy": entropy(new_p) - entropy(p),
            "entropy_frozen_norm": entropy(frozen_p) - entropy(p),
            "kl_from_frequency": divergence(log_q, new_p) - divergence(log_q, p),
            "kl_to_frequency": divergence(new_p, log_q) - divergence(p, log_q),
        }

    def fast_inputs(self, dtype: torch.dtype = torch.float64) -> tuple[Baseline, Ablation]:
        """The same, as the closed form takes it; computed in float64 and rounded."""
        norm, weight = self.model.transformer.ln_f, self.model.lm_head.weight
        effective = weight * norm.weight
        effective = effective - effective.mean(1, keepdim=True)
        effective = effective - effective.mean(0)
        bias, w_out = weight @ norm.bias, self.w_out - self.w_out.mean(1, keepdim=True)
        centred, scale = self.residual - self.residual.mean(1, keepdim=True), self.scale(self.residual)
        scaled_logits = centred @ effective.T / scale.unsqueeze(1)
        logits, bias, scale = (each.to(dtype) for each in (scaled_logits, bias - bias.mean(), scale))
        baseline = Baseline(logits, bias, self.targets, scale, self.frequency_log_probs.to(dtype), self.frequency_direction.to(dtype))
        parts = (self.replacement - self.activations, centred @ w_out.T, w_out.norm(dim=1), w_out @ effective.T)
        return baseline, Ablation(*(each.to(dtype) for each in parts), d_model=w_out.shape[1])


def log_softmax(logits: Tensor) -> list[float]:
    values = logits.tolist()
    largest = max(values)
    partition = largest + math.log(sum(math.exp(each - largest) for each in values))
    return [each - partition for each in values]


def entropy(log_probs: list[float]) -> float:
    return -sum(math.exp(each) * each for each in log_probs)


def divergence(first: list[float], second: list[float]) -> float:
    """D(first || second) of two lists of log-probabilities."""
    return sum(math.exp(a) * (a - b) for a, b in zip(first, second, strict=True))


@pytest.fixture
def make_last_layer() -> Callable[..., LastLayer]:
    """A function that draws such a layer; ``writes`` and ``unembedding`` scale the neurons' writes and the logits."""

    def make(*, writes: float = 1.0, unembedding: float = 1.0, tied: bool = False, n_positions: int = 6, n_neurons: int = 5, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        sizes = {"vocab_size": 13, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_inner": n_neurons, "n_positions": 8}
        model = GPT2LMHeadModel(GPT2Config(**sizes, tie_word_embeddings=tied, bos_token_id=None, eos_token_id=None)).double().eval()
        model.requires_grad_(False)
        for parameter in (model.lm_head.weight, model.transformer.ln_f.bias):
            parameter.copy_(normal(*parameter.shape))
        model.lm_head.weight.mul_(unembedding)
        model.transformer.ln_f.weight.copy_(1 + 0.5 * normal(8))
        model.transformer.h[-1].mlp.c_proj.weight.copy_(writes * normal(n_neurons, 8))
        counts = torch.randint(0, 1000, (13,), generator=generator).double() + 1
        targets = torch.randint(0, 13, (n_positions,), generator=generator)
        return LastLayer(
            model, normal(n_positions, 8) + 0.3, normal(n_positions, n_neurons), normal(n_neurons), targets, (counts / counts.sum()).log()
        )

    return make
