"""The closed form of the last layer, piece by piece, against the model itself: the first piece that fails is the suspect."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from confreg.interventions import suspicions
from confreg.interventions.replacing import Intervention, replaced
from confreg.interventions.suspicions import SelfCheckError, relative_error
from confreg.models.families import family_of, final_norm, gated_parts, n_layers
from confreg.models.readout import Captured, Readout, ScoredTokens, capture
from confreg.neurons.ablation import Ablation, Baseline
from confreg.neurons.effects import effect_changes
from confreg.neurons.frequency import Frequency
from confreg.neurons.predictions import entropy_nats, loss_nats


def check_last_layer(model: PreTrainedModel, tokens: Int[Tensor, "block token"], tolerance: float, condition: str = "") -> None:
    """Compare what the readout and the closed form say with what the model does.

    Args:
        model: in evaluation mode.
        tokens: every position is looked at.
        tolerance: of errors, relative to the largest value of what is compared.
        condition: words for the message: in which state the model is.

    Raises:
        SelfCheckError: at the first piece that fails.
    """
    checks = _LastLayer.of(model, tokens, tolerance, condition)
    if not checks.captured.logits.isfinite().all():  # a training that diverged: there is nothing to compare
        return
    checks.check_gate()
    checks.check_final_norm()
    checks.check_head()
    checks.check_readout()
    with replaced(model, [Intervention(n_layers(model) - 1, checks.value, neurons=(checks.neuron,))]):
        after = capture(model, tokens)
    if after.logits.isfinite().all():  # else a write as large as the residual is more than fp32 holds
        checks.check_write(after)
        checks.check_effects(after)


@dataclass(frozen=True)
class _LastLayer:
    """A model, what one pass of it left at all positions, and the write that is to be predicted."""

    model: PreTrainedModel
    block_tokens: Int[Tensor, "block token"]
    tolerance: float
    condition: str
    readout: Readout
    captured: Captured
    tokens: ScoredTokens
    baseline: Baseline
    neuron: int  # that with the largest write
    value: float  # that replaces its activation: then it writes about as much as the whole residual

    @classmethod
    def of(cls, model: PreTrainedModel, tokens: Int[Tensor, "block token"], tolerance: float, condition: str) -> _LastLayer:
        readout, captured = Readout.of(model), capture(model, tokens)
        everywhere, documents = torch.ones_like(tokens, dtype=torch.bool), torch.arange(len(tokens), device=tokens.device)
        scored = captured.at(everywhere, tokens, documents)
        frequency = Frequency.of(torch.ones(captured.logits.shape[-1], dtype=torch.int64), captured.logits.shape[-1], like=scored.residual)
        sizes = readout.w_out.norm(dim=-1)
        neuron, residual = int(sizes.argmax()), readout.norm.centred(scored.residual).norm(dim=-1).mean()
        value = scored.activations[:, neuron].mean() + residual / sizes.max().clamp(min=1e-30)
        baseline = readout.baseline(scored, frequency)
        return cls(model, tokens, tolerance, condition, readout, captured, scored, baseline, neuron, value.item())

    def _compare(self, what: str, actual: Tensor, expected: Tensor, size: Tensor | None, suspicion: Callable[[], str]) -> None:
        error = relative_error(actual, expected, size)
        if not error <= self.tolerance:
            raise SelfCheckError(self.condition + what, suspicion(), error, self.tolerance)

    def check_gate(self) -> None:
        """A gated MLP's neuron is act(gate) * up."""
        parts, seen = gated_parts(self.model, n_layers(self.model) - 1), dict[str, Tensor]()
        if parts is None:
            return
        with ExitStack() as hooks:
            for name, module in parts.items():
                handle = module.register_forward_hook(lambda _module, _inputs, output, name=name: seen.update({name: output}))
                hooks.callback(handle.remove)
            self.model(input_ids=self.block_tokens, use_cache=False)
        suspicion = "the gated MLP: a fused kernel, or something between the gate and the down projection"
        if seen.keys() != parts.keys():
            raise SelfCheckError(f"{self.condition}the gate of the last MLP is never called", suspicion)
        expected = seen["activation"] * seen["up"]
        self._compare("a neuron of the last MLP is not act(gate) * up", self.captured.activations, expected, None, lambda: suspicion)

    def check_final_norm(self) -> None:
        """What the final norm was read to be is what it does."""
        actual, reading = final_norm(self.model)(self.tokens.residual), self.readout.norm
        expected = reading.applied(self.tokens.residual, self.baseline.scale)
        bias, what = 0.0 if reading.bias is None else reading.bias, "the final norm does not do what was read of it"
        self._compare(what, actual, expected, None, lambda: suspicions.of_the_final_norm(actual - bias, expected - bias, self.tolerance))

    def check_head(self) -> None:
        """The logits are the unembedding of the normed residual, times the multiplier, under the soft-cap."""
        family, config = family_of(self.model), self.model.config
        cap, logits = family.softcap(config), self.captured.logits.flatten(0, 1)
        head = self.model.get_output_embeddings()
        expected = family.logit_multiplier(config) * head(final_norm(self.model)(self.tokens.residual))
        expected = expected if cap is None else cap * torch.tanh(expected / cap)
        what = "the logits are not what the unembedding makes of the normed residual"
        self._compare(what, logits, expected, logits, lambda: suspicions.of_the_head(logits, expected, self.tolerance))

    def check_readout(self) -> None:
        """The readout rebuilds the prediction."""
        what, suspicion = "the readout does not rebuild the logits", "the folding of gain, bias or multiplier in confreg.models.readout"
        logits = self.captured.logits.flatten(0, 1)
        self._compare(what, _centred(logits), _centred(self.baseline.logits()), logits, lambda: suspicion)

    def check_write(self, after: Captured) -> None:
        """The residual moves along the neuron's row, by as much as its activation changes."""
        change, centred = self._ablation(), self.readout.norm.centred
        actual = centred((after.residual - self.captured.residual).flatten(0, 1))
        expected = change.write_change * self.readout.w_out[self.neuron]
        if change.post is not None and self.readout.post_mlp_norm is not None and self.tokens.mlp_output is not None:
            expected = expected + change.post.norm_change * centred(self.readout.post_mlp_norm.normed(self.tokens.mlp_output))
        size, changes = torch.cat([self.tokens.residual, expected]), change.activation_change
        what = f"a large write of neuron {self.neuron} does not move the residual as its row of the down projection says"
        self._compare(what, actual, expected, size, lambda: suspicions.of_the_write(actual / changes, expected / changes, self.tolerance))

    def check_effects(self, after: Captured) -> None:
        """The prediction changes as the closed form says: its new logits, and the changes of loss and entropy that are measured."""
        change, before, logits = self._ablation(), self.baseline, after.logits.flatten(0, 1)
        new_scale = change.scale(before.scale)
        scaled = before.scaled_logits if change.post is None else before.scaled_logits + change.post.norm_change * change.post.logits
        positions = torch.arange(len(logits), device=logits.device)
        written = change.write_change / new_scale * change.writes.rows(positions, torch.zeros_like(positions))
        scaled = (1 + change.shrink(before.scale, new_scale)) * scaled + written
        predicted = replace(before, scaled_logits=scaled.to(before.scaled_logits)).logits()
        what = f"a large write of neuron {self.neuron} does not change the logits by the predicted amount"
        suspicion = "the final norm's scale after the write (its epsilon, a clamp), or the closed form in confreg.neurons"
        self._compare(what, _centred(logits), _centred(predicted), logits, lambda: suspicion)
        changes, new, old = effect_changes(before, change), logits.log_softmax(-1), self.tokens.log_probs
        what, suspicion = (
            f"a large write of neuron {self.neuron} does not change the {{}} as computed",
            "the sums over the vocabulary in confreg.neurons.effects, on this machine",
        )
        actual = loss_nats(new, before.targets) - loss_nats(old, before.targets)
        self._compare(what.format("loss"), actual, changes.loss[:, 0], new, lambda: suspicion)
        actual = entropy_nats(new) - entropy_nats(old)
        self._compare(what.format("entropy"), actual, changes.entropy[:, 0], new, lambda: suspicion)

    def _ablation(self) -> Ablation:
        """What the closed form says of the one neuron."""
        replacement = self.tokens.activations.new_zeros(len(self.readout.w_out))
        replacement[self.neuron] = self.value
        whole = self.readout.ablation(self.tokens, replacement, self.readout.writes(self.readout.w_out))
        return whole.part(slice(None), slice(self.neuron, self.neuron + 1))


def _centred(logits: Tensor) -> Tensor:
    """Without their mean over the vocabulary, on which no prediction depends."""
    return logits - logits.mean(-1, keepdim=True)
