"""Whether replacing a neuron changes which token is the most likely, and how many lie above the target, from the few that can be passed.

No token passes another whose logit is farther away than the change can carry one past the other. So for most pairs of position and neuron
a handful of nearest tokens decides, exactly; the rest take the whole row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from confreg.neurons.fields import PositionFields
from confreg.neurons.series import Coefficients
from confreg.neurons.writes import NeuronWrites, slices

MANY_TOKENS = 128  # near one: for positions with more, the neurons that carry as far as most do are looked at before the others
USUAL = 3.0  # medians of how far the neurons of a position carry
SHARE_OF_A_ROW = 0.25  # from here on, looking at the whole vocabulary is cheaper than finding the nearest of it
SHARE_OF_A_CROWD = 0.25  # of the neurons of a position: from here on, looking at all of them is cheaper than picking some
ELEMENTS_AT_ONCE = 2**20  # pair x token x d_model of the nearest tokens, or pair x vocabulary

Pair = tuple[Int[Tensor, "pair"], Int[Tensor, "pair"]]


@dataclass(frozen=True)
class _Nearest:
    """Some tokens of some positions, of which the one that they are near to comes first, and fills the places of those that have fewer."""

    rows: Int[Tensor, "near"]  # among the positions of a turn
    positions: Int[Tensor, "near"]
    tokens: Int[Tensor, "near token"]
    gap: Float[Tensor, "near token"]  # logit minus that of the first
    scaled_gap: Float[Tensor, "near token"]  # of the scaled logits


@dataclass(frozen=True)
class _Turn:
    """What is decided next, at some positions."""

    positions: Int[Tensor, "some"]
    is_near: Bool[Tensor, "some vocab"]  # tokens that decide
    pairs: Bool[Tensor, "some neuron"]  # for which they do
    too_far: Bool[Tensor, "some neuron"]  # the others of positions at which most of the vocabulary would have to be looked at


class Neighbours:
    """The tokens around one token of each position."""

    def __init__(self, fields: PositionFields, token: Int[Tensor, "position"]) -> None:
        self.fields, self.token = fields, token.unsqueeze(-1)

    def more_above(
        self, writes: NeuronWrites, at: Coefficients, pairs: Bool[Tensor, "position neuron"]
    ) -> Float[Tensor, "position neuron"]:
        """How many more tokens lie above the token after the change than before, for the given pairs; 0 for the others.

        Args:
            writes: of the neurons.
            at: how far each pair goes along the scaled logits and its write.
            pairs: those to count for.
        """
        count = _Count(self, writes, at)
        carries = count.carries()
        left = pairs & ~(carries < self._nearest)
        in_whole_rows = left & ~carries.isfinite()
        left &= ~in_whole_rows
        while len(positions := left.any(-1).nonzero()[:, 0]):
            turn = self._turn(positions, *(each.index_select(0, positions) for each in (carries, left)))
            for near in self._within(turn, len(writes.w_out)):
                count.among(near, turn.pairs.index_select(0, near.rows))
            in_whole_rows[positions] |= turn.too_far
            left[positions] &= ~(turn.pairs | turn.too_far)
        count.in_whole_rows(in_whole_rows)
        return count.more

    @cached_property
    def _distance(self) -> Float[Tensor, "position vocab"]:
        """Of each token; the token itself is none of its neighbours."""
        logits = self.fields.baseline.logits()
        return (logits - logits.gather(-1, self.token)).abs_().scatter_(-1, self.token, torch.inf)

    @cached_property
    def _nearest(self) -> Float[Tensor, "position 1"]:
        return self._distance.amin(-1, keepdim=True)

    def _turn(self, positions: Int[Tensor, "some"], carries: Float[Tensor, "some neuron"], left: Bool[Tensor, "some neuron"]) -> _Turn:
        """Of the pairs that are left at some positions all, or where tokens are many those of the usual neurons; half of them at least."""
        distance, carries = self._distance.index_select(0, positions), carries.masked_fill(~left, 0.0)
        limit = carries.amax(-1, keepdim=True)
        is_near = distance <= limit
        crowded = (count_of_ones(is_near) > MANY_TOKENS).nonzero()[:, 0]
        if len(crowded):
            of_left = carries.index_select(0, crowded).masked_fill(~left.index_select(0, crowded), torch.nan)
            limit[crowded] = torch.minimum(limit.index_select(0, crowded), USUAL * of_left.nanmedian(-1, keepdim=True).values)
            is_near[crowded] = distance.index_select(0, crowded) <= limit.index_select(0, crowded)
        is_row = (count_of_ones(is_near) > SHARE_OF_A_ROW * distance.shape[1]).unsqueeze(-1)
        return _Turn(positions, is_near & ~is_row, left & (carries <= limit) & ~is_row, left & is_row)

    def _within(self, turn: _Turn, n_neurons: int) -> Iterator[_Nearest]:
        """The near tokens, of positions with equally many at once."""
        n_near, order = count_of_ones(turn.is_near).sort(descending=True)
        sizes, start = n_near.long().tolist(), 0
        while start < len(sizes) and sizes[start]:
            end = start + max(1, ELEMENTS_AT_ONCE // ((sizes[start] + 1) * n_neurons))
            yield self._nearest_of(turn, order[start:end], sizes[start])
            start = end

    def _nearest_of(self, turn: _Turn, rows: Int[Tensor, "near"], most: int) -> _Nearest:
        """Side by side, after the token that they are near to."""
        positions = turn.positions.index_select(0, rows)
        tokens = self.token.index_select(0, positions).repeat(1, most + 1)
        row, token = turn.is_near.index_select(0, rows).nonzero(as_tuple=True)
        n_near = row.bincount(minlength=len(rows))
        first = n_near.cumsum(0) - n_near
        tokens[row, torch.arange(1, len(row) + 1, device=row.device) - first[row]] = token
        return _Nearest(rows, positions, tokens, *self.gaps(positions, tokens))

    def gaps(self, positions: Tensor, tokens: Int[Tensor, "near token"] | None = None) -> tuple[Tensor, Tensor]:
        """How far logits and scaled logits lie above those of the token; default: of the whole vocabulary."""
        baseline, itself = self.fields.baseline, self.token.index_select(0, positions)
        scaled = baseline.scaled_logits.index_select(0, positions)
        each = (scaled,) if baseline.has_scaled_logits else (baseline.part(positions).logits(), scaled)
        gaps = [(of if tokens is None else of.gather(-1, tokens)) - of.gather(-1, itself) for of in each]
        return gaps[0], gaps[-1]


class _Count:
    """Adds up, for pairs of position and neuron, how many more tokens lie above the token."""

    def __init__(self, neighbours: Neighbours, writes: NeuronWrites, at: Coefficients) -> None:
        self.neighbours, self.writes, self.at = neighbours, writes, at
        self.own = writes.to_tokens_of(neighbours.token).squeeze(1)  # what each neuron writes to the token
        # Where the scaled logits are the logits, all distances change by the factor s / s', and so may the write instead, the other way.
        self.is_scaled_alone = neighbours.fields.baseline.has_scaled_logits
        self.along_write = at.write / (1 + at.scaled) if self.is_scaled_alone else at.write
        self.more = torch.zeros_like(at.scaled)

    def carries(self) -> Float[Tensor, "position neuron"]:
        """How far from the token another one may lie, nats, and yet be carried past it."""
        smallest, largest = self.writes.extremes
        by_write = self.along_write.abs() * torch.maximum(largest - self.own, self.own - smallest)
        if self.is_scaled_alone:
            return by_write
        baseline = self.neighbours.fields.baseline
        width = baseline.scaled_logits.amax(-1, keepdim=True) - baseline.scaled_logits.amin(-1, keepdim=True)
        return by_write + self.at.scaled.abs() * width

    def among(self, near: _Nearest, needs: Bool[Tensor, "near neuron"]) -> None:
        """Count for some pairs, which these tokens decide."""
        is_crowd = _is_crowd(needs)
        crowd = is_crowd.nonzero()[:, 0]
        if len(crowd):
            positions, gap, scaled_gap = (each.index_select(0, crowd) for each in (near.positions, near.gap, near.scaled_gap))
            write = self.writes.to_tokens_of(near.tokens.index_select(0, crowd))
            along_write, along_scaled = (each.index_select(0, positions).unsqueeze(1) for each in (self.along_write, self.at.scaled))
            after = self._after(gap.unsqueeze(-1), scaled_gap.unsqueeze(-1), along_scaled)
            after = torch.addcmul(after, along_write, write).gt_(along_write * write[:, :1])
            self._keep(positions, needs.index_select(0, crowd), after.sum(1), gap)
        row, neuron = (needs & ~is_crowd.unsqueeze(-1)).nonzero(as_tuple=True)
        for pairs in slices(len(row), ELEMENTS_AT_ONCE // (near.tokens.shape[1] * self.writes.elements_of_an_entry)):
            at, pair = row[pairs], (near.positions[row[pairs]], neuron[pairs])
            write = self.writes.at(pair[1], near.tokens.index_select(0, at))
            gaps = near.gap.index_select(0, at), near.scaled_gap.index_select(0, at)
            self._of_pairs(pair, gaps, (write, write[:, :1]))

    def in_whole_rows(self, needs: Bool[Tensor, "position neuron"]) -> None:
        """Count for some pairs among all tokens."""
        n_tokens, matrix = len(self.writes.unembedding), self.writes.matrix
        is_crowd = _is_crowd(needs) & (matrix is not None)
        for positions in _parts(is_crowd, n_tokens * needs.shape[1]):
            assert matrix is not None
            own, (gap, scaled_gap) = self.own.index_select(0, positions).unsqueeze(-1), self.neighbours.gaps(positions)
            along_write, along_scaled = (each.index_select(0, positions).unsqueeze(-1) for each in (self.along_write, self.at.scaled))
            after = self._after(gap.unsqueeze(1), scaled_gap.unsqueeze(1), along_scaled)
            after = torch.addcmul(after, along_write, matrix).gt_(along_write * own)
            self._keep(positions, needs.index_select(0, positions), after.sum(-1), gap)
        position, neuron = (needs & ~is_crowd.unsqueeze(-1)).nonzero(as_tuple=True)
        for part in slices(len(position), ELEMENTS_AT_ONCE // n_tokens):
            pair = position[part], neuron[part]
            write = self.writes.rows(*pair)
            self._of_pairs(pair, self.neighbours.gaps(pair[0]), (write, write.gather(-1, self.neighbours.token[pair[0]])))

    # What is written to the token itself comes from the same product as the rest: it shall not pass itself by rounding.

    def _after(self, gap: Tensor, scaled_gap: Tensor, along_scaled: Tensor) -> Tensor:
        """How far tokens lie above the token after the norm has changed."""
        return gap if self.is_scaled_alone else torch.addcmul(gap, along_scaled, scaled_gap)

    def _keep(self, positions: Tensor, needs: Tensor, above: Tensor, gap: Tensor) -> None:
        more = above - count_of_ones(gap > 0, above.dtype).unsqueeze(-1)
        self.more[positions] = torch.where(needs, more, self.more.index_select(0, positions))

    def _of_pairs(self, pair: Pair, gaps: tuple[Tensor, Tensor], write_and_own: tuple[Tensor, Tensor]) -> None:
        along_write, (write, own) = self.along_write[pair].unsqueeze(-1), write_and_own
        after = self._after(*gaps, self.at.scaled[pair].unsqueeze(-1))
        above = torch.addcmul(after, along_write, write).gt_(along_write * own).sum(-1)
        self.more[pair] = above - count_of_ones(gaps[0] > 0, above.dtype)


def _is_crowd(needs: Bool[Tensor, "position neuron"]) -> Bool[Tensor, "position"]:
    return needs.sum(-1) >= max(1, SHARE_OF_A_CROWD * needs.shape[1])


def _parts(chosen: Bool[Tensor, "position"], elements_of_each: int) -> Iterator[Int[Tensor, "part"]]:
    """Where it is true, in parts that fit a core's cache."""
    yield from chosen.nonzero()[:, 0].split(max(1, ELEMENTS_AT_ONCE // elements_of_each)) if chosen.any() else ()


def count_of_ones(is_one: Bool[Tensor, "*row each"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "*row"]:
    """As numbers of a dtype, of which every count is a whole one: booleans would be summed many times slower."""
    return is_one.to(dtype).sum(-1)


def reciprocal_rank_change(before: Float[Tensor, "*pair"], after: Float[Tensor, "*pair"]) -> Float[Tensor, "*pair"]:
    """1 / (rank + 1) after minus before, ranks counted from 0."""
    return 1 / (after + 1) - 1 / (before + 1)
