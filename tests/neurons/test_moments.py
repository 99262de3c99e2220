"""Moments by matrix products against explicit sums over the vocabulary."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from confreg.neurons import shared_moments as module
from confreg.neurons.fields import PositionFields
from confreg.neurons.moment_weights import (
    Weight,
    families,
    folded,
    highest_powers,
    orders_of_moments,
    orders_of_weights,
    temperature_weights,
    tensors_of_series,
)
from confreg.neurons.moments import Moments
from confreg.neurons.shared_moments import SharedMoments


def explicit(fields: PositionFields, write: Tensor, weight: Weight, power: int) -> Tensor:
    """E_p[y^i f^j h^l (B - E_p B)^k] at each position, of one neuron's write to the logits."""
    every = fields.of_tokens()
    centred = write - (every.probability @ write).unsqueeze(-1)
    field = every.logit**weight.logit * every.scaled**weight.scaled * every.log_frequency**weight.log_frequency
    return (every.probability * field * centred**power).sum(-1)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(
    "n_positions",  # more than neurons, or fewer
    [6, 1],
)
@pytest.mark.parametrize("every_variant", [False, True])
@pytest.mark.parametrize("at_once", [(1024, 2**20, 256), (5, 1, 1)])  # tokens in one part, or one by one
def test_every_moment_of_an_expansion_equals_the_sum_over_the_vocabulary(
    make_last_layer: Callable,
    monkeypatch: pytest.MonkeyPatch,
    has_bias: bool,
    n_positions: int,
    every_variant: bool,
    at_once: tuple[int, int, int],
) -> None:
    for name, size in zip(("TOKENS_AT_ONCE", "ELEMENTS_AT_ONCE", "FEWEST_TOKENS"), at_once, strict=True):
        monkeypatch.setattr(module, name, size)
    baseline, ablation = make_last_layer(writes=0.5, n_positions=n_positions).fast_inputs()
    baseline = replace(baseline, output_bias=has_bias * baseline.output_bias)
    fields = PositionFields.of(baseline)
    shared = SharedMoments(fields, ablation.writes.unembedding, every_variant)
    assert shared.is_folded != has_bias
    groups = {4: torch.tensor([3, 0]), 2: torch.tensor([1]), 3: torch.tensor([2, 4])}
    seen = 0
    for order, moments in Moments.of_groups(shared, {order: ablation.writes.part(neurons) for order, neurons in groups.items()}):
        assert moments.order == order
        weights = {**orders_of_weights(order, every_variant), **dict.fromkeys(temperature_weights(order))}
        assert {weight for weight in weights if moments.has(weight)} == set(orders_of_weights(order, every_variant))
        for weight, (column, neuron) in itertools.product(weights, enumerate(groups[order].tolist())):
            found = moments.of(weight)
            write = ablation.writes.to_tokens(slice(None))[neuron]
            torch.testing.assert_close(moments.mean_write[:, column], fields.of_tokens().probability @ write)
            for power, each in enumerate(found):
                values = each.expand(n_positions, len(groups[order]))[:, column]
                torch.testing.assert_close(values, explicit(fields, write, weight, power), atol=1e-10, rtol=1e-9)
                seen += 1
            if weights[weight] is not None:
                assert len(found) - (order - weights[weight] + 1) in ((0, 1) if shared.is_folded else (0,))
    assert seen > 200


def test_an_expansion_to_an_order_holds_every_term_up_to_it() -> None:
    for order in (2, 3, 5, 8):
        powers = {weight: order - taken for weight, taken in orders_of_weights(order, every_variant=True).items()}
        for scaled, log_frequency, write in itertools.product(range(order + 1), repeat=3):
            if scaled + log_frequency + write <= order:  # of the whole prediction, and of the mean of y
                assert powers[Weight(0, scaled, log_frequency)] >= write
                assert powers[Weight(1, scaled, log_frequency)] >= write
            if scaled + write <= order and log_frequency == 0:  # of the mean of h
                assert powers[Weight(0, scaled, 1)] >= write
        without = orders_of_weights(order)
        assert set(without) < set(powers)
        assert list(without.values()) == sorted(without.values())


def test_without_a_bias_fewer_moments_are_different_and_none_takes_more_of_an_order() -> None:
    for order in (2, 3, 5, 8):
        for every_variant in (False, True):
            some, all_of_them = (orders_of_moments(order, every_variant, is_folded) for is_folded in (True, False))
            assert all_of_them == orders_of_weights(order, every_variant)
            assert set(some) == {folded(weight) for weight in all_of_them}
            assert all(some[folded(weight)] <= taken for weight, taken in all_of_them.items())
            assert list(some.values()) == sorted(some.values())
            assert len(some) < len(all_of_them)


@pytest.mark.parametrize("is_folded", [False, True])
def test_families_hold_every_weight_with_every_power_of_the_write(is_folded: bool) -> None:
    for order, every_variant, with_temperature in itertools.product((2, 3, 5, 8), (False, True), (False, True)):
        powers = highest_powers(order, every_variant, is_folded, with_temperature)
        held = {
            (Weight(family.logit, scaled, log_frequency), write)
            for family in families(order, every_variant, is_folded, with_temperature)
            for log_frequency, counts in enumerate(family.counts)
            for write, n_powers in enumerate(counts)
            for scaled in range(n_powers)
        }
        assert held == {(weight, write) for weight, highest in powers.items() for write in range(highest + 1)}
        for family in families(order, every_variant, is_folded, with_temperature):
            for log_frequency, counts in enumerate(family.counts):
                assert list(counts) == sorted(counts, reverse=True)
                assert all(family.n_scaled(log_frequency + 1, write) <= n_powers for write, n_powers in enumerate(counts))
            assert family.n_scaled(len(family.counts), 0) == family.n_scaled(0, order + 1) == 0


def test_moments_without_the_temperature_are_fewer_and_the_same(make_last_layer: Callable) -> None:
    baseline, ablation = make_last_layer(writes=0.5).fast_inputs()
    shared, alone = (SharedMoments(PositionFields.of(baseline), ablation.writes.unembedding, False, each) for each in (True, False))
    assert shared.has_all(False, False)
    assert shared.has_all(False, True)
    assert not shared.has_all(True, False)
    assert not alone.has_all(False, True)
    [(_, few)], [(_, of_alone)] = (Moments.of_groups(each, {4: ablation.writes}, with_temperature=False) for each in (shared, alone))
    [(_, many)] = Moments.of_groups(shared, {4: ablation.writes})
    assert set(alone.with_unembedding) < set(shared.with_unembedding)
    assert set(few.of_place) == set(of_alone.of_place) < set(many.of_place)
    for weight in orders_of_moments(4):
        for power, each in enumerate(few.of(weight)):
            assert torch.equal(each, of_alone.of(weight)[power])
            assert torch.equal(each, many.of(weight)[power])


@pytest.mark.parametrize("is_folded", [False, True])
def test_weights_that_meet_no_power_of_the_write_come_last_and_every_tensor_is_counted(is_folded: bool) -> None:
    for order, every_variant, with_temperature in itertools.product((2, 3, 5, 8), (False, True), (False, True)):
        powers = highest_powers(order, every_variant, is_folded, with_temperature)
        meets = [power > 0 for power in powers.values()]
        assert meets == sorted(meets, reverse=True)
        for weight, taken in orders_of_moments(order, every_variant, is_folded).items():
            assert powers[weight] >= order - taken
        assert tensors_of_series(order, every_variant, is_folded) > sum(powers.values())
