"""The effects of single neurons the way the paper's released code computes them: what the ablation suite is timed against.

Written anew after that code, its structure and its operations kept: one sequence at a time, the neurons in chunks of 20; the change is
added to the residual, and the final norm and the whole unembedding follow, once with the norm's own scale and once with the unablated
one. The frozen frequency takes the logits of the first and puts their component along the frequency direction back. Loss, entropy and
divergence each take a log-softmax of their own, as there; ``shared_log_probs`` takes one for all three, which is the best that its
structure allows. Its defects (a KL that is mislabelled on the axes, padding at the last position, a filter that knows model names) are
left out: none of them costs time.

Source: arXiv 2406.16254, released code: ablations/run_and_store_ablation_results.py and run_and_store_unigram_results.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import kl_div
from transformers import PreTrainedModel

from confreg.models.families import final_norm, last_down_projection, output_rows
from confreg.models.readout import ScoredTokens

NEURONS_OF_A_CHUNK = 20
TOKENS_OF_A_SEQUENCE = 256
VARIANTS = {"": "total", "_frozen_norm": "frozen norm", "_frozen_frequency": "frozen frequency"}
EFFECTS = ("loss", "entropy", "kl_from_frequency")
NAMES = tuple(effect + variant for variant in VARIANTS for effect in EFFECTS)

Logits = Float[Tensor, "neuron position vocab"]
Changes = dict[str, Float[Tensor, "position neuron"]]


@dataclass(frozen=True)
class PaperMethod:
    """The method on a model whose final norm is a LayerNorm, such as GPT-2.

    Args:
        model: in evaluation mode.
        log_frequency: of the tokens, smoothed; nats.
        shared_log_probs: one log-softmax for loss, entropy and divergence instead of four passes.
    """

    model: PreTrainedModel
    log_frequency: Float[Tensor, "vocab"]
    shared_log_probs: bool = False

    def changes(self, tokens: ScoredTokens, replacement: Float[Tensor, "neuron"], n_neurons: int | None = None) -> Changes:
        """Loss, entropy and D(P_freq || P_model) after minus before under the three variants, by the names of ``EffectChanges``; nats.

        Args:
            tokens: the scored positions, taken as one sequence after the other.
            replacement: of each activation.
            n_neurons: the first so many; None: all.
        """
        change = (replacement - tokens.activations)[:, :n_neurons]
        sequences = zip(*(each.split(TOKENS_OF_A_SEQUENCE) for each in (tokens.residual, change, tokens.targets)), strict=True)
        with torch.no_grad():
            parts = [self._of_sequence(*sequence) for sequence in sequences]
        return {name: torch.cat([part[name] for part in parts]) for name in NAMES}

    def _of_sequence(
        self, residual: Float[Tensor, "position d_model"], change: Float[Tensor, "position neuron"], targets: Int[Tensor, "position"]
    ) -> Changes:
        logits = self._logits(final_norm(self.model)(residual))
        before = self._effects(logits.unsqueeze(0), targets)
        direction = self.log_frequency - self.log_frequency.mean()
        direction = direction / direction.norm()
        along_direction = logits @ direction
        chunks: list[list[Tensor]] = []
        for residual_chunk in self._replaced(residual, change):
            total = self._logits(final_norm(self.model)(residual_chunk))
            effects = [*self._effects(total, targets), *self._effects(self._logits(self._frozen_norm(residual_chunk, residual)), targets)]
            restored = total + (along_direction - total @ direction).unsqueeze(-1) * direction
            chunks.append([*effects, *self._effects(restored, targets)])
        after = (torch.cat(each) for each in zip(*chunks, strict=True))
        return {name: (changed - was).T for name, changed, was in zip(NAMES, after, before * len(VARIANTS), strict=True)}

    def _replaced(
        self, residual: Float[Tensor, "position d_model"], change: Float[Tensor, "position neuron"]
    ) -> Iterator[Float[Tensor, "chunk position d_model"]]:
        """The residual with one neuron replaced at all positions, for some neurons at once."""
        rows = output_rows(last_down_projection(self.model))
        for start in range(0, change.shape[1], NEURONS_OF_A_CHUNK):
            chunk = slice(start, min(start + NEURONS_OF_A_CHUNK, change.shape[1]))
            added = change[:, chunk].unsqueeze(-1) * rows[chunk]
            yield residual.repeat(added.shape[1], 1, 1) + added.permute(1, 0, 2)

    def _frozen_norm(self, changed: Float[Tensor, "chunk position d_model"], residual: Float[Tensor, "position d_model"]) -> Tensor:
        norm = final_norm(self.model)
        scale = (residual.var(-1, keepdim=True, correction=0) + norm.eps).sqrt()
        return (changed - changed.mean(-1, keepdim=True)) / scale * norm.weight + norm.bias

    def _logits(self, normed: Tensor) -> Tensor:
        return normed @ self.model.get_output_embeddings().weight.T

    def _effects(self, logits: Logits, targets: Int[Tensor, "position"]) -> list[Float[Tensor, "neuron position"]]:
        """Loss, entropy, divergence."""
        at_target = targets.expand(len(logits), -1).unsqueeze(-1)
        log_probs = logits.log_softmax(-1)
        loss = -log_probs.gather(-1, at_target).squeeze(-1)
        if self.shared_log_probs:
            return [
                loss,
                -(log_probs.exp() * log_probs).sum(-1),
                self.log_frequency.exp() @ self.log_frequency - log_probs @ self.log_frequency.exp(),
            ]
        entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1)
        log_probs = logits.log_softmax(-1)
        divergence = kl_div(log_probs, self.log_frequency.expand_as(log_probs), reduction="none", log_target=True).sum(-1)
        return [loss, entropy, divergence]
