"""Joint moments, under the unablated prediction, of what a neuron writes to the logits and of what all neurons share: by matrix products.

With B a neuron's write and, at a position, the centred fields y (logits), f (scaled logits) and h (log-frequencies), these are

    E_p[y^i f^j h^l (B - E_p B)^k]

for all pairs of position and neuron. Each is a product of two matrices, one without neurons and one without positions, so that
position x neuron x vocabulary is never formed. The log-frequencies are the same at all positions but for their mean, so that their powers
go with those of B to the side without positions, and are centred afterwards. The first power of B goes through the width of the residual
instead of the neurons. Where the logits have neither bias nor cap, f is y, and moments that are
then the same are computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

from jaxtyping import Float
from torch import Tensor

from confreg.neurons.moment_weights import Weight, folded, orders_of_weights
from confreg.neurons.shared_moments import Place, SharedMoments, Weighted, add_product, centre
from confreg.neurons.writes import NeuronWrites


@dataclass(frozen=True)
class Moments:
    """Central moments: of each place those without the write, [weight, position, 1], then with its powers, [weight, position, neuron]."""

    of_place: Mapping[Place, list[Float[Tensor, "_ position _"]]]
    mean_write: Float[Tensor, "position neuron"]  # E_p B
    order: int
    every_variant: bool
    is_folded: bool
    _of_key: dict[Weight, list[Tensor]] = field(default_factory=dict)

    @classmethod
    def of_groups(
        cls, shared: SharedMoments, groups: Mapping[int, NeuronWrites], with_temperature: bool = True
    ) -> Iterator[tuple[int, Moments]]:
        """For all pairs of these positions with the neurons of each group, whose key is the order of their expansion.

        Args:
            shared: of these positions and the writes' unembedding.
            groups: writes by order.
            with_temperature: also for the best temperature, as ``shared`` must be.
        """
        sums = _PowerSums(shared, groups, with_temperature)
        for order in groups:
            of_place = sums.of_order(order)
            mean = of_place[0, 0][1][0].clone()  # the central moment takes its place
            for moments in of_place.values():
                centre(moments, mean)
            yield order, cls(of_place, mean, order, shared.every_variant, shared.is_folded)

    def key(self, weight: Weight) -> Weight:
        """Under which its moments are kept."""
        return folded(weight) if self.is_folded else weight

    def has(self, weight: Weight) -> bool:
        """Whether it belongs to the expansion of a mean."""
        return weight in orders_of_weights(self.order, self.every_variant)

    def of(self, weight: Weight) -> list[Float[Tensor, "position _"]]:
        """E[w (B - b)^k] for k = 0, 1, … as far as the order goes, or one further where f is y."""
        key = self.key(weight)
        if key not in self._of_key:
            stacked = self.of_place[key.logit, key.log_frequency]
            self._of_key[key] = [each[key.scaled] for each in stacked if len(each) > key.scaled]
        return self._of_key[key]


class _PowerSums:
    """Moments with the powers of the write that are the neurons' own, added up over parts of the vocabulary; neither it nor the
    log-frequencies are centred until all are."""

    def __init__(self, shared: SharedMoments, groups: Mapping[int, NeuronWrites], with_temperature: bool) -> None:
        self.shared, self.groups, n_positions = shared, groups, len(shared.fields.log_partition)
        self.families = {order: shared.families(order, with_temperature) for order in groups}
        self.sums: dict[tuple[int, Place, int], Float[Tensor, "_ position neuron"]] = {}
        for order, writes in groups.items():
            for family, power in product(self.families[order], range(2, order + 1)):
                for each in range(len(family.counts)):
                    shape = family.n_scaled(each, power), n_positions, len(writes.w_out)
                    self.sums[order, (family.logit, each), power] = writes.w_out.new_empty(shape)
        for tokens, weighted in shared.weighted_predictions(max(groups)):
            self._add(tokens, weighted)

    def _add(self, tokens: slice, weighted: Weighted) -> None:
        of_tokens = self.shared.powers_of_log_frequency(tokens, max(self.groups))
        for order, writes in self.groups.items():
            every, raised = self.families[order], writes.to_tokens(tokens)
            for power in range(2, order + 1):
                raised = raised * writes.to_tokens(tokens)
                for each in range(max(len(family.counts) for family in every)):
                    some = [(logit, weighted[logit][:n]) for logit, family in enumerate(every) if (n := family.n_scaled(each, power))]
                    right = raised
                    if each and sum(map(len, some)) * weighted[0].shape[1] < len(raised):  # few positions: less to multiply there
                        some = [(logit, left * of_tokens[each]) for logit, left in some]
                    elif each and some:
                        right = raised * of_tokens[each]
                    for logit, left in some:
                        add_product(self.sums[order, (logit, each), power], left, right.T, is_first=tokens.start == 0)

    def of_order(self, order: int) -> dict[Place, list[Tensor]]:
        """The moments of each place by the power of one group's writes; log-frequencies are centred, the write is not."""
        shared, w_out = self.shared, self.groups[order].w_out
        for family, power in product(self.families[order], range(2, order + 1)):
            centre([self.sums[order, (family.logit, each), power] for each in range(len(family.counts))], shared.mean_log_frequency)
        of_place: dict[Place, list[Tensor]] = {}
        for family in self.families[order]:
            for each in range(len(family.counts)):
                place = family.logit, each
                of_place[place] = [shared.means[place][: family.n_scaled(each, 0)]]
                if n := family.n_scaled(each, 1):
                    of_place[place].append(shared.with_unembedding[place][:n] @ w_out.T)
                of_place[place] += [self.sums[order, place, power] for power in range(2, len(family.counts[each]))]
        return of_place
