"""Bounds on changes against the changes themselves."""

from collections.abc import Callable

import pytest
import torch

from confreg.neurons.effects import coefficients
from confreg.neurons.exact import RowsOfPairs
from confreg.neurons.fields import PositionFields
from confreg.neurons.reach import Reach


def rows_and_reach(layer: object, dtype: torch.dtype) -> tuple[RowsOfPairs, Reach, torch.Tensor]:
    baseline, ablation = layer.fast_inputs(dtype)
    fields = PositionFields.of(baseline)
    at = coefficients(fields, ablation)
    pair = torch.ones_like(at.scaled).nonzero(as_tuple=True)
    rows = RowsOfPairs.of(fields, ablation, at.part(pair), pair, dtype)
    return rows, Reach.of(fields, ablation.writes, at), rows.probability


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("writes", [1e-4, 0.1, 5.0])
def test_no_change_of_any_variant_goes_farther_than_the_bounds(make_last_layer: Callable, writes: float, dtype: torch.dtype) -> None:
    for seed in range(5):
        rows, reach, p = rows_and_reach(make_last_layer(writes=writes, n_positions=20, seed=seed), dtype)
        for name in ("total", "frozen_norm", "scale_only", "frozen_frequency"):
            change = getattr(rows, name)
            centred = change - (p * change).sum(-1, keepdim=True)
            for extent in (reach.every, reach.total)[: 2 if name == "total" else 1]:
                assert (centred.abs().amax(-1) <= 1.00001 * extent.largest.flatten()).all(), name
                assert ((p * centred.square()).sum(-1).sqrt() <= 1.001 * extent.spread.flatten()).all(), name


def test_the_bounds_are_not_much_larger_than_what_they_bound(make_last_layer: Callable) -> None:
    rows, reach, p = rows_and_reach(make_last_layer(writes=0.1, n_positions=20), torch.float64)
    centred = rows.total - (p * rows.total).sum(-1, keepdim=True)
    for extent in (reach.every, reach.total):
        assert (centred.abs().amax(-1) / extent.largest.flatten()).median() > 0.4
        assert ((p * centred.square()).sum(-1).sqrt() / extent.spread.flatten()).median() > 0.3


def test_no_change_has_no_reach(make_last_layer: Callable) -> None:
    layer = make_last_layer()
    layer.replacement = layer.activations[0]
    _, reach, _ = rows_and_reach(layer, torch.float32)
    for extent in (reach.every, reach.total):
        assert not extent.largest[0].any()
        assert not extent.spread[0].any()
        assert extent.largest[1:].all()
