"""Models of a given shape whose single neurons matter as much as those of trained ones: what the ablation suite costs depends on it.

The suite expands in the change of the logits, so that a benchmark on tiny changes would flatter it. Measured in trained models, the
quantiles over pairs of position and neuron of the largest change of a logit, nats:

    quantile             10 %     50 %     90 %    99 %   99.9 %    max     entropy of the prediction
    default, step 0     1.6e-3   0.008    0.021   0.039   0.059   0.09      5.5
    default, step 1024  5.7e-4   0.004    0.070   0.46    0.77    3.7       4.5
    sotu, step 1000     5.4e-3   0.036    0.15    0.52    1.2     4.1       3.3

``trained`` lies between the last two in the middle and with both of them at the upper end, which decides the cost; ``far`` is ten times
that; ``untrained`` is the configuration's own initialisation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from confreg import Blocks
from confreg.models.families import last_down_projection, output_rows
from confreg.models.readout import Readout, ScoredTokens, capture
from confreg.neurons.frequency import Frequency

QUANTILES = (0.1, 0.5, 0.9, 0.99, 0.999, 1.0)
KINDS = ("untrained", "trained", "far")
MEDIAN_CHANGE = 0.02  # nats
TIMES_FAR = 10
SPREAD_OF_NEURONS = 1.1  # standard deviation of the logarithm of their sizes, as measured: 0.9 and 1.4
ENTROPY_NATS = 4.0
TOKENS_OF_A_BLOCK = 128


@dataclass(frozen=True)
class Shape:
    """Of a GPT-2."""

    vocabulary: int
    neurons: int
    d_model: int
    positions: int  # scored ones
    layers: int = 2

    def blocks(self, generator: torch.Generator) -> Blocks:
        """Random tokens; every position but the last of a block is scored, up to the number wanted."""
        n_blocks = math.ceil(self.positions / (TOKENS_OF_A_BLOCK - 1))
        measured = torch.randint(self.vocabulary, (n_blocks, TOKENS_OF_A_BLOCK), generator=generator)
        scored = torch.ones_like(measured, dtype=torch.bool)
        scored[:, -1] = False
        scored &= (scored.flatten().cumsum(0) <= self.positions).view_as(scored)
        reference = torch.randint(self.vocabulary, (4, TOKENS_OF_A_BLOCK), generator=generator)
        return Blocks(reference=reference, measured=measured, scored=scored)

    def config(self, is_tied: bool) -> GPT2Config:
        """With as many heads as GPT-2 has for its width."""
        sizes = {"vocab_size": self.vocabulary, "n_embd": self.d_model, "n_inner": self.neurons, "n_positions": TOKENS_OF_A_BLOCK}
        sizes |= {"bos_token_id": 0, "eos_token_id": 0}
        return GPT2Config(**sizes, n_layer=self.layers, n_head=max(1, self.d_model // 64), tie_word_embeddings=is_tied)


@dataclass(frozen=True)
class Case:
    """A model, what it is measured on, and its last layer's tokens."""

    model: PreTrainedModel
    blocks: Blocks
    token_counts: Int[Tensor, "vocab"]
    readout: Readout
    frequency: Frequency
    tokens: ScoredTokens
    replacement: Float[Tensor, "*position neuron"]  # the same at all positions, or one for each

    @classmethod
    def of(cls, model: PreTrainedModel, blocks: Blocks, token_counts: Int[Tensor, "vocab"], n_positions: int | None = None) -> Case:
        """One forward pass over the blocks; of the scored positions the first so many."""
        model.eval()
        readout = Readout.of(model)
        frequency = Frequency.of(token_counts, len(readout.unembedding), like=readout.unembedding)
        replacement = capture(model, blocks.reference).activations.flatten(0, 1).mean(0)
        scored = blocks.scored_positions()
        scored &= (scored.flatten().cumsum(0) <= (n_positions or scored.numel())).view_as(scored)
        tokens = capture(model, blocks.measured).at(scored, blocks.measured, blocks.clusters())
        return cls(model, blocks, token_counts, readout, frequency, tokens, replacement)

    def largest_changes(self, n_pairs: int = 2000) -> Float[Tensor, "pair"]:
        """Of a logit around its mean under the prediction, for the total effect of some random pairs; nats, from the definition."""
        generator = torch.Generator().manual_seed(0)
        n_positions, n_neurons = self.tokens.activations.shape
        position = torch.randint(n_positions, (n_pairs,), generator=generator)
        neuron = torch.randint(n_neurons, (n_pairs,), generator=generator)
        change = (self.replacement - self.tokens.activations)[position, neuron].unsqueeze(-1)
        rows = output_rows(last_down_projection(self.model))
        largest = []
        with torch.no_grad():
            for part in torch.arange(n_pairs).split(100):
                before = self.tokens.residual[position[part]]
                after = before + change[part] * rows[neuron[part]]
                logits, changed = (self._scaled_logits(residual) for residual in (before, after))
                moved = changed - logits
                p = (logits + self.readout.output_bias).softmax(-1)
                largest.append((moved - (p * moved).sum(-1, keepdim=True)).abs().amax(-1))
        return torch.cat(largest)

    def _scaled_logits(self, residual: Float[Tensor, "pair d_model"]) -> Float[Tensor, "pair vocab"]:
        return residual / self.readout.norm.scale(residual).unsqueeze(-1).to(residual.dtype) @ self.readout.to_logits.T


def zipf_counts(vocabulary: int) -> Int[Tensor, "vocab"]:
    """Token counts that fall as one over the rank; the most frequent token comes first."""
    return (10_000_000 / torch.arange(1, vocabulary + 1)).long()


def shaped_case(shape: Shape, kind: str, seed: int = 0) -> Case:
    """A GPT-2 of random weights whose neurons change the logits as far as the kind says.

    Args:
        shape: of the model and the sample.
        kind: ``untrained``, ``trained`` or ``far``.
        seed: of weights and tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks, counts = shape.blocks(generator), zipf_counts(shape.vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = GPT2LMHeadModel(shape.config(is_tied=kind == "untrained")).eval()
    if kind != "untrained":
        with torch.no_grad():
            _shape_prediction(model, counts, generator)
            _shape_neurons(model, blocks, counts, generator)
            blocks = replace(blocks, measured=_continued(model, blocks.measured[:, :1], generator))
    case = Case.of(model, blocks, counts)
    if kind == "far":
        activations = case.tokens.activations
        case = replace(case, replacement=activations + TIMES_FAR * (case.replacement - activations))
    return case


def _continued(model: GPT2LMHeadModel, tokens: Int[Tensor, "block 1"], generator: torch.Generator) -> Int[Tensor, "block token"]:
    """Text that the model itself writes: what it predicts comes true as often as it says, as in training."""
    past = None
    while tokens.shape[1] < TOKENS_OF_A_BLOCK:
        output = model(input_ids=tokens if past is None else tokens[:, -1:], past_key_values=past, use_cache=True)
        past, probability = output.past_key_values, output.logits[:, -1].softmax(-1)
        tokens = torch.cat((tokens, torch.multinomial(probability, 1, generator=generator)), dim=1)
    return tokens


def _shape_prediction(model: GPT2LMHeadModel, counts: Tensor, generator: torch.Generator) -> None:
    """Normal logits of the wanted entropy around half of the tokens' log-frequency; the frequency is one direction of the unembedding."""
    log_frequency = counts.double().log().float()
    log_frequency -= log_frequency.mean()
    n_tokens, d_model = model.lm_head.weight.shape
    spread = math.sqrt(2 * max(0.5, math.log(n_tokens) - ENTROPY_NATS - 0.5))
    along = torch.randn(d_model, generator=generator)
    along = along / along.norm()
    weight = torch.randn(n_tokens, d_model, generator=generator) * (spread / math.sqrt(d_model))
    model.lm_head.weight.copy_(weight + 0.25 * torch.outer(log_frequency, along))
    model.transformer.ln_f.bias.copy_(2 * along)


def _shape_neurons(model: GPT2LMHeadModel, blocks: Blocks, counts: Tensor, generator: torch.Generator) -> None:
    """Inputs as wide as in training, writes of log-normal sizes, and all of them scaled until the median change is the wanted one."""
    mlp = model.transformer.h[-1].mlp
    mlp.c_fc.weight.mul_(1 / (0.02 * math.sqrt(mlp.c_fc.weight.shape[0])))
    mlp.c_proj.weight.mul_((SPREAD_OF_NEURONS * torch.randn(len(mlp.c_proj.weight), 1, generator=generator)).exp())
    for _ in range(8):  # larger writes make a larger residual, and so smaller changes
        mlp.c_proj.weight.mul_(MEDIAN_CHANGE / Case.of(model, blocks, counts).largest_changes().median())
