"""Effects from series against those of whole rows."""

from collections.abc import Callable

import pytest
import torch

from confreg.neurons.ablation import RANKS, Wanted
from confreg.neurons.effects import coefficients
from confreg.neurons.exact import exact_changes
from confreg.neurons.expanded import expanded_changes
from confreg.neurons.fields import PositionFields
from confreg.neurons.moments import Moments
from confreg.neurons.shared_moments import SharedMoments


@pytest.mark.parametrize(
    "wanted", [Wanted(), Wanted(every_variant=True), Wanted(scale_only=False, temperature=False), Wanted(ranks=False)], ids=str
)
def test_effects_of_small_changes_are_those_of_whole_rows(make_last_layer: Callable, wanted: Wanted) -> None:
    baseline, ablation = make_last_layer(writes=1e-3, unembedding=2.0, n_positions=10).fast_inputs()
    fields = PositionFields.of(baseline)
    at = coefficients(fields, ablation)
    shared = SharedMoments(fields, ablation.writes.unembedding, wanted.every_variant)
    (_, moments), *_ = Moments.of_groups(shared, {8: ablation.writes})
    found = expanded_changes(fields, ablation.writes, at, moments, wanted)
    pair = torch.ones_like(at.scaled).nonzero(as_tuple=True)
    expected = exact_changes(fields, ablation, at, pair, wanted)
    assert set(found) == set(wanted.names()) - set(RANKS)
    if wanted.temperature:
        least = found["divergence_from_temperature"].flatten()
        is_within_reach = ~least.isnan()
        assert is_within_reach.sum() > 25
        found["divergence_from_temperature"] = torch.where(is_within_reach, least, expected["divergence_from_temperature"])
    for name, values in found.items():
        assert expected[name].abs().max() > 1e-9, name
        torch.testing.assert_close(values.flatten(), expected[name], atol=1e-13, rtol=1e-7, msg=lambda text, n=name: f"{n}: {text}")


def test_without_any_change_every_effect_is_exactly_zero(make_last_layer: Callable) -> None:
    layer = make_last_layer()
    layer.replacement, layer.activations = torch.zeros_like(layer.replacement), torch.zeros_like(layer.activations)
    baseline, ablation = layer.fast_inputs(torch.float32)
    fields, wanted = PositionFields.of(baseline), Wanted(every_variant=True)
    (_, moments), *_ = Moments.of_groups(SharedMoments(fields, ablation.writes.unembedding, True), {8: ablation.writes})
    found = expanded_changes(fields, ablation.writes, coefficients(fields, ablation), moments, wanted)
    assert [name for name, values in found.items() if values.any()] == []


def test_divergences_are_never_negative(make_last_layer: Callable) -> None:
    baseline, ablation = make_last_layer(writes=1e-5, n_positions=50).fast_inputs(torch.float32)
    fields = PositionFields.of(baseline)
    (_, moments), *_ = Moments.of_groups(SharedMoments(fields, ablation.writes.unembedding, False), {2: ablation.writes})
    found = expanded_changes(fields, ablation.writes, coefficients(fields, ablation), moments, Wanted())
    least, divergence = found["divergence_from_temperature"], found["divergence"]
    assert (least >= 0).all()
    assert (least <= divergence).all()
    assert divergence.max() > 0
