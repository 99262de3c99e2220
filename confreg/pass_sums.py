"""What a pass over the measured blocks leaves, as a metric whose states add up over processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed
from torchmetrics import Metric

from confreg.models.readout import ScoredTokens
from confreg.neurons.ablation import Wanted
from confreg.neurons.effect_sums import EffectSums, columns_of
from confreg.neurons.summaries import POSITION_VALUES
from confreg.neurons.uncertainty import ClusterSums

FOR_THE_RULES = Wanted(scale_only=False, ranks=False, temperature=False)  # all that a control is asked
WANTED = {"layer": Wanted(), "groups": Wanted(), "control": FOR_THE_RULES}


@dataclass(frozen=True)
class PassSizes:
    """How much there is to keep."""

    n_positions: int
    n_clusters: int
    n_neurons: int
    n_draws: int  # of the control
    n_groups: int
    of_the_layer: bool = True  # values and effects of the layer and its groups, and not of control draws alone


class PassSums(Metric):
    """Values at every position, and cluster sums of every effect of the layer, of groups of neurons and of the control draws.

    A process fills in its own positions and leaves zeros for those of the others, so that all states add up.
    """

    full_state_update = False
    values: Tensor  # [value, position]
    activations: Tensor  # [position, neuron]
    counts: Tensor  # [cluster]

    def __init__(self, sizes: PassSizes, like: Tensor) -> None:
        super().__init__(sync_on_compute=False)
        self.sizes = sizes
        n_positions, n_neurons = (sizes.n_positions, sizes.n_neurons) if sizes.of_the_layer else (0, 0)
        width = {"layer": n_neurons, "groups": sizes.n_groups, "control": sizes.n_draws * sizes.n_neurons}
        shapes: dict[str, tuple[int, ...]] = {name: (len(columns_of(WANTED[name])), sizes.n_clusters, width[name]) for name in WANTED}
        shapes |= {"values": (len(POSITION_VALUES), n_positions), "counts": (sizes.n_clusters,)}
        for name, shape in shapes.items():
            self._add_zeros(name, torch.zeros(shape, dtype=torch.float64, device=like.device))
        self._add_zeros("activations", torch.zeros(n_positions, n_neurons, dtype=like.dtype, device=like.device))

    def _add_zeros(self, name: str, zeros: Tensor) -> None:
        self.add_state(name, zeros[:0], dist_reduce_fx="sum")  # a second copy of the default is kept, for a reset: let it be an empty one
        setattr(self, name, zeros)

    def update(self, positions: slice, tokens: ScoredTokens, values: Mapping[str, Tensor]) -> None:
        """Keep what some positions say."""
        self.counts += torch.bincount(tokens.clusters, minlength=len(self.counts))
        if self.sizes.of_the_layer:
            self.activations[positions] = tokens.activations
            for name, each in values.items():
                self.values[POSITION_VALUES.index(name), positions] = each.double()

    def add_effects(self, of: str, sums: EffectSums, place: slice | Int[Tensor, "some"] = slice(None)) -> None:
        """Add the effects of some positions to those of the layer, of the groups, or of a place among the control draws."""
        for row, column in enumerate(columns_of(WANTED[of])):
            getattr(self, of)[row, :, place] += sums.of_column[column].sums

    def compute(self) -> None:
        """Nothing: the states are read by name."""

    def add_up(self) -> None:
        """Add the states of all processes, which all call this; every one has the sums afterwards."""
        self.sync(dist_sync_fn=_added_in_place)
        self._cache = None  # the states before: nobody goes back to them

    def effects(self, of: str, place: slice | Int[Tensor, "some"] = slice(None)) -> EffectSums:
        """The sums over all positions."""
        sums = getattr(self, of)
        return EffectSums({column: ClusterSums(sums[row, :, place], self.counts) for row, column in enumerate(columns_of(WANTED[of]))})

    def places_in_control(self, draw: int, neurons: Int[Tensor, "some"]) -> Int[Tensor, "some"]:
        """Where some neurons of a draw of this pass stand among those of all its draws."""
        return draw * self.sizes.n_neurons + neurons

    def position_values(self, names: tuple[str, ...]) -> dict[str, Float[Tensor, "position"]]:
        """What each position says, by name."""
        return {name: self.values[POSITION_VALUES.index(name)] for name in names}


def _added_in_place(state: Tensor, group: Any = None) -> list[Tensor]:
    """The sum over processes as the only entry: gathering every process's state would take the memory of all of them on each."""
    if state.numel():
        distributed.all_reduce(state, group=group)
    return [state]
