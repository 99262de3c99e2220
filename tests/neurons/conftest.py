"""A tiny GPT-2's last layer in float64, and the paper's ablations the slow way: through its own final norm and unembedding."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from confreg.neurons.ablation import Ablation, Baseline
from confreg.neurons.writes import NeuronWrites


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

    def _changes_of_pair(self, position: int, residual: Tensor, changed: Tensor) -> dict[str, Tensor]:
        variants = {
            "total": self.logits(changed),
            "frozen_norm": self.logits(changed, scale=self.scale(residual)),
            "scale_only": self.logits(residual, scale=self.scale(changed)),
        }
        return changes_by_definition(self.logits(residual), variants, self.targets[position], self.frequency_log_probs)

    def fast_inputs(self, dtype: torch.dtype = torch.float64) -> tuple[Baseline, Ablation]:
        """The same, as a readout gives it to the closed form: all that a scale is made of stays in float64."""
        norm, weight = self.model.transformer.ln_f, self.model.lm_head.weight
        effective = weight * norm.weight
        effective = effective - effective.mean(1, keepdim=True)
        effective = effective - effective.mean(0)
        bias, w_out = weight @ norm.bias, self.w_out - self.w_out.mean(1, keepdim=True)
        centred, scale = self.residual - self.residual.mean(1, keepdim=True), self.scale(self.residual)
        scaled_logits, bias = (centred @ effective.T / scale.unsqueeze(1)).to(dtype), (bias - bias.mean()).to(dtype)
        baseline = Baseline(
            scaled_logits, bias, self.targets, scale, self.frequency_log_probs.to(dtype), self.frequency_direction.to(dtype)
        )
        writes, change = NeuronWrites(w_out.to(dtype), effective.to(dtype)), (self.replacement - self.activations).to(dtype)
        return baseline, Ablation(change, centred @ w_out.T, w_out.norm(dim=1), writes, d_model=w_out.shape[1])


def changes_by_definition(before: Tensor, variants: dict[str, Tensor], targets: Tensor, log_q: Tensor) -> dict[str, Tensor]:
    """Every effect by the names of ``EffectChanges``, from whole logits [*position, vocab] before and after, in nats.

    The paper's frozen frequency: the component along the centred log-frequencies is put back to what it was.
    """
    total, direction = variants["total"], log_q - log_q.mean()
    kept = ((before - total) @ direction).unsqueeze(-1) * direction / direction.square().sum()
    p = before.log_softmax(-1)
    after = {name: each.log_softmax(-1) for name, each in {**variants, "frozen_frequency": total + kept}.items()}
    target = targets.unsqueeze(-1)
    changes = {
        "argmax": (total.argmax(-1) != before.argmax(-1)).double(),
        "reciprocal_rank": 1 / (1 + rank(total, target)) - 1 / (1 + rank(before, target)),
        "divergence": divergence(p, after["total"]),
        "divergence_from_temperature": divergence_from_temperature(before, after["total"]),
        "kl_to_frequency": divergence(after["total"], log_q) - divergence(p, log_q),
    }
    for name, new in after.items():
        path = "" if name == "total" else f"_{name}"
        changes[f"loss{path}"] = (p - new).gather(-1, target).squeeze(-1)
        changes[f"entropy{path}"] = entropy(new) - entropy(p)
        changes[f"kl_from_frequency{path}"] = divergence(log_q, new) - divergence(log_q, p)
    return {name: each for name, each in changes.items() if name not in ("entropy_scale_only", "kl_from_frequency_scale_only")}


def rank(logits: Tensor, target: Tensor) -> Tensor:
    return (logits > logits.gather(-1, target)).sum(-1).double()


def entropy(log_probs: Tensor) -> Tensor:
    return -(log_probs.exp() * log_probs).sum(-1)


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """D(first || second) of log-probabilities."""
    return (first.exp() * (first - second)).sum(-1)


def divergence_from_temperature(logits: Tensor, after: Tensor) -> Tensor:
    """Smallest divergence of any temperature of a prediction from another one: over a grid of β > 0, then by golden sections."""

    def at(beta: Tensor) -> Tensor:
        return divergence((beta.unsqueeze(-1) * logits).log_softmax(-1), after)

    grid = torch.linspace(-18, 6, 401, dtype=logits.dtype).exp()
    betas = grid.reshape(-1, *[1] * (logits.ndim - 1)).expand(-1, *logits.shape[:-1])
    best = at(betas).argmin(0, keepdim=True)
    low, high = (betas.gather(0, (best + step).clamp(0, len(grid) - 1))[0] for step in (-1, 1))
    golden = (5**0.5 - 1) / 2
    for _ in range(60):
        left, right = high - golden * (high - low), low + golden * (high - low)
        is_left = at(left) < at(right)
        low, high = torch.where(is_left, low, left), torch.where(is_left, right, high)
    return torch.minimum(at((low + high) / 2), divergence(logits.log_softmax(-1), after))


@pytest.fixture
def by_definition() -> Callable[..., dict[str, Tensor]]:
    """The function that says what every effect is."""
    return changes_by_definition


@pytest.fixture
def make_last_layer() -> Callable[..., LastLayer]:
    """A function that draws such a layer; ``writes`` and ``unembedding`` scale the neurons' writes and the logits."""

    def make(
        *, writes: float = 1.0, unembedding: float = 1.0, n_positions: int = 6, n_neurons: int = 5, n_vocabulary: int = 13, seed: int = 0
    ) -> LastLayer:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        sizes = {"vocab_size": n_vocabulary, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_inner": n_neurons, "n_positions": 8}
        model = GPT2LMHeadModel(GPT2Config(**sizes, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None)).double().eval()
        model.requires_grad_(False)
        for parameter in (model.lm_head.weight, model.transformer.ln_f.bias):
            parameter.copy_(normal(*parameter.shape))
        model.lm_head.weight.mul_(unembedding)
        model.transformer.ln_f.weight.copy_(1 + 0.5 * normal(8))
        model.transformer.h[-1].mlp.c_proj.weight.copy_(writes * normal(n_neurons, 8))
        counts = torch.randint(0, 1000, (n_vocabulary,), generator=generator).double() + 1
        targets = torch.randint(0, n_vocabulary, (n_positions,), generator=generator)
        return LastLayer(
            model, normal(n_positions, 8) + 0.3, normal(n_positions, n_neurons), normal(n_neurons), targets, (counts / counts.sum()).log()
        )

    return make


@pytest.fixture
def in_dtype() -> Callable[..., tuple[Baseline, Ablation]]:
    """A function that takes what a fast closed form in fp32 is given into another dtype, its rounding included."""

    def converted(baseline: Baseline, ablation: Ablation, dtype: torch.dtype) -> tuple[Baseline, Ablation]:
        parts = ("scaled_logits", "output_bias", "frequency_log_probs", "frequency_direction")
        writes = NeuronWrites(ablation.writes.w_out.to(dtype), ablation.writes.unembedding.to(dtype))
        return (
            replace(baseline, **{name: getattr(baseline, name).to(dtype) for name in parts}),
            replace(ablation, activation_change=ablation.activation_change.to(dtype), writes=writes),
        )

    return converted
