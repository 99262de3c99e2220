"""What all neurons share of the joint moments at some positions: the prediction times powers of the fields, their means, and their means
with the unembedding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from confreg.neurons.fields import Fields, PositionFields
from confreg.neurons.moment_weights import Family, Weight, families
from confreg.neurons.writes import slices

TOKENS_AT_ONCE = 1024
FEWEST_TOKENS = 256  # a product with less inside is not worth reading its sums for
ELEMENTS_AT_ONCE = 2**22  # weight x position x token
KNOWN = {Weight(): 1.0, Weight(1): 0.0, Weight(0, 1): 0.0, Weight(0, 0, 1): 0.0}  # the whole probability, and means of centred fields

Place = tuple[int, int]  # powers of y and of h; moments of one place are stacked by the power of f
Weighted = dict[int, Float[Tensor, "_ position part"]]  # p y^i f^j for each i, stacked by j


def weighted_predictions(fields: Fields, n_scaled: Sequence[int]) -> Weighted:
    """p y^i f^j for each power of y from 0 on, with as many powers of f as are given for it."""
    weighted: Weighted = {}
    first = fields.probability
    for logit, n_powers in enumerate(n_scaled):
        some = weighted[logit] = first.new_empty(n_powers, *first.shape)
        if logit:
            torch.mul(weighted[logit - 1][0], fields.logit, out=some[0])
        else:
            some[0] = first
        for scaled in range(1, n_powers):
            torch.mul(some[scaled - 1], fields.scaled, out=some[scaled])
    return weighted


class SharedMoments:
    """What all neurons share at some positions: the mean of each weight, and its mean with the unembedding, from which those with the first
    power of any write follow. Computed when first asked for, to the highest order so far.

    Args:
        fields: at these positions.
        unembedding: of all neurons.
        every_variant: also for effects under every variant.
        with_temperature: also for the best temperature.
    """

    def __init__(
        self,
        fields: PositionFields,
        unembedding: Float[Tensor, "vocab d_model"],
        every_variant: bool = False,
        with_temperature: bool = True,
    ) -> None:
        self.fields, self.unembedding = fields, unembedding
        self.every_variant, self.with_temperature = every_variant, with_temperature
        self.is_folded = fields.baseline.has_scaled_logits
        centre_of_all = fields.mean_log_frequency.mean()  # near the means of all positions: little is lost in putting theirs to zero
        self.log_frequency = fields.baseline.frequency_log_probs - centre_of_all
        self.mean_log_frequency = (fields.mean_log_frequency - centre_of_all).unsqueeze(-1)
        self.means: dict[Place, Float[Tensor, "_ position 1"]] = {}
        self.with_unembedding: dict[Place, Float[Tensor, "_ position d_model"]] = {}
        self._order = 0

    def has_all(self, every_variant: bool, with_temperature: bool) -> bool:
        """Whether it serves effects under these variants, and the best temperature where that is asked for."""
        return self.every_variant == every_variant and self.with_temperature >= with_temperature

    def families(self, order: int, with_temperature: bool) -> tuple[Family, ...]:
        """Of the weights of an expansion to some order."""
        return families(order, self.every_variant, self.is_folded, with_temperature)

    def weighted_predictions(self, order: int) -> Iterator[tuple[slice, Weighted]]:
        """For parts of the vocabulary: the prediction times those weights that meet higher powers of the write in an expansion to an order,
        and perhaps more after them. On the way this adds up what itself is to know up to that order."""
        every = self.families(order, self.with_temperature)
        is_known = order <= self._order
        n_powers = [n for n in (family.n_scaled(0, 2 if is_known else 0) for family in every) if n]
        if not is_known:
            self._begin(every)
        of_all = len(self.fields.log_partition) * sum(n_powers)
        for tokens in slices(len(self.unembedding), min(TOKENS_AT_ONCE, max(FEWEST_TOKENS, ELEMENTS_AT_ONCE // of_all))):
            weighted = weighted_predictions(self.fields.of_tokens(tokens), n_powers)
            if not is_known:
                self._add(every, tokens, weighted)
            yield tokens, weighted
        if not is_known:
            self._centre(every)
            self._order = order

    def powers_of_log_frequency(self, tokens: slice, highest: int) -> Float[Tensor, "power part"]:
        """From 0 on, not centred."""
        powers = torch.arange(highest + 1, device=self.log_frequency.device)
        return self.log_frequency[tokens] ** powers.unsqueeze(-1)

    def _begin(self, every: Sequence[Family]) -> None:
        shape = len(self.fields.log_partition), self.unembedding.shape[1]
        for family in every:
            for each in range(len(family.counts)):
                self.with_unembedding[family.logit, each] = self.unembedding.new_empty(family.n_scaled(each, 1), *shape)

    def _add(self, every: Sequence[Family], tokens: slice, weighted: Weighted) -> None:
        raised, is_first = self.powers_of_log_frequency(tokens, max(len(family.counts) for family in every) - 1), tokens.start == 0
        for family in every:
            for power, found in enumerate(_means(weighted[family.logit], family, raised)):
                place = family.logit, power
                self.means[place] = found if is_first else self.means[place] + found
        for power, of_tokens in enumerate(raised):
            unembedding = self.unembedding[tokens] * of_tokens.unsqueeze(-1) if power else self.unembedding[tokens]
            for family in every:
                first = int(power == family.logit == 0)  # the whole prediction: its mean is known
                if (n := family.n_scaled(power, 1)) > first:
                    sums = self.with_unembedding[family.logit, power][first:]
                    add_product(sums, weighted[family.logit][first:n], unembedding, is_first)

    def _centre(self, every: Sequence[Family]) -> None:
        self.with_unembedding[0, 0][0] = self.fields.mean_unembedding(self.unembedding)
        for store in (self.means, self.with_unembedding):
            for family in every:
                centre([store[family.logit, power] for power in range(len(family.counts))], self.mean_log_frequency)
        for weight in KNOWN:  # what rounding makes of it would be larger than a small effect
            place = weight.logit, weight.log_frequency
            if len(self.means.get(place, ())) > weight.scaled:
                self.means[place][weight.scaled] = KNOWN[weight]


def _means(
    weighted: Float[Tensor, "weight position token"], family: Family, raised: Float[Tensor, "power token"]
) -> Iterator[Float[Tensor, "_ position 1"]]:
    """With each power of the log-frequencies from 0 on; those above it are few and go through one product."""
    yield weighted[: family.n_scaled(0, 0)].sum(-1, keepdim=True)
    with_powers = weighted[: family.n_scaled(1, 0)] @ raised[1 : len(family.counts)].T
    for power in range(1, len(family.counts)):
        yield with_powers[: family.n_scaled(power, 0), :, power - 1 : power]


def add_product(
    sums: Float[Tensor, "weight position column"], left: Float[Tensor, "weight position token"], right: Tensor, is_first: bool
) -> None:
    """Add a matrix product for every weight; the first one takes the place of what is there."""
    sums.view(-1, sums.shape[-1]).addmm_(left.reshape(-1, left.shape[-1]), right, beta=0 if is_first else 1)


def centre(raw: Sequence[Float[Tensor, "... position _"]], mean: Float[Tensor, "position _"]) -> None:
    """Make E[w (B - b)^k] of E[w B^k], k = 0, 1, …, in place: every pass puts one more factor B - b in the place of a B. With higher powers
    there may be fewer weights."""
    for first in range(1, len(raw)):
        for power in range(len(raw) - 1, first - 1, -1):
            raw[power].addcmul_(raw[power - 1][: len(raw[power])], mean, value=-1.0)
