"""Series against exponentials of whole rows of changes."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from confreg.neurons.effects import coefficients
from confreg.neurons.exact import Exact, RowsOfPairs
from confreg.neurons.fields import PositionFields
from confreg.neurons.moments import Moments
from confreg.neurons.orders import ORDERS
from confreg.neurons.series import Series, expansion, series
from confreg.neurons.shared_moments import SharedMoments

VARIANTS = ("total", "frozen_norm", "scale_only", "frozen_frequency")


def test_a_series_is_that_of_the_exponential_without_its_first_term() -> None:
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)
    coefficients_of = [torch.full_like(x, each) for each in (2.0, -3.0, 5.0, 7.0)]
    terms = [x**n / math.factorial(n) * c for n, c in enumerate(coefficients_of, start=1)]
    torch.testing.assert_close(series(x, coefficients_of), sum(terms))
    torch.testing.assert_close(expansion(x, [torch.full_like(x, 11.0), *coefficients_of]), 11.0 + sum(terms))
    assert not series(x, []).any()


def both(layer: object, order: int) -> tuple[Series, Exact, RowsOfPairs]:
    baseline, ablation = layer.fast_inputs()
    fields = PositionFields.of(baseline)
    at = coefficients(fields, ablation)
    shared = SharedMoments(fields, ablation.writes.unembedding, every_variant=True)
    (_, moments), *_ = Moments.of_groups(shared, {order: ablation.writes})
    pair = torch.ones_like(at.scaled).nonzero(as_tuple=True)
    rows = RowsOfPairs.of(fields, ablation, at.part(pair), pair, torch.float64)
    return Series(moments, at), Exact(rows, fields, pair[0]), rows


def errors(layer: object, order: int) -> dict[tuple[str, str], Tensor]:
    """Of each expansion in each variant, over all pairs."""
    found, exact, rows = both(layer, order)
    of_series = {"total": found.total(), "frozen_norm": found.frozen_norm(), "scale_only": found.scale_only()}
    of_series["frozen_frequency"] = found.frozen_frequency(every_variant=True)
    worst = {}
    for variant in VARIANTS:
        expected, _ = exact.tilted(getattr(rows, variant))
        for name in ("divergence", "mean_change", "logit", "log_frequency"):
            values = getattr(of_series[variant], name)
            if values is not None:
                worst[variant, name] = (values.flatten() - getattr(expected, name)).abs().max()
    return worst


@pytest.mark.parametrize("order", ORDERS)
def test_half_the_change_divides_the_error_by_the_power_that_comes_next(make_last_layer: Callable, order: int) -> None:
    """What tells a series to its order from one with a wrong coefficient anywhere: only the first falls that fast."""
    coarse, fine = (errors(make_last_layer(writes=size, n_positions=10), order) for size in (0.02, 0.01))
    assert {name for _, name in coarse} == {"divergence", "mean_change", "logit", "log_frequency"}
    assert {variant for variant, name in coarse if name == "logit"} == {"total", "frozen_norm", "frozen_frequency"}
    for key, error in coarse.items():
        assert error < 0.02, key
        assert fine[key] < error / 2 ** (order + 0.5) + 2e-15, key


def test_what_nobody_asked_for_of_the_frozen_frequency_is_none(make_last_layer: Callable) -> None:
    found, _, _ = both(make_last_layer(writes=0.01), 4)
    short, whole = found.frozen_frequency(), found.frozen_frequency(every_variant=True)
    assert short.mean_change is short.logit is short.log_frequency is None
    assert torch.equal(short.divergence, whole.divergence)
    assert found.scale_only().logit is None


def test_the_best_temperature_is_that_of_whole_rows(make_last_layer: Callable) -> None:
    found, exact, rows = both(make_last_layer(writes=0.003, n_positions=20), 8)
    tilted, centred = exact.tilted(rows.total)
    expected = exact.least_divergence(tilted, centred)
    least = found.least_divergence(found.total().divergence).flatten()
    assert expected.max() > 1e-5
    torch.testing.assert_close(least, expected, atol=1e-11, rtol=1e-5)


def test_a_change_along_the_logits_alone_is_a_temperature_in_full(make_last_layer: Callable) -> None:
    layer = make_last_layer(writes=0.01)
    layer.model.transformer.ln_f.bias.zero_()
    baseline, ablation = layer.fast_inputs()
    fields = PositionFields.of(baseline)
    at = coefficients(fields, ablation)
    nothing = torch.zeros_like(at.scaled)
    at = type(at)(torch.full_like(at.scaled, -0.02), nothing, nothing, nothing)
    shared = SharedMoments(fields, ablation.writes.unembedding, every_variant=False)
    (_, moments), *_ = Moments.of_groups(shared, {6: ablation.writes})
    found = Series(moments, at)
    divergence = found.total().divergence
    assert divergence.min() > 1e-6
    assert found.least_divergence(divergence).max() < 1e-10
