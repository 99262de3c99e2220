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

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from confreg.neurons.ablation import RANKS, Ablation, Baseline, EffectChanges, Wanted
from confreg.neurons.effect_sizes import EffectSizes
from confreg.neurons.exact import exact_changes
from confreg.neurons.expanded import Changes, expanded_changes
from confreg.neurons.fields import PositionFields
from confreg.neurons.moment_weights import tensors_of_series
from confreg.neurons.moments import Moments
from confreg.neurons.orders import cheapest_orders, reaches
from confreg.neurons.ranks import Neighbours, count_of_ones, reciprocal_rank_change
from confreg.neurons.reach import Reach
from confreg.neurons.series import Coefficients
from confreg.neurons.shared_moments import SharedMoments
from confreg.neurons.temperatures import Temperatures
from confreg.neurons.writes import NeuronWrites, slices

ELEMENTS_OF_ROWS = 2**18  # pair x vocabulary at once: small enough for a core's cache


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
        self.baseline, (n_positions, n_vocabulary) = baseline, baseline.scaled_logits.shape
        self.sizes = EffectSizes.of(memory_bytes, n_positions, n_vocabulary, baseline.scaled_logits.element_size())
        parts = slices(n_positions, self.sizes.positions)
        self.parts = {(part.start, part.stop): _Positions(baseline.part(part), self.sizes) for part in parts}

    def of(self, ablation: Ablation, wanted: Wanted | None = None) -> EffectChanges:
        """Exact changes for every pair of position and neuron.

        Args:
            ablation: what each neuron's (or group's) replacement changes.
            wanted: which of the changes; default: all of the neurons table.

        Returns:
            Tensors of the dtype of the logits. A replacement by the activation itself gives zeros.
        """
        wanted, n_neurons = wanted or Wanted(), ablation.activation_change.shape[1]
        n_at_once = min(self.sizes.neurons, ablation.writes.most_at_once)  # what they write to all tokens is known to all parts
        if len(self.parts) == 1 and n_neurons <= n_at_once:
            [there] = self.parts.values()
            return EffectChanges(**_changes(there, ablation, wanted))
        changes = {name: self.baseline.scaled_logits.new_empty(ablation.activation_change.shape) for name in wanted.names()}
        for neurons in slices(n_neurons, n_at_once):
            some = ablation.part(slice(None), neurons).prepared()
            for (start, stop), there in self.parts.items():
                for name, values in _changes(there, some.part(slice(start, stop), slice(None)), wanted).items():
                    changes[name][start:stop, neurons] = values
                if len(self.parts) > 1:
                    there.forget_the_vocabulary()
        return EffectChanges(**changes)


class _Positions:
    """Some positions, with what several ablations need of them."""

    def __init__(self, baseline: Baseline, sizes: EffectSizes) -> None:
        self.baseline, self.sizes = baseline, sizes

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
        return count_of_ones(logits > logits.gather(-1, self.baseline.targets.unsqueeze(-1)), logits.dtype).unsqueeze(-1)

    def shared_moments(self, unembedding: Tensor, wanted: Wanted) -> SharedMoments:
        """Those that all neurons with this unembedding share, and perhaps more."""
        known = self.__dict__.get("_shared")
        if known is None or known.unembedding is not unembedding or not known.has_all(wanted.every_variant, wanted.temperature):
            which = wanted.every_variant, wanted.temperature
            known = self.__dict__["_shared"] = SharedMoments(self.fields, unembedding, *which)
        return known


def _changes(there: _Positions, ablation: Ablation, wanted: Wanted) -> Changes:
    """All changes of some positions and neurons."""
    at = coefficients(there.fields, ablation)
    writes = ablation.writes
    if ablation.post is not None or there.baseline.softcap is not None or not isinstance(writes, NeuronWrites):
        changes = {name: at.scaled.new_empty(at.scaled.shape) for name in wanted.names()}
        _fill_whole_rows(changes, there, (ablation, at), torch.ones_like(at.scaled, dtype=torch.bool), wanted)
        return changes
    reach = Reach.of(there.fields, writes, at)
    orders = cheapest_orders(reach.every, ablation.d_model, there.baseline.scaled_logits.shape[1], there.baseline.has_scaled_logits)
    if (orders == orders[0]).all():
        return _Linear(there, ablation, writes, at, reach, orders).changes(wanted)
    orders, by_order = orders.sort(stable=True)  # side by side, neurons of one order are a view
    some, reach = ablation.part(slice(None), by_order), reach.of_neurons(by_order)
    assert isinstance(some.writes, NeuronWrites)
    changes, as_before = _Linear(there, some, some.writes, reach.at, reach, orders).changes(wanted), by_order.argsort()
    return {name: values.index_select(1, as_before) for name, values in changes.items()}


def _fill_whole_rows(
    changes: Changes, there: _Positions, of_pairs: tuple[Ablation, Coefficients], pairs: Bool[Tensor, "position neuron"], wanted: Wanted
) -> None:
    """Write what the whole rows of some pairs say into ``changes``; a temperature is found elsewhere where series may tell it."""
    ablation, at = of_pairs
    with_temperature = "divergence_from_temperature" in changes
    position, neuron = pairs.nonzero(as_tuple=True)
    for part in slices(len(position), ELEMENTS_OF_ROWS // there.fields.baseline.scaled_logits.shape[1]):
        pair = position[part], neuron[part]
        for name, values in exact_changes(there.fields, ablation, at, pair, wanted, with_temperature).items():
            changes[name][pair] = values


@dataclass(frozen=True)
class _Linear:
    """Some positions and neurons, in the order of their series, whose changes of the logits are linear in the write."""

    there: _Positions
    ablation: Ablation
    writes: NeuronWrites
    at: Coefficients
    reach: Reach
    order: Int[Tensor, "neuron"]  # ascending; 0: no series, all whole rows

    def changes(self, wanted: Wanted) -> Changes:
        """All of them."""
        changes, is_done = self._from_series(wanted)
        if wanted.ranks:
            changes |= self._ranks(is_done)
        nearby = changes.pop("divergence_from_temperature", None)
        _fill_whole_rows(changes, self.there, (self.ablation, self.at), ~is_done, wanted)
        if nearby is not None:
            changes["divergence_from_temperature"] = nearby.masked_fill_(~is_done, torch.nan)
            Temperatures(self.there.fields, self.writes, self.at).improve(nearby, changes["divergence"], self.reach.total)
        return changes

    def _from_series(self, wanted: Wanted) -> tuple[Changes, Bool[Tensor, "position neuron"]]:
        """What series say, but for ranks, and for which pairs that is all; of the others it is not to be used."""
        groups, extent = self._groups(), self.reach.every
        without = groups.pop(0, slice(0, 0))
        names = [name for name in wanted.names() if name not in RANKS]
        found = [{name: torch.empty_like(self.at.scaled[:, without]) for name in names}]
        is_done = [torch.zeros_like(found[0]["loss"], dtype=torch.bool)]
        for order, neurons, moments in self._moments(groups, wanted):
            every = slice(None), neurons
            found.append(expanded_changes(self.there.fields, self.writes.part(neurons), self.at.part(every), moments, wanted))
            is_done.append(reaches(order, extent.part(*every)))
        return {name: _side_by_side([each[name] for each in found]) for name in names}, _side_by_side(is_done)

    def _moments(self, groups: dict[int, slice], wanted: Wanted) -> Iterator[tuple[int, slice, Moments]]:
        """Of as many neurons at once as the memory holds."""
        is_folded = self.there.baseline.has_scaled_logits
        tensors = {order: tensors_of_series(order, wanted.every_variant, is_folded) for order in groups}
        for batch in self.there.sizes.batches(groups, tensors):
            shared = self.there.shared_moments(self.writes.unembedding, wanted)
            parts = {order: self.writes.part(neurons) for order, neurons in batch.items()}
            for order, moments in Moments.of_groups(shared, parts, wanted.temperature):
                yield order, batch[order], moments

    def _groups(self) -> dict[int, slice]:
        """Which neurons have which order."""
        orders, sizes = self.order.unique_consecutive(return_counts=True)
        ends = sizes.cumsum(0).tolist()
        return {order: slice(start, end) for order, start, end in zip(orders.tolist(), [0, *ends[:-1]], ends, strict=True)}

    def _ranks(self, is_done: Bool[Tensor, "position neuron"]) -> Changes:
        """Arg max and rank; of pairs that are not done they are not to be used."""
        there, dtype = self.there, self.at.scaled.dtype
        is_top = (there.baseline.targets == there.fields.top).unsqueeze(-1)
        above_top = there.near_top.more_above(self.writes, self.at, is_done)
        above_target = torch.where(is_top, above_top, there.near_target.more_above(self.writes, self.at, is_done & ~is_top))
        before = there.rank.expand_as(above_target)
        found = (above_top > 0).to(dtype), reciprocal_rank_change(before, before + above_target)
        return dict(zip(RANKS, found, strict=True))


def _side_by_side(parts: list[Tensor]) -> Tensor:
    """Neurons of several parts; of a single one no copy is made."""
    some = [part for part in parts if part.shape[1]]
    return some[0] if len(some) == 1 else torch.cat(some, dim=1)


def coefficients(fields: PositionFields, ablation: Ablation) -> Coefficients:
    """How far each pair goes along each field, in the dtype of the logits."""
    baseline, dtype = fields.baseline, fields.baseline.scaled_logits.dtype
    scale = ablation.scale(baseline.scale)
    shrink, along = ablation.shrink(baseline.scale, scale).to(dtype), (ablation.write_change / scale).to(dtype)
    frozen_along = (ablation.write_change / baseline.scale.unsqueeze(1)).to(dtype)
    kept, direction = torch.zeros_like(shrink), baseline.frequency_direction
    if isinstance(ablation.writes, NeuronWrites) and direction.any():
        length = (baseline.frequency_log_probs @ direction).clamp(min=torch.finfo(dtype).tiny)
        kept = shrink * (baseline.scaled_logits @ direction).unsqueeze(-1)
        kept.addcmul_(along, ablation.writes.along(direction)).div_(-length)
    return Coefficients(shrink, along, frozen_along, kept)
