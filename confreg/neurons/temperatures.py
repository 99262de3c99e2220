"""How near a change of temperature comes to a changed prediction, where no series tells.

With p_β ~ p^β and the change Δ, which is linear in a neuron's write, D(p_β || p') = D(p_β || p) + D(p || p') - E_β Δ for the Δ whose mean
under p is zero. As a function of β it may have several minima: those of a confident prediction are many nats of logits apart and hardly
differ in divergence. For most pairs a bound says that no temperature far from 1 can be the best. For the others what all neurons share at
some temperatures is computed once, so that D(p_β || p') is known there for every pair; it shows which pairs may have a lower minimum than
the nearby one, and from where Newton's steps are to start. The limit of a temperature of zero is one more candidate: there all probability
lies on the most likely token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.linalg import vecdot

from confreg.neurons.fields import PositionFields
from confreg.neurons.reach import Extent
from confreg.neurons.series import Coefficients
from confreg.neurons.temperature_nodes import COLD, HOT, INVERSE_TEMPERATURES, Nodes, Rows, above_unchanged, are_few, at_temperature
from confreg.neurons.temperature_steps import nearest_minimum
from confreg.neurons.writes import NeuronWrites, slices

UNCHANGED = INVERSE_TEMPERATURES.index(1.0)
SMALLEST_EXPONENT = 1e-2  # nats
SAFETY = 1.01  # above rounding
ROUNDING_NATS = {torch.float32: 2e-6, torch.float64: 1e-12}  # of a sum of numbers of the size of logits
LARGEST_SMALL_CHANGE = 5.0  # nats; above it, differences of large numbers would swamp the divergence in fp32
LARGEST_SMALL_DIVERGENCE = 0.1  # nats; above it, the best temperature may be too far from 1 for fp32
ELEMENTS_AT_ONCE = 2**18  # pair x vocabulary, or pair x node: small enough for a core's cache

Pair = tuple[Int[Tensor, "pair"], Int[Tensor, "pair"]]


class Temperatures:
    """The best temperatures of the pairs of some positions and neurons."""

    def __init__(self, fields: PositionFields, writes: NeuronWrites, at: Coefficients) -> None:
        self.fields, self.writes, self.at = fields, writes, at

    def improve(
        self, least: Float[Tensor, "position neuron"], divergence: Float[Tensor, "position neuron"], extent: Extent | None = None
    ) -> None:
        """Replace each D(p_β || p') at its best temperature by the smallest over all β > 0, where that may be another.

        Args:
            least: at the best temperature near 1; nan: unknown. Changed in place.
            divergence: D(p || p').
            extent: bounds on the change, by which most pairs need no search far from 1; default: all are searched.
        """
        pair = least.isnan().nonzero(as_tuple=True)
        least[pair] = self._from_unchanged((pair[0], pair[1]), divergence[pair])
        near = self._divergence_at((UNCHANGED - 1, UNCHANGED + 1))
        bound = torch.full_like(least, torch.inf) if extent is None else self._farthest(least, divergence, extent, near)
        is_far = ~(near > bound)
        positions = is_far.any(-1).nonzero()[:, 0]
        is_hot, is_cold = (self._is_farther(node, positions, bound) for node in (0, len(INVERSE_TEMPERATURES) - 1))
        for betas, pairs in ((INVERSE_TEMPERATURES, is_far), (HOT, is_hot), (COLD, is_cold)):
            self._search(betas, least, divergence, pairs)
        cold = is_cold.nonzero(as_tuple=True)
        limit = self._at_zero_temperature((cold[0], cold[1]), divergence[cold])
        least[cold] = torch.where(limit + ROUNDING_NATS[limit.dtype] < least[cold], limit.clamp(min=0), least[cold])

    def _farthest(
        self,
        least: Float[Tensor, "position neuron"],
        divergence: Float[Tensor, "position neuron"],
        extent: Extent,
        near: Float[Tensor, "position 1"],
    ) -> Float[Tensor, "position neuron"]:
        """Bound on D(p_β || p) of any β that is better than the one known: by how far the change goes, and above ``near`` by its row.

        By Donsker and Varadhan 2 E_β Δ <= D(p_β || p) + log E_p exp 2Δ, so that D(p_β || p') < D(p || p') - g, with g what is gained
        already, needs D(p_β || p) < log E_p exp 2Δ - 2 g.
        """
        bound = SAFETY * _log_mean_exp_of_twice(extent)
        gained = (divergence - least).clamp(min=0)
        pair = (~(near > bound - 2 * gained)).nonzero(as_tuple=True)
        for part in slices(len(pair[0]), ELEMENTS_AT_ONCE // len(self.writes.unembedding)):
            some = pair[0][part], pair[1][part]
            rows = self._rows(some)
            exact = torch.log1p(vecdot(rows.probability, torch.expm1(2 * rows.change)))
            bound[some] = torch.fmin(bound[some], SAFETY * exact + ROUNDING_NATS[exact.dtype])
        return bound - 2 * gained

    def _divergence_at(self, nodes: Sequence[int], positions: Tensor | slice = slice(None)) -> Float[Tensor, "position 1"]:
        """Smallest D(p_β || p) at some nodes; it grows on either side of 1."""
        logit = self.fields.every.logit[positions]
        log_p = logit + (self.fields.mean_logit - self.fields.log_partition)[positions].unsqueeze(-1)
        found = [at_temperature(INVERSE_TEMPERATURES[node], logit, log_p)[1] for node in nodes]
        return torch.stack(found).amin(0).unsqueeze(-1)

    def _is_farther(
        self, node: int, positions: Int[Tensor, "some"], bound: Float[Tensor, "position neuron"]
    ) -> Bool[Tensor, "position neuron"]:
        """Of some positions the pairs for which a temperature beyond a node may be better."""
        found = torch.zeros_like(bound, dtype=torch.bool)
        found[positions] = ~(self._divergence_at((node,), positions) > bound[positions])
        return found

    def _search(
        self,
        betas: Sequence[float],
        least: Float[Tensor, "position neuron"],
        divergence: Float[Tensor, "position neuron"],
        pairs: Bool[Tensor, "position neuron"],
    ) -> None:
        """Where some pairs may have a lower minimum near one of these temperatures, go there."""
        positions, n_at_once = pairs.any(-1).nonzero()[:, 0], max(1, ELEMENTS_AT_ONCE // (len(betas) * least.shape[1]))
        for some in positions.split(n_at_once) if len(positions) else ():
            which, neuron = pairs[some].nonzero(as_tuple=True)
            if are_few(len(which), len(some), self.writes.w_out.shape[1]):
                for part in slices(len(which), ELEMENTS_AT_ONCE // len(self.writes.unembedding)):
                    pair = some[which[part]], neuron[part]
                    self._go_on(betas, pair, least, divergence, above_unchanged(self._rows(pair), betas))
            else:
                nodes = Nodes.of(self.fields.part(some), self.writes.unembedding, betas)
                above = self._above_unchanged_at_nodes(nodes, some)[which, :, neuron].T
                self._go_on(betas, (some[which], neuron), least, divergence, (above, nodes.dip[which, :, 0].T))

    def _go_on(
        self,
        betas: Sequence[float],
        pair: Pair,
        least: Float[Tensor, "position neuron"],
        divergence: Float[Tensor, "position neuron"],
        at_nodes: tuple[Float[Tensor, "node pair"], Float[Tensor, "node pair"]],
    ) -> None:
        """From the lowest node of each pair for which no node says that nothing lower is near."""
        above, dip = at_nodes
        is_open = ~(divergence[pair] + (above - dip).amin(0) >= least[pair])
        start, left = least.new_tensor(betas)[above.argmin(0)[is_open]], (pair[0][is_open], pair[1][is_open])
        least[left] = torch.fmin(least[left], self._from(start, left))

    def _at_zero_temperature(self, pair: Pair, divergence: Float[Tensor, "pair"]) -> Float[Tensor, "pair"]:
        """D(p_β || p') of some pairs as β grows without end: -log p' of the most likely token."""
        (position, neuron), every = pair, self.fields.every
        top, w_out, at = self.fields.top[position].unsqueeze(-1), self.writes.w_out[neuron], self.at.part(pair)
        from_mean = self.writes.unembedding[top[:, 0]] - self.fields.mean_unembedding(self.writes.unembedding)[position]
        change = at.scaled * every.scaled[position].gather(-1, top)[:, 0] + at.write * vecdot(from_mean, w_out)
        return divergence - every.probability[position].gather(-1, top)[:, 0].log() - change

    def _above_unchanged_at_nodes(self, nodes: Nodes, some: Int[Tensor, "some"]) -> Float[Tensor, "some node neuron"]:
        """D(p_β || p') - D(p || p')."""
        above = torch.addcmul(nodes.divergence, self.at.scaled[some].unsqueeze(1), nodes.scaled, value=-1)
        return above.addcmul_(self.at.write[some].unsqueeze(1), nodes.unembedding @ self.writes.w_out.T, value=-1)

    def _from_unchanged(self, pair: Pair, divergence: Float[Tensor, "pair"]) -> Float[Tensor, "pair"]:
        """Divergence at the minimum to which steps from β = 1 lead; of D(p || p') no digit is lost, however small it is."""
        least = torch.empty_like(divergence)
        for part in slices(len(divergence), ELEMENTS_AT_ONCE // len(self.writes.unembedding)):
            rows, one = self._rows((pair[0][part], pair[1][part])), torch.ones_like(divergence[part])
            least[part] = nearest_minimum(one, rows.probability, rows.logit, rows.change, divergence[part])
            is_large = ~((rows.change.abs().amax(-1) <= LARGEST_SMALL_CHANGE) & (divergence[part] <= LARGEST_SMALL_DIVERGENCE))
            if is_large.any():
                large = rows.in_float64(is_large)
                found = nearest_minimum(one[is_large].double(), large.probability, large.logit, large.change, large.divergence())
                least[part][is_large] = found.to(least.dtype)
        return least

    def _from(self, start: Float[Tensor, "pair"], pair: Pair) -> Float[Tensor, "pair"]:
        """Divergence at the minimum to which steps from far away lead, in float64."""
        least = torch.empty_like(start)
        for part in slices(len(start), ELEMENTS_AT_ONCE // len(self.writes.unembedding)):
            rows = self._rows((pair[0][part], pair[1][part])).in_float64()
            found = nearest_minimum(start[part].double(), rows.probability, rows.logit, rows.change, rows.divergence())
            least[part] = found.to(least.dtype)
        return least

    def _rows(self, pair: Pair) -> Rows:
        every, at = self.fields.every, self.at.part(pair)
        p, change = every.probability.index_select(0, pair[0]), every.scaled.index_select(0, pair[0]).mul_(at.scaled.unsqueeze(-1))
        change.addcmul_(at.write.unsqueeze(-1), self.writes.rows(*pair))
        return Rows(p, every.logit.index_select(0, pair[0]), change.sub_(vecdot(p, change).unsqueeze(-1)))


def _log_mean_exp_of_twice(extent: Extent) -> Float[Tensor, "position neuron"]:
    """Bound on log E_p exp 2Δ: by Bennett it is at most log(1 + 4 σ² φ(2L)), where φ(x) = (exp x - 1 - x) / x²."""
    twice = (2 * extent.largest).clamp(min=SMALLEST_EXPONENT)  # φ is increasing, and loses its digits below
    return torch.log1p(4 * extent.spread.square() * (torch.expm1(twice) - twice) / twice.square())
