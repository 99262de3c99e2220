"""What all neurons share of the moments, against powers of the fields."""

from collections.abc import Callable

import torch
from torch import Tensor

from confreg.neurons.fields import PositionFields
from confreg.neurons.moments import Moments
from confreg.neurons.shared_moments import SharedMoments, centre, weighted_predictions


def test_weighted_predictions_are_the_prediction_times_powers_of_the_fields(make_last_layer: Callable) -> None:
    fields = PositionFields.of(make_last_layer().fast_inputs()[0]).of_tokens()
    n_scaled = (5, 4, 1, 2)
    weighted = weighted_predictions(fields, n_scaled)
    assert [len(weighted[logit]) for logit in range(4)] == list(n_scaled)
    for logit, some in weighted.items():
        for scaled, found in enumerate(some):
            torch.testing.assert_close(found, fields.probability * fields.logit**logit * fields.scaled**scaled, atol=1e-13, rtol=1e-11)


def test_shared_moments_grow_with_the_order_that_is_asked_for_and_then_stay(make_last_layer: Callable) -> None:
    baseline, ablation = make_last_layer().fast_inputs()
    shared = SharedMoments(PositionFields.of(baseline), ablation.writes.unembedding, False)

    def after(order: int) -> dict[tuple[int, int], Tensor]:
        assert [each for each, _ in Moments.of_groups(shared, {order: ablation.writes})] == [order]
        return dict(shared.with_unembedding)

    few, many = after(2), after(5)
    assert set(few) < set(many)
    for place, each in few.items():
        assert len(many[place]) >= len(each)
        torch.testing.assert_close(many[place][: len(each)], each, atol=1e-12, rtol=1e-12)
    assert len(many[0, 0]) > len(few[0, 0])
    assert after(3)[0, 0] is many[0, 0]


def test_central_moments_are_those_around_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    values, weight = (torch.randn(50, generator=generator, dtype=torch.float64) for _ in range(2))
    moments = [(weight * values**power).mean().reshape(1, 1) for power in range(6)]
    centre(moments, torch.full((1, 1), 0.7, dtype=torch.float64))
    for power, found in enumerate(moments):
        torch.testing.assert_close(found[0, 0], (weight * (values - 0.7) ** power).mean(), atol=1e-12, rtol=0)
