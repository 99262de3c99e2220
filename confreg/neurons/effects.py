"""Effects of replacing last-layer neurons one at a time, or in groups, exactly, without running the model again.

Replacing an activation changes the residual along one known direction, so the new scale of the final norm and the new logits follow in
closed form. With x the residual, w a neuron's write, s the norm's scale, and δ the change of its activation:

    s'² = s² + (2 δ ⟨Px, w⟩ + δ² |Pw|²) / d_model
    z' = (s / s') ẑ + (δ / s') B + b̃        total
    z + (δ / s) B                            frozen norm: the direct effect
    (s / s') ẑ + b̃                           scale only
    z' + κ u                                 frozen frequency: the component along the unit frequency direction u is kept

The change of the logits is small at almost every pair of position and neuron. There its effects are power series whose coefficients are
moments, computed for all pairs at once by matrix products (``moments``, ``series``), to an order whose error is bounded beforehand
(``orders``). The other pairs take their whole rows of logits (``exact``), as do all pairs of a model whose logits are no linear function
of the write (a soft-cap, a norm after the MLP) and groups of neurons.

Source: arXiv 2406.16254, Eqs. 4 to 7, for what is measured; the closed form and the series are this project's own.
"""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Bool
from torch import Tensor

from confreg.neurons.ablation import Ablation, Baseline, EffectChanges, Wanted
from confreg.neurons.exact import exact_changes
from confreg.neurons.expanded import Changes, expanded_changes
from confreg.neurons.fields import PositionFields
from confreg.neurons.moments import Moments, SharedMoments
from confreg.neurons.orders import cheapest_orders, reaches
from confreg.neurons.ranks import Neighbours, reciprocal_rank_change
from confreg.neurons.reach import Extent, Reach
from confreg.neurons.series import Coefficients
from confreg.neurons.temperatures import Temperatures
from confreg.neurons.writes import NeuronWrites, slices

MOST_POSITIONS = 1024  # at once
ELEMENTS_OF_ROWS = 2**18  # pair x vocabulary at once: small enough for a core's cache
TENSORS_OF_A_PAIR = 300  # moments and their sums, at the highest order
TENSORS_OF_A_POSITION = 12  # of the vocabulary's size


def effect_changes(baseline: Baseline, ablation: Ablation, memory_bytes: int = 2**29, wanted: Wanted | None = None) -> EffectChanges:
    """Exact changes for every pair of position and neuron: :class:`Effects` of one ablation alone."""
    return Effects(baseline, memory_bytes).of(ablation, wanted)


class Effects:
    """Effects at some positions; what several ablations there share is computed once.

    Args:
        baseline: the unablated prediction.
        memory_bytes: bound on temporaries; a part holds at least one position and one neuron.
    """

    def __init__(self, baseline: Baseline, memory_bytes: int = 2**29) -> None:
        self.baseline, self.memory_bytes = baseline, memory_bytes
        (n_positions, n_vocabulary), size = baseline.scaled_logits.shape, baseline.scaled_logits.element_size()
        n_at_once = min(MOST_POSITIONS, memory_bytes // 2 // (TENSORS_OF_A_POSITION * size * n_vocabulary))
        self.parts = {(part.start, part.stop): _Positions(baseline.part(part)) for part in slices(n_positions, n_at_once)}

    def of(self, ablation: Ablation, wanted: Wanted | None = None) -> EffectChanges:
        """Exact changes for every pair of position and neuron.

        Args:
            ablation: what each neuron's (or group's) replacement changes.
            wanted: which of the changes; default: all of the neurons table.

        Returns:
            Tensors of the dtype of the logits. A replacement by the activation itself gives zeros.
        """
        wanted, shape = wanted or Wanted(), ablation.activation_change.shape
        changes = {name: self.baseline.scaled_logits.new_empty(shape) for name in wanted.names()}
        for neurons in slices(shape[1], self._neurons_at_once(ablation)):  # what they write to all tokens is computed once for all parts
            some = ablation.part(slice(None), neurons).prepared()
            for (start, stop), there in self.parts.items():
                for name, values in _changes(there, some.part(slice(start, stop), slice(None)), wanted).items():
                    changes[name][start:stop, neurons] = values
                if len(self.parts) > 1:
                    there.forget_the_vocabulary()
        return EffectChanges(**changes)

    def _neurons_at_once(self, ablation: Ablation) -> int:
        """As many as the memory holds with the longest part, and whose writes are kept."""
        longest = max((stop - start for start, stop in self.parts), default=1)
        fitting = self.memory_bytes // 2 // (TENSORS_OF_A_PAIR * self.baseline.scaled_logits.element_size() * longest)
        return min(fitting, ablation.writes.most_at_once)


class _Positions:
    """Some positions, with what several ablations need of them."""

    def __init__(self, baseline: Baseline) -> None:
        self.baseline = baseline

    @cached_property
    def fields(self) -> PositionFields:
        return PositionFields.of(self.baseline)

    def forget_the_vocabulary(self) -> None:
        """Give up what is as large as the logits and can be computed again."""
        for name in ("near_target", "near_top"):
            self.__dict__.pop(name, None)
        self.fields.forget_the_vocabulary()

    @cached_property
    def near_target(self) -> Neighbours:
        return Neighbours(self.fields, self.baseline.targets)

    @cached_property
    def near_top(self) -> Neighbours:
        return Neighbours(self.fields, self.fields.top)

    @cached_property
    def rank(self) -> Tensor:
        """Tokens above the target."""
        logits = self.baseline.logits()
        return (logits > logits.gather(-1, self.baseline.targets.unsqueeze(-1))).sum(-1, keepdim=True)

    def shared_moments(self, writes: NeuronWrites, every_variant: bool) -> SharedMoments:
        """Those that all neurons with this unembedding share."""
        known = self.__dict__.get("_shared")
        if known is None or known.unembedding is not writes.unembedding or known.every_variant != every_variant:
            known = self.__dict__["_shared"] = SharedMoments(self.fields, writes.unembedding, every_variant)
        return known


def _changes(there: _Positions, ablation: Ablation, wanted: Wanted) -> Changes:
    """All changes of some positions and neurons."""
    at = coefficients(there.fields, ablation)
    changes = {name: at.scaled.new_empty(at.scaled.shape) for name in wanted.names()}
    is_done = torch.zeros_like(at.scaled, dtype=torch.bool)
    writes = _linear_writes(there, ablation)
    if writes is not None:
        reach = Reach.of(there.fields, writes, at)
        is_done = _fill_from_series(changes, there, (writes, at, reach.every), wanted)
    position, neuron = (~is_done).nonzero(as_tuple=True)
    for part in slices(len(position), ELEMENTS_OF_ROWS // there.fields.baseline.scaled_logits.shape[1]):
        pair = position[part], neuron[part]
        for name, values in exact_changes(there.fields, ablation, at, pair, wanted, writes is None).items():
            changes[name][pair] = values
    if wanted.temperature and writes is not None:
        changes["divergence_from_temperature"][~is_done] = torch.nan
        nearby = changes["divergence_from_temperature"]
        Temperatures(there.fields, writes, at).improve(nearby, changes["divergence"], reach.total)
    return changes


def _linear_writes(there: _Positions, ablation: Ablation) -> NeuronWrites | None:
    """The writes, where the change of the logits is linear in them."""
    is_linear = ablation.post is None and there.baseline.softcap is None
    return ablation.writes if is_linear and isinstance(ablation.writes, NeuronWrites) else None


def _fill_from_series(
    changes: Changes, there: _Positions, of_pairs: tuple[NeuronWrites, Coefficients, Extent], wanted: Wanted
) -> Bool[Tensor, "position neuron"]:
    """Write what series reach into ``changes``, and return for which pairs all of them are done."""
    writes, at, extent = of_pairs
    n_vocabulary, d_model = writes.unembedding.shape
    order_of_neuron = cheapest_orders(extent, d_model, n_vocabulary, there.baseline.has_scaled_logits)
    groups = {int(order): (order_of_neuron == order).nonzero()[:, 0] for order in order_of_neuron.unique() if order}
    is_done = torch.zeros_like(extent.largest, dtype=torch.bool)
    if not groups:
        return is_done
    parts = {order: writes.part(neurons) for order, neurons in groups.items()}
    for order, moments in Moments.of_groups(there.shared_moments(writes, wanted.every_variant), parts):
        every = slice(None), groups[order]
        found = expanded_changes(there.fields, parts[order], at.part(every), moments, wanted)
        for name, values in found.items():
            changes[name][every] = values
        is_done[every] = reaches(order, extent)[every]
    if wanted.ranks:
        _fill_ranks(changes, there, (writes, at, is_done))
    return is_done


def _fill_ranks(changes: Changes, there: _Positions, of_pairs: tuple[NeuronWrites, Coefficients, Tensor]) -> None:
    """Arg max and rank of the pairs that are done otherwise."""
    writes, at, pairs = of_pairs
    is_top = (there.baseline.targets == there.fields.top).unsqueeze(-1)
    above_top = there.near_top.more_above(writes, at, pairs)
    above_target = torch.where(is_top, above_top, there.near_target.more_above(writes, at, pairs & ~is_top))
    changes["argmax"].copy_(above_top > 0)
    before, dtype = there.rank.expand_as(above_target), changes["reciprocal_rank"].dtype
    changes["reciprocal_rank"].copy_(reciprocal_rank_change(before, before + above_target, dtype))


def coefficients(fields: PositionFields, ablation: Ablation) -> Coefficients:
    """How far each pair goes along each field, in the dtype of the logits."""
    baseline, dtype = fields.baseline, fields.baseline.scaled_logits.dtype
    scale = ablation.scale(baseline.scale)
    shrink, along = ablation.shrink(baseline.scale, scale).to(dtype), (ablation.write_change / scale).to(dtype)
    frozen_along = (ablation.write_change / baseline.scale.unsqueeze(1)).to(dtype)
    kept = shrink.new_zeros(shrink.shape)
    if isinstance(ablation.writes, NeuronWrites):
        direction = baseline.frequency_direction
        length = (baseline.frequency_log_probs @ direction).clamp(min=torch.finfo(dtype).tiny)
        kept = -(shrink * (baseline.scaled_logits @ direction).unsqueeze(-1) + along * ablation.writes.along(direction)) / length
    return Coefficients(shrink, along, frozen_along, kept * bool(baseline.frequency_direction.any()))
