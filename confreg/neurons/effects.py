"""Effects of replacing one last-layer neuron at a time, exactly, without running the model again.

Replacing an activation changes the residual along one known direction, so the new scale of the final norm and the new logits follow in
closed form. With x the residual, w a neuron's write, s the norm's scale, and δ the change of its activation:

    s'² = s² + (2 δ ⟨Px, w⟩ + δ² |Pw|²) / d_model
    z' = (s / s') ẑ + (δ / s') B + b̃        total
    z + (δ / s) B                            frozen norm: the direct effect
    (s / s') ẑ + b̃                           scale only
    z' + κ u                                 frozen frequency: the component along the unit frequency direction u is kept

Only the change Δ = z' - z enters exponentials, so that effects of 1e-4 nats survive in fp32; where Δ may be large the pair is computed
in float64 from the new logits themselves.

Source: arXiv 2406.16254, Eqs. 4 to 7, for what is measured; the closed form is this project's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from confreg.neurons.ablation import Ablation, Baseline, EffectChanges
from confreg.neurons.large_changes import exact_changes

LARGEST_SMALL_CHANGE = 5.0  # nats; above it, exp - 1 of a single token may swamp the sums in fp32
ELEMENTS_IN_CACHE = 2**19  # position x neuron x vocabulary of one chunk: small enough for a core's cache
TENSORS_OF_A_CHUNK = 6  # temporaries of that size


@dataclass(frozen=True)
class _Prepared:
    """Sums of the baseline that every neuron shares."""

    baseline: Baseline
    weights: Float[Tensor, "position 3 vocab"]  # p, p (z - E z), p (log q - E log q)
    mean_logit: Float[Tensor, "position"]  # E_p ẑ
    frequency: Float[Tensor, "vocab"]  # q
    logits_along_frequency: Float[Tensor, "position"]  # ⟨ẑ, u⟩

    @classmethod
    def of(cls, baseline: Baseline) -> _Prepared:
        logits = baseline.scaled_logits + baseline.output_bias
        p = logits.softmax(-1)
        log_q = baseline.frequency_log_probs
        spread = logits - (p * logits).sum(-1, keepdim=True)
        surprise = log_q - (p @ log_q).unsqueeze(-1)
        return cls(
            baseline,
            torch.stack([p, p * spread, p * surprise], dim=1),
            (p * baseline.scaled_logits).sum(-1),
            log_q.exp(),
            baseline.scaled_logits @ baseline.frequency_direction,
        )

    def part(self, positions: slice) -> _Prepared:
        whole = self.baseline
        part = Baseline(
            whole.scaled_logits[positions],
            whole.output_bias,
            whole.targets[positions],
            whole.scale[positions],
            whole.frequency_log_probs,
            whole.frequency_direction,
        )
        return _Prepared(part, self.weights[positions], self.mean_logit[positions], self.frequency, self.logits_along_frequency[positions])


def effect_changes(baseline: Baseline, ablation: Ablation, memory_bytes: int = 2**29, with_scale_only: bool = True) -> EffectChanges:
    """Exact changes of loss, entropy and both divergences for every pair of position and neuron.

    Args:
        baseline: the unablated prediction.
        ablation: what each neuron's replacement changes.
        memory_bytes: bound on temporaries; a chunk holds at least one position and one neuron.
        with_scale_only: without it ``loss_scale_only`` is None, and a fourth of the exponentials is saved.

    Returns:
        Tensors of the dtype of the logits. A replacement by the activation itself gives zeros.
    """
    prepared, shape = _Prepared.of(baseline), ablation.activation_change.shape
    names = [name for name in EffectChanges.__annotations__ if with_scale_only or name != "loss_scale_only"]
    changes = {name: baseline.scaled_logits.new_empty(shape) for name in names}
    for positions, neurons in _chunks(shape, baseline.scaled_logits, memory_bytes):
        part = _changes_of_chunk(prepared.part(positions), ablation.part(positions, neurons), with_scale_only)
        for name, whole in changes.items():
            whole[positions, neurons] = getattr(part, name)
    scale_only = changes.pop("loss_scale_only", None)
    return EffectChanges(loss_scale_only=scale_only, **changes)


def _chunks(shape: torch.Size, logits: Tensor, memory_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Cut positions x neurons so that a chunk's temporaries fit the memory and, where possible, the cache."""
    n_positions, n_neurons = shape
    elements = min(ELEMENTS_IN_CACHE, memory_bytes // (TENSORS_OF_A_CHUNK * logits.element_size()))
    pairs = max(1, elements // logits.shape[-1])
    neurons = min(n_neurons, pairs)
    positions = max(1, pairs // neurons)
    for first in range(0, n_positions, positions):
        for neuron in range(0, n_neurons, neurons):
            yield slice(first, first + positions), slice(neuron, neuron + neurons)


def _changes_of_chunk(prepared: _Prepared, ablation: Ablation, with_scale_only: bool) -> EffectChanges:
    baseline = prepared.baseline
    new_scale, dtype = ablation.scale(baseline.scale), baseline.scaled_logits.dtype
    shrink = ablation.shrink(baseline.scale, new_scale).to(dtype)
    along = (ablation.activation_change / new_scale).to(dtype)
    frozen_along = (ablation.activation_change / baseline.scale.unsqueeze(1)).to(dtype)
    kept = -shrink * prepared.logits_along_frequency.unsqueeze(1) - along * (ablation.logit_writes @ baseline.frequency_direction)
    total = _Change(prepared, ablation, shrink, along)
    frozen = _Change(prepared, ablation, None, frozen_along)
    loss, entropy, to_frequency = total.loss(), *total.entropy_and_kl_to_frequency()
    changes = EffectChanges(
        loss=loss,
        loss_frozen_norm=frozen.loss(),
        loss_scale_only=_Change(prepared, ablation, shrink, None).loss() if with_scale_only else None,
        loss_frozen_frequency=total.with_frequency(kept).loss(),
        entropy=entropy,
        entropy_frozen_norm=frozen.entropy_and_kl_to_frequency()[0],
        kl_from_frequency=total.kl_from_frequency(),
        kl_to_frequency=to_frequency,
    )
    _recompute_large_changes(changes, baseline, ablation, (shrink, along, frozen_along, kept))
    return changes


class _Change:
    """One variant's change of the logits Δ = shrink ẑ + along B (+ kept u), and its sums over the vocabulary."""

    def __init__(
        self,
        prepared: _Prepared,
        ablation: Ablation,
        shrink: Float[Tensor, "position neuron"] | None,
        along: Float[Tensor, "position neuron"] | None,
    ) -> None:
        self.prepared, self.shrink, self.along, self.writes = prepared, shrink, along, ablation.logit_writes
        baseline = prepared.baseline
        self.logits = self._sum(lambda c: c.unsqueeze(-1) * self.writes, lambda c: c.unsqueeze(-1) * baseline.scaled_logits.unsqueeze(1))
        self.at_target = self.logits.gather(-1, baseline.targets.expand(self.logits.shape[1], -1).T.unsqueeze(-1)).squeeze(-1)
        self.grown = torch.expm1(self.logits)
        self.sums = _weighted_sums(self.grown, prepared.weights)  # Σ p expm1(Δ) of 1, z - E z, log q - E log q
        self.log_partition = torch.log1p(self.sums[:, 0])

    def _sum(self, of_writes: Callable[[Tensor], Tensor], of_logits: Callable[[Tensor], Tensor]) -> Tensor:
        """The linear form in the writes and the baseline logits, whichever are there."""
        terms = ((of_writes, self.along), (of_logits, self.shrink))
        parts = [of(coefficient) for of, coefficient in terms if coefficient is not None]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def with_frequency(self, kept: Float[Tensor, "position neuron"]) -> _Change:
        """The same change with a multiple of the frequency direction put back."""
        changed, direction = object.__new__(_Change), self.prepared.baseline.frequency_direction
        changed.at_target = self.at_target + kept * direction[self.prepared.baseline.targets].unsqueeze(1)
        grown = torch.expm1(self.logits + kept.unsqueeze(-1) * direction)
        changed.log_partition = torch.log1p(_weighted_sums(grown, self.prepared.weights[:, :1])[:, 0])
        return changed

    def loss(self) -> Float[Tensor, "position neuron"]:
        return self.log_partition - self.at_target

    def entropy_and_kl_to_frequency(self) -> tuple[Float[Tensor, "position neuron"], Float[Tensor, "position neuron"]]:
        p = self.prepared.weights[:, :1]
        mean_change = self._sum(lambda c: c * (p[:, 0] @ self.writes.T), lambda c: c * self.prepared.mean_logit.unsqueeze(1))
        tilted_change = _weighted_sums(self.grown * self.logits, p)[:, 0] + mean_change  # Σ p exp(Δ) Δ
        mass = 1 + self.sums[:, 0]
        entropy = self.log_partition - (self.sums[:, 1] + tilted_change) / mass
        return entropy, -entropy - self.sums[:, 2] / mass

    def kl_from_frequency(self) -> Float[Tensor, "position neuron"]:
        q, logits = self.prepared.frequency, self.prepared.baseline.scaled_logits
        mean_change = self._sum(lambda c: c * (self.writes @ q), lambda c: c * (logits @ q).unsqueeze(1))
        return self.log_partition - mean_change


def _weighted_sums(
    values: Float[Tensor, "position neuron vocab"], weights: Float[Tensor, "position sum vocab"]
) -> Float[Tensor, "position sum neuron"]:
    """Sums over the vocabulary under each weight; in this order of factors the matrix product is many times faster."""
    return torch.bmm(weights, values.transpose(1, 2))


def _recompute_large_changes(
    changes: EffectChanges, baseline: Baseline, ablation: Ablation, coefficients: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    """Overwrite the pairs whose logits may change by much, from the new logits in float64."""
    shrink, along, frozen_along, kept = coefficients
    largest_write = ablation.logit_writes.abs().amax(-1)
    bound = (
        shrink.abs() * baseline.scaled_logits.abs().amax(-1, keepdim=True) + torch.maximum(along.abs(), frozen_along.abs()) * largest_write
    )
    bound = bound + kept.abs() * baseline.frequency_direction.abs().amax()
    position, neuron = (~(bound <= LARGEST_SMALL_CHANGE)).nonzero(as_tuple=True)
    step = max(1, ELEMENTS_IN_CACHE // baseline.scaled_logits.shape[-1])
    for start in range(0, len(position), step):
        pair = position[start : start + step], neuron[start : start + step]
        exact = exact_changes(baseline, ablation.logit_writes, pair, tuple(each[pair].double() for each in coefficients))
        for name, values in exact.items():
            if getattr(changes, name) is not None:
                getattr(changes, name)[pair] = values.to(shrink.dtype)
