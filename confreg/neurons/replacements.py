"""What an ablated activation is replaced by. The name says the set and the axis.

With n a neuron's activation at a scored position, and mean and median of the neuron's activations over every reference position:

    mean_over_reference_tokens                   n -> mean
    median_over_reference_tokens                 n -> median
    zero                                         n -> 0
    fixed_value                                  n -> v, a given number
    scaled_by_factor                             n -> f n, with f a given number
    clipped_above_mean_over_reference_tokens     n -> min(n, mean): what lies above the mean comes down to it
    clipped_below_mean_over_reference_tokens     n -> max(n, mean): what lies below the mean comes up to it
    resampled_from_reference_tokens              n -> the neuron's activation at a reference position that is drawn for each scored one

Source: arXiv 2406.16254, released code, for the mean and for clipping at a mean; the others are common in the field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from numpy.random import PCG64
from torch import Tensor

from confreg.settings import MeasurementRequest

MEBIBYTE = 2**20
ELEMENTS_OF_A_MEDIAN = 2**20  # position x neuron sorted at a time

ReadReference = Callable[[], Iterable[Tensor]]  # each call reads every reference position anew, batch by batch: [... neuron]
Rule = Callable[[Tensor, int], Tensor]  # activations [position neuron] and the first position's index -> replacements, float64


@dataclass(frozen=True)
class Replacement:
    """What takes the place of each activation; made once for a measurement, applied to one batch of scored positions after the other."""

    label: str  # the name, with its number where it has one: fixed_value(0.5)
    rule: Rule

    @classmethod
    def of(cls, request: MeasurementRequest, read_reference: ReadReference, n_reference: int, n_scored: int) -> Replacement:
        """Prepare the replacement that a request names. The reference is read only where the replacement depends on it.

        Args:
            request: ``replacement`` with its number, and ``memory_mib``, the bound on what the median keeps of the reference at a time.
            read_reference: gives the activations at every reference position, batch by batch; called once, by the median once for every
                part of the neurons that fits the memory, by ``zero``, ``fixed_value`` and ``scaled_by_factor`` never.
            n_reference: reference positions that one reading gives.
            n_scored: scored positions of the whole measurement. The resampling keeps the reference positions drawn for them: at most
                the smaller of both numbers times the neurons, which ``memory_mib`` does not bound.

        Raises:
            ValueError: where the reference is needed and gives no position, or fewer than ``n_reference``.
        """
        return cls(request.replacement_label, PREPARED[request.replacement](_Given(request, read_reference, n_reference, n_scored)))

    def applied(self, activations: Float[Tensor, "position neuron"], first_position: int) -> Float[Tensor, "position neuron"]:
        """The values that take the activations' places.

        Args:
            activations: at some consecutive scored positions.
            first_position: index of the first of them among all scored positions of the measurement. The result for a position
                depends on this index and never on how the positions are cut into batches.

        Returns:
            float64: what a factor near 1 or a clip changes keeps its digits when the activation is subtracted.
        """
        return self.rule(activations, first_position)


@dataclass(frozen=True)
class _Given:
    """What a replacement may be prepared from."""

    request: MeasurementRequest
    read_reference: ReadReference
    n_reference: int
    n_scored: int

    def mean(self) -> Float[Tensor, "neuron"]:
        return mean_over_reference_tokens(self.read_reference())

    def median(self) -> Float[Tensor, "neuron"]:
        return median_over_reference_tokens(self.read_reference, self.n_reference, self.request.memory_mib * MEBIBYTE)

    def number(self) -> float:
        number = self.request.replacement_number
        assert number is not None, "check_ranges refuses a request whose replacement lacks its number"
        return number

    def resampled(self) -> Rule:
        """Looked up in what is kept: each reference position that was drawn, once."""
        drawn = drawn_reference_positions(self.request.replacement_seed, self.n_scored, self.n_reference)
        positions, place = torch.unique(drawn, return_inverse=True)
        kept = activations_at(positions, self.read_reference())
        return lambda activations, first: _rows(kept, place, slice(first, first + len(activations)))


def _constant(value: Tensor | float) -> Rule:
    """One value for each neuron, or for all of them, at every position."""
    return lambda activations, _: torch.as_tensor(value, dtype=torch.float64, device=activations.device).expand(activations.shape)


def _scaled(factor: float) -> Rule:
    return lambda activations, _: activations.double() * factor


def _at_most(bound: Float[Tensor, "neuron"]) -> Rule:
    return lambda activations, _: torch.minimum(activations.double(), bound.to(activations.device))


def _at_least(bound: Float[Tensor, "neuron"]) -> Rule:
    return lambda activations, _: torch.maximum(activations.double(), bound.to(activations.device))


def _rows(kept: Float[Tensor, "drawn neuron"], place: Int[Tensor, "scored"], asked: slice) -> Float[Tensor, "position neuron"]:
    if asked.stop > len(place):
        raise ValueError(f"Replacement.applied got scored positions up to {asked.stop}; expected at most n_scored, {len(place)}.")
    return kept[place[asked].to(kept.device)].double()


PREPARED: dict[str, Callable[[_Given], Rule]] = {
    "mean_over_reference_tokens": lambda given: _constant(given.mean()),
    "median_over_reference_tokens": lambda given: _constant(given.median()),
    "zero": lambda _: _constant(0.0),
    "fixed_value": lambda given: _constant(given.number()),
    "scaled_by_factor": lambda given: _scaled(given.number()),
    "clipped_above_mean_over_reference_tokens": lambda given: _at_most(given.mean()),
    "clipped_below_mean_over_reference_tokens": lambda given: _at_least(given.mean()),
    "resampled_from_reference_tokens": lambda given: given.resampled(),
}


def mean_over_reference_tokens(activations: Iterable[Float[Tensor, "... neuron"]]) -> Float[Tensor, "neuron"]:
    """Mean activation of each neuron over every position of every given batch, the first positions included.

    Returns:
        float64.

    Raises:
        ValueError: where no position is given.

    Source:
        arXiv 2406.16254, released code; there the evaluated rows are part of the reference, here they never are.
    """
    total, n_positions = torch.zeros(()), 0
    for batch in activations:
        flat = batch.reshape(-1, batch.shape[-1]).double()
        total = total.to(flat.device) + flat.sum(0)
        n_positions += len(flat)
    if not n_positions:
        raise _no_position("mean_over_reference_tokens")
    return total / n_positions


def median_over_reference_tokens(read_reference: ReadReference, n_reference: int, memory_bytes: int = 2**29) -> Float[Tensor, "neuron"]:
    """Exact median activation of each neuron over every reference position; between the two middle values where their number is even.

    Activations are kept, in their own dtype, of as many neurons at a time as the memory holds; the reference is read once for each such
    part (at GPT-2 small's 3072 neurons and 16,384 positions: once with 512 MiB).

    Args:
        read_reference: gives the activations at every reference position, batch by batch, the same at each call.
        n_reference: positions that one reading gives.
        memory_bytes: bound on what is kept; one neuron always is.

    Returns:
        float64.

    Raises:
        ValueError: where no position is given.
    """
    medians: list[Tensor] = []
    n_done, n_neurons = 0, 1
    while n_done < n_neurons:
        part, n_neurons = _medians_of_part(read_reference(), n_done, n_reference, memory_bytes)
        medians.append(part)
        n_done += len(part)
    return torch.cat(medians)


def _medians_of_part(
    activations: Iterable[Float[Tensor, "... neuron"]], first: int, n_reference: int, memory_bytes: int
) -> tuple[Float[Tensor, "part"], int]:
    """Medians of the neurons from ``first`` on that fit the memory, and how many neurons there are in all."""
    kept, n_neurons = [], 0
    for batch in activations:
        flat = batch.reshape(-1, batch.shape[-1])
        n_neurons, width = flat.shape[1], max(1, memory_bytes // (max(1, n_reference) * flat.element_size()))
        kept.append(flat[:, first : first + width].clone())  # a view would keep the whole batch
    n_positions = sum(map(len, kept))
    if not n_positions:
        raise _no_position("median_over_reference_tokens")
    step = max(1, ELEMENTS_OF_A_MEDIAN // n_positions)
    columns = (torch.cat([each[:, start : start + step] for each in kept]) for start in range(0, kept[0].shape[1], step))
    return torch.cat([_median(each) for each in columns]), n_neurons


def _median(values: Float[Tensor, "position neuron"]) -> Float[Tensor, "neuron"]:
    """Mean of the two middle values, which are one where the number of positions is odd."""
    by_neuron, n_positions = values.T.contiguous(), len(values)
    low, high = (by_neuron.kthvalue(rank, dim=1).values.double() for rank in ((n_positions + 1) // 2, n_positions // 2 + 1))
    return (low + high) / 2


def drawn_reference_positions(seed: int, n_scored: int, n_reference: int) -> Int[Tensor, "scored"]:
    """One reference position for each scored position, drawn with replacement; a function of the seed and the scored position's index.

    All neurons of a scored position share the draw. For one neuron at a time this is as good as a draw of its own: what it is replaced by
    has the same distribution, its own over the reference. For a group it keeps what the neurons do together, for their values come from
    one place of real text; and neurons are compared on equal draws. What two neurons show at a position is not independent then.

    Raises:
        ValueError: where there is no reference position to draw.
    """
    if not n_reference:
        raise _no_position("resampled_from_reference_tokens")
    draws = PCG64(seed).random_raw(n_scored) % n_reference  # no position is likelier than another by more than n_reference / 2^64
    return torch.from_numpy(draws.astype("int64"))


def activations_at(positions: Int[Tensor, "scored"], activations: Iterable[Float[Tensor, "... neuron"]]) -> Float[Tensor, "scored neuron"]:
    """Activations at some positions, counted over all batches, in the order of ``positions``; one reading, only these are kept.

    Raises:
        ValueError: where the batches hold fewer positions.
    """
    found, n_seen = torch.empty(0, 0), 0
    for batch in activations:
        flat = batch.reshape(-1, batch.shape[-1])
        if not n_seen:
            found = flat.new_empty(len(positions), flat.shape[1])
        here = (positions >= n_seen) & (positions < n_seen + len(flat))
        found[here.to(flat.device)] = flat[(positions[here] - n_seen).to(flat.device)]
        n_seen += len(flat)
    if len(positions) and n_seen <= int(positions.max()):
        raise ValueError(f"The reference gave {n_seen} positions; position {int(positions.max())} was expected. Give n_reference as it is.")
    return found


def _no_position(name: str) -> ValueError:
    return ValueError(f"{name} got no position; expected at least one reference block.")
