"""What neurons write to the logits, computed where it is needed: neurons x vocabulary is never stored whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

ELEMENTS_AT_ONCE = 2**22  # neuron x vocabulary of one part


@dataclass(frozen=True)
class NeuronWrites:
    """B = w Ũᵀ: each neuron has one direction, the same at all positions."""

    w_out: Float[Tensor, "neuron d_model"]
    unembedding: Float[Tensor, "vocab d_model"]

    def part(self, neurons: slice | Int[Tensor, "part"]) -> NeuronWrites:
        """Those of some neurons; what is known of all is known of them."""
        if isinstance(neurons, slice) and neurons == slice(None):
            return self
        part = NeuronWrites(self.w_out[neurons], self.unembedding)
        if "extremes" in vars(self):
            vars(part)["extremes"] = tuple(each[neurons] for each in self.extremes)
        if vars(self).get("matrix") is not None:
            vars(part)["matrix"] = self.matrix[neurons]  # type: ignore[index]
        return part

    def within(self, positions: slice, neurons: slice | Int[Tensor, "part"]) -> NeuronWrites:
        """Those of some positions and neurons."""
        return self.part(neurons)

    @cached_property
    def matrix(self) -> Float[Tensor, "neuron vocab"] | None:
        """All of it, where it is small."""
        return self.w_out @ self.unembedding.T if len(self.w_out) <= self.most_at_once else None

    @property
    def most_at_once(self) -> int:
        """Neurons of which the matrix is kept."""
        return ELEMENTS_AT_ONCE // len(self.unembedding)

    @cached_property
    def _by_token(self) -> Float[Tensor, "vocab neuron"] | None:
        return None if self.matrix is None else self.matrix.T.contiguous()

    @property
    def elements_of_an_entry(self) -> int:
        """What computing a single entry takes."""
        return 1 if self.matrix is not None else self.w_out.shape[1]

    def at(self, neurons: Int[Tensor, "pair"], tokens: Int[Tensor, "pair token"]) -> Float[Tensor, "pair token"]:
        """To a few tokens for each pair."""
        if self.matrix is not None:
            return self.matrix[neurons.unsqueeze(-1), tokens]
        each = self.unembedding.index_select(0, tokens.flatten()).view(*tokens.shape, -1)
        return (each @ self.w_out.index_select(0, neurons).unsqueeze(-1)).squeeze(-1)

    def to_tokens_of(self, tokens: Int[Tensor, "position token"]) -> Float[Tensor, "position token neuron"]:
        """Of every neuron, for some tokens of each position."""
        each = tokens.flatten()
        written = self.unembedding.index_select(0, each) @ self.w_out.T if self._by_token is None else self._by_token.index_select(0, each)
        return written.view(*tokens.shape, -1)

    def to_tokens(self, tokens: slice) -> Float[Tensor, "neuron part"]:
        """Of every neuron, for some of the vocabulary."""
        return self.w_out @ self.unembedding[tokens].T if self.matrix is None else self.matrix[:, tokens]

    def rows(self, positions: Int[Tensor, "pair"], neurons: Int[Tensor, "pair"]) -> Float[Tensor, "pair vocab"]:
        """One whole row for each pair of position and neuron."""
        return self.w_out.index_select(0, neurons) @ self.unembedding.T if self.matrix is None else self.matrix.index_select(0, neurons)

    def along(self, directions: Float[Tensor, "*direction vocab"]) -> Float[Tensor, "*direction neuron"]:
        """Inner products with directions over the vocabulary."""
        return directions @ self.unembedding @ self.w_out.T if self.matrix is None else directions @ self.matrix.T

    def mean_square(self, probability: Float[Tensor, "position vocab"]) -> Float[Tensor, "position neuron"]:
        """E_p B²."""
        total = probability.new_zeros(len(probability), len(self.w_out))
        for tokens in slices(len(self.unembedding), ELEMENTS_AT_ONCE // max(1, len(self.w_out))):
            total.addmm_(probability[:, tokens], self.to_tokens(tokens).square().T)
        return total

    @cached_property
    def extremes(self) -> tuple[Float[Tensor, "neuron"], Float[Tensor, "neuron"]]:
        """Smallest and largest entry of each row."""
        smallest, largest = self.w_out.new_full((len(self.w_out),), torch.inf), self.w_out.new_full((len(self.w_out),), -torch.inf)
        for tokens in slices(len(self.unembedding), ELEMENTS_AT_ONCE // max(1, len(self.w_out))):
            written = self.to_tokens(tokens)
            torch.minimum(smallest, written.amin(-1), out=smallest)
            torch.maximum(largest, written.amax(-1), out=largest)
        return smallest, largest


@dataclass(frozen=True)
class GroupWrites:
    """What groups of neurons write together: at each position another direction, since each neuron changes by its own amount."""

    change: Float[Tensor, "position group d_model"]  # Σ δ w over the group's neurons
    unembedding: Float[Tensor, "vocab d_model"]

    most_at_once = sys.maxsize  # their rows are computed pair by pair

    def within(self, positions: slice, groups: slice | Int[Tensor, "part"]) -> GroupWrites:
        """Those of some positions and groups."""
        return GroupWrites(self.change[positions, groups], self.unembedding)

    def rows(self, positions: Int[Tensor, "pair"], groups: Int[Tensor, "pair"]) -> Float[Tensor, "pair vocab"]:
        """One whole row for each pair of position and group."""
        return self.change[positions, groups] @ self.unembedding.T


def slices(length: int, size: int) -> Iterator[slice]:
    """Consecutive parts of at most ``size``, and of one at least."""
    step = max(1, size)
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
