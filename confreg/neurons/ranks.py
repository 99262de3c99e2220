"""Whether replacing a neuron changes which token is the most likely, and how many lie above the target, from the few that can be passed.

No token passes another whose logit is farther away than the whole range of the change. So for most pairs of position and neuron a handful
of nearest tokens decides, exactly; the rest take the whole row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from confreg.neurons.fields import PositionFields
from confreg.neurons.series import Coefficients
from confreg.neurons.writes import NeuronWrites, slices

N_NEAREST = (8, 32, 128, 512)  # tokens to look at: few, and where they do not decide, more
SHARE_OF_A_CROWD = 0.25  # of the neurons of a position: from here on, looking at all of them is cheaper than picking some
ELEMENTS_AT_ONCE = 2**18  # pair x token x d_model of the nearest tokens, or pair x vocabulary: small enough for a core's cache


Pair = tuple[Int[Tensor, "pair"], Int[Tensor, "pair"]]


@dataclass(frozen=True)
class Neighbours:
    """The tokens nearest to one token of each position, by their logits; the token itself comes first."""

    fields: PositionFields
    tokens: Int[Tensor, "position neighbour"]
    gap: Float[Tensor, "position neighbour"]  # logit minus that of the token itself
    scaled_gap: Float[Tensor, "position neighbour"]  # of the scaled logits
    beyond: dict[int, Float[Tensor, "position"]]  # distance of the next token after so many, the token itself not counted

    @classmethod
    def of(cls, fields: PositionFields, token: Int[Tensor, "position"]) -> Neighbours:
        """Of a token of each position."""
        logits, scaled, itself = fields.baseline.logits(), fields.baseline.scaled_logits, token.unsqueeze(-1)
        gap = logits - logits.gather(-1, itself)
        distance = gap.abs().scatter(-1, itself, -1.0)  # the token itself comes first, whatever else has its logit
        nearest, tokens = distance.topk(min(max(N_NEAREST) + 2, distance.shape[-1]), largest=False)
        infinite = nearest.new_full((len(nearest),), torch.inf)
        beyond = {n: nearest[:, n + 1] if nearest.shape[-1] > n + 1 else infinite for n in (0, *N_NEAREST)}
        return cls(fields, tokens, gap.gather(-1, tokens), scaled.gather(-1, tokens) - scaled.gather(-1, itself), beyond)

    def more_above(
        self, writes: NeuronWrites, at: Coefficients, change_range: Float[Tensor, "position neuron"], pairs: Bool[Tensor, "position neuron"]
    ) -> Int[Tensor, "position neuron"]:
        """How many more tokens lie above the token after the change than before, for the given pairs; 0 for the others.

        Args:
            writes: of the neurons.
            at: how far each pair goes along the scaled logits and its write.
            change_range: bound on how much more the logit of one token changes than that of another; nats.
            pairs: those to count for.
        """
        more = torch.zeros_like(change_range, dtype=torch.int64)
        decides_not = [~(change_range < self.beyond[n].unsqueeze(-1)) for n in (0, *N_NEAREST)]
        window = torch.stack(decides_not).sum(0) * pairs  # place of the first that decides; 0: none is needed
        for which, n_nearest in enumerate(N_NEAREST, start=1):
            needs = window == which
            is_crowd = needs.sum(-1) >= SHARE_OF_A_CROWD * needs.shape[1]
            for part in is_crowd.nonzero()[:, 0].split(max(1, ELEMENTS_AT_ONCE // (n_nearest * needs.shape[1]))):
                more[part] = torch.where(needs[part], self._of_all_neurons(writes, at.part(part), part, n_nearest), more[part])
            some, n_entries = needs & ~is_crowd.unsqueeze(-1), n_nearest * writes.elements_of_an_entry
            self._fill(more, some, n_entries, partial(self._of_pairs, writes, n_nearest=n_nearest), at)
        self._fill(more, window > len(N_NEAREST), len(writes.unembedding), partial(self._in_whole_rows, writes), at)
        return more

    @staticmethod
    def _fill(
        more: Int[Tensor, "position neuron"],
        needs: Bool[Tensor, "position neuron"],
        n_entries: int,
        count: Callable[[Coefficients, Pair], Int[Tensor, "pair"]],
        at: Coefficients,
    ) -> None:
        """Count for some pairs, each of which takes so many entries."""
        position, neuron = needs.nonzero(as_tuple=True)
        for part in slices(len(position), ELEMENTS_AT_ONCE // n_entries):
            pair = position[part], neuron[part]
            more[pair] = count(at.part(pair), pair)

    def _of_all_neurons(
        self, writes: NeuronWrites, at: Coefficients, positions: Int[Tensor, "position"], n_nearest: int
    ) -> Int[Tensor, "position neuron"]:
        """At some positions, among so many nearest tokens."""
        near = slice(1, n_nearest + 1)
        gap, scaled_gap = (each[positions, near].unsqueeze(-1) for each in (self.gap, self.scaled_gap))
        after = torch.addcmul(gap, at.scaled.unsqueeze(1), scaled_gap)
        after.addcmul_(at.write.unsqueeze(1), writes.to_tokens_of(self.tokens[positions, near]))
        own = at.write * writes.to_tokens_of(self.tokens[positions, :1]).squeeze(1)
        return _count(after.gt_(own.unsqueeze(1)).sum(1)) - (gap > 0).sum(1)

    def _of_pairs(self, writes: NeuronWrites, at: Coefficients, pair: Pair, n_nearest: int) -> Int[Tensor, "pair"]:
        """Of some pairs, among so many nearest tokens."""
        near = slice(0, n_nearest + 1)
        gap, scaled_gap, write = self.gap[pair[0], near], self.scaled_gap[pair[0], near], writes.at(pair[1], self.tokens[pair[0], near])
        return self._count_above(at, gap, scaled_gap, (write, write[:, :1]))

    def _in_whole_rows(self, writes: NeuronWrites, at: Coefficients, pair: Pair) -> Int[Tensor, "pair"]:
        """Of some pairs, among all tokens."""
        baseline, token, write = self.fields.baseline.part(pair[0]), self.tokens[pair[0], :1], writes.rows(*pair)
        gap, scaled_gap = (each - each.gather(-1, token) for each in (baseline.logits(), baseline.scaled_logits))
        return self._count_above(at, gap, scaled_gap, (write, write.gather(-1, token)))

    @staticmethod
    def _count_above(at: Coefficients, gap: Tensor, scaled_gap: Tensor, write_and_own: tuple[Tensor, Tensor]) -> Int[Tensor, "pair"]:
        write, own = write_and_own
        after = torch.addcmul(gap, at.scaled.unsqueeze(-1), scaled_gap).addcmul_(at.write.unsqueeze(-1), write)
        return _count(after.gt_(at.write.unsqueeze(-1) * own).sum(-1)) - (gap > 0).sum(-1)


def _count(sum_of_ones: Tensor) -> Int[Tensor, "*pair"]:
    """As a whole number: booleans would be summed as such, many times slower than as numbers of the logits' dtype."""
    return sum_of_ones.round().long()


def reciprocal_rank_change(before: Int[Tensor, "*pair"], after: Int[Tensor, "*pair"], dtype: torch.dtype) -> Float[Tensor, "*pair"]:
    """1 / (rank + 1) after minus before, ranks counted from 0."""
    return 1 / (after + 1).to(dtype) - 1 / (before + 1).to(dtype)
