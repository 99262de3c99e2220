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

N_NEAREST = (8, 32, 128, 512)  # tokens to look at: few, and where they do not decide, more
SHARE_OF_A_ROW = 0.25  # from here on, looking at the whole vocabulary is cheaper than finding the nearest of it
SHARE_OF_A_CROWD = 0.25  # of the neurons of a position: from here on, looking at all of them is cheaper than picking some
ELEMENTS_AT_ONCE = 2**18  # pair x token x d_model of the nearest tokens, or pair x vocabulary: small enough for a core's cache

Pair = tuple[Int[Tensor, "pair"], Int[Tensor, "pair"]]


@dataclass(frozen=True)
class _Nearest:
    """Some tokens of some positions, by their distance from one of them, which comes first."""

    positions: Int[Tensor, "near"]
    tokens: Int[Tensor, "near token"]
    gap: Float[Tensor, "near token"]  # logit minus that of the first
    scaled_gap: Float[Tensor, "near token"]  # of the scaled logits
    nearest: Float[Tensor, "near 1"]  # distance of the first other token
    beyond: Float[Tensor, "near 1"]  # distance of the next one, which is not among them


class Neighbours:
    """The tokens around one token of each position."""

    def __init__(self, fields: PositionFields, token: Int[Tensor, "position"]) -> None:
        self.fields, self.token = fields, token.unsqueeze(-1)

    def more_above(self, writes: NeuronWrites, at: Coefficients, pairs: Bool[Tensor, "position neuron"]) -> Int[Tensor, "position neuron"]:
        """How many more tokens lie above the token after the change than before, for the given pairs; 0 for the others.

        Args:
            writes: of the neurons.
            at: how far each pair goes along the scaled logits and its write.
            pairs: those to count for.
        """
        count = _Count(self, writes, at)
        carries, left = count.carries(), pairs
        for n_nearest in N_NEAREST:
            positions = left.any(-1).nonzero()[:, 0]
            if n_nearest > SHARE_OF_A_ROW * self._distance.shape[-1] or not len(positions):
                break
            near = self._nearest(positions, n_nearest)
            is_decided = left[positions] & (carries[positions] < near.beyond)
            count.among(near, is_decided & ~(carries[positions] < near.nearest))
            left = left.index_put((positions,), left[positions] & ~is_decided)
        count.in_whole_rows(left)
        return count.more

    @cached_property
    def _distance(self) -> Float[Tensor, "position vocab"]:
        """Of each token; that of the token itself is the smallest, whatever else has its logit."""
        logits = self.fields.baseline.logits()
        return (logits - logits.gather(-1, self.token)).abs_().scatter_(-1, self.token, -1.0)

    def _nearest(self, positions: Int[Tensor, "near"], n_nearest: int) -> _Nearest:
        nearest, tokens = self._distance[positions].topk(n_nearest + 2, largest=False)
        gap, scaled_gap = self.gaps(positions, tokens[:, :-1])
        return _Nearest(positions, tokens[:, :-1], gap, scaled_gap, nearest[:, 1:2], nearest[:, -1:])

    def gaps(self, positions: Tensor, tokens: Int[Tensor, "near token"] | None = None) -> tuple[Tensor, Tensor]:
        """How far logits and scaled logits lie above those of the token; default: of the whole vocabulary."""
        baseline, itself = self.fields.baseline, self.token[positions]
        scaled = baseline.scaled_logits[positions]
        each = (scaled, scaled) if baseline.has_scaled_logits else (baseline.part(positions).logits(), scaled)
        logit_gap, scaled_gap = ((of if tokens is None else of.gather(-1, tokens)) - of.gather(-1, itself) for of in each)
        return logit_gap, scaled_gap


class _Count:
    """Adds up, for pairs of position and neuron, how many more tokens lie above the token."""

    def __init__(self, neighbours: Neighbours, writes: NeuronWrites, at: Coefficients) -> None:
        self.neighbours, self.writes, self.at = neighbours, writes, at
        self.own = writes.to_tokens_of(neighbours.token).squeeze(1)  # what each neuron writes to the token
        # Where the scaled logits are the logits, all distances change by the factor s / s', and so may the write instead, the other way.
        self.is_scaled_alone = neighbours.fields.baseline.has_scaled_logits
        self.along_write = at.write / (1 + at.scaled) if self.is_scaled_alone else at.write
        self.more = torch.zeros_like(at.scaled, dtype=torch.int64)

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
        n_tokens = near.tokens.shape[-1]
        for part in _parts(is_crowd, n_tokens * needs.shape[1]):
            positions = near.positions[part]
            write = self.writes.to_tokens_of(near.tokens[part])
            along_write = self.along_write[positions].unsqueeze(1)
            after = self._after(near.gap[part].unsqueeze(-1), near.scaled_gap[part].unsqueeze(-1), self.at.scaled[positions].unsqueeze(1))
            after = torch.addcmul(after, along_write, write).gt_(along_write * write[:, :1])
            self._keep(positions, needs[part], after.sum(1), near.gap[part])
        row, neuron = (needs & ~is_crowd.unsqueeze(-1)).nonzero(as_tuple=True)
        for pairs in slices(len(row), ELEMENTS_AT_ONCE // (n_tokens * self.writes.elements_of_an_entry)):
            at, pair = row[pairs], (near.positions[row[pairs]], neuron[pairs])
            write = self.writes.at(pair[1], near.tokens[at])
            self._of_pairs(pair, (near.gap[at], near.scaled_gap[at]), (write, write[:, :1]))

    def in_whole_rows(self, needs: Bool[Tensor, "position neuron"]) -> None:
        """Count for some pairs among all tokens."""
        n_tokens, matrix = len(self.writes.unembedding), self.writes.matrix
        is_crowd = _is_crowd(needs) & (matrix is not None)
        for positions in _parts(is_crowd, n_tokens * needs.shape[1]):
            assert matrix is not None
            own, (gap, scaled_gap) = matrix.T[self.neighbours.token[positions, 0]].unsqueeze(-1), self.neighbours.gaps(positions)
            along_write = self.along_write[positions].unsqueeze(-1)
            after = self._after(gap.unsqueeze(1), scaled_gap.unsqueeze(1), self.at.scaled[positions].unsqueeze(-1))
            after = torch.addcmul(after, along_write, matrix).gt_(along_write * own)
            self._keep(positions, needs[positions], after.sum(-1), gap)
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
        more = count_of_ones(above) - (gap > 0).sum(-1, keepdim=True)
        self.more[positions] = torch.where(needs, more, self.more[positions])

    def _of_pairs(self, pair: Pair, gaps: tuple[Tensor, Tensor], write_and_own: tuple[Tensor, Tensor]) -> None:
        along_write, (write, own) = self.along_write[pair].unsqueeze(-1), write_and_own
        after = self._after(*gaps, self.at.scaled[pair].unsqueeze(-1))
        above = torch.addcmul(after, along_write, write).gt_(along_write * own).sum(-1)
        self.more[pair] = count_of_ones(above) - (gaps[0] > 0).sum(-1)


def _is_crowd(needs: Bool[Tensor, "position neuron"]) -> Bool[Tensor, "position"]:
    return needs.sum(-1) >= max(1, SHARE_OF_A_CROWD * needs.shape[1])


def _parts(chosen: Bool[Tensor, "position"], elements_of_each: int) -> Iterator[Int[Tensor, "part"]]:
    """Where it is true, in parts that fit a core's cache."""
    yield from chosen.nonzero()[:, 0].split(max(1, ELEMENTS_AT_ONCE // elements_of_each)) if chosen.any() else ()


def count_of_ones(sum_of_ones: Tensor) -> Int[Tensor, "*pair"]:
    """As a whole number: booleans would be summed as such, many times slower than as numbers of the logits' dtype."""
    return sum_of_ones.round().long()


def reciprocal_rank_change(before: Int[Tensor, "*pair"], after: Int[Tensor, "*pair"], dtype: torch.dtype) -> Float[Tensor, "*pair"]:
    """1 / (rank + 1) after minus before, ranks counted from 0."""
    return 1 / (after + 1).to(dtype) - 1 / (before + 1).to(dtype)
