"""The nearest temperature against a search over many of them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from confreg.neurons.ablation import Ablation, Baseline
from confreg.neurons.effects import coefficients
from confreg.neurons.fields import PositionFields
from confreg.neurons.reach import Extent, Reach
from confreg.neurons.temperature_nodes import INVERSE_TEMPERATURES, Nodes, above_unchanged, are_few
from confreg.neurons.temperatures import ROUNDING_NATS, UNCHANGED, Temperatures
from confreg.neurons.writes import NeuronWrites


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """D(first || second) of log-probabilities."""
    return (first.exp() * (first - second)).sum(-1)


class Case:
    """All pairs of a layer, with the predictions before and after."""

    def __init__(self, layer: object, dtype: torch.dtype = torch.float64) -> None:
        baseline, ablation = layer.fast_inputs(dtype)
        self.fields, self.writes = PositionFields.of(baseline), ablation.writes
        self.at = coefficients(self.fields, ablation)
        self.extent = Reach.of(self.fields, self.writes, self.at).total
        self.temperatures = Temperatures(self.fields, self.writes, self.at)
        expected = layer.slow_changes()
        self.divergence, self.least = expected["divergence"].to(dtype), expected["divergence_from_temperature"]
        residual = layer.residual.unsqueeze(1) + (layer.replacement - layer.activations).unsqueeze(-1) * layer.w_out
        self.before, self.after = layer.logits(layer.residual), layer.model.lm_head(layer.model.transformer.ln_f(residual)).log_softmax(-1)

    def improved(self, least: Tensor, extent: Extent | None = None) -> Tensor:
        least = least.to(self.divergence.dtype).clone()
        self.temperatures.improve(least, self.divergence, extent)
        return least.double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(0.01, 1.0), (0.3, 1.0), (1.0, 0.3), (3.0, 3.0)], ids=str)
def test_from_nothing_known_the_lowest_minimum_of_every_pair_is_found(
    make_last_layer: Callable, sizes: tuple[float, float], dtype: torch.dtype
) -> None:
    for seed in range(3):
        case = Case(make_last_layer(writes=sizes[0], unembedding=sizes[1], seed=seed), dtype)
        for extent in (None, case.extent):
            found = case.improved(torch.full_like(case.least, torch.nan), extent)
            torch.testing.assert_close(found, case.least, atol=1e-5, rtol=1e-5)


def test_a_minimum_that_is_not_the_lowest_is_replaced_and_the_lowest_is_kept(make_last_layer: Callable) -> None:
    case = Case(make_last_layer(writes=0.3))  # at position 0, neuron 3, minima lie at 0.33 and at 2.29
    known = case.least.clone()
    known[0, 3] = 2.8686693
    improved = case.improved(known)
    assert improved[0, 3].item() == pytest.approx(2.7570841, abs=1e-6)
    torch.testing.assert_close(improved, case.least, atol=1e-8, rtol=1e-8)


def test_no_pair_takes_its_whole_row_whose_nearby_minimum_is_clearly_the_lowest(
    make_last_layer: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, n_rows = Case(make_last_layer(writes=0.01, unembedding=0.3, n_positions=20)), 0

    def spy(self: Temperatures, start: Tensor, *_: object) -> Tensor:
        nonlocal n_rows
        n_rows += len(start)
        return torch.zeros_like(start)

    monkeypatch.setattr(Temperatures, "_from", spy)
    case.improved(case.least)
    assert n_rows < 10  # of 100


def test_divergences_at_the_nodes_are_those_by_definition(make_last_layer: Callable) -> None:
    case = Case(make_last_layer(writes=0.5))
    some = torch.arange(1, 4)
    nodes = Nodes.of(case.fields.part(some), case.writes.unembedding)
    found = case.temperatures._above_unchanged_at_nodes(nodes, some)
    assert INVERSE_TEMPERATURES[UNCHANGED] == 1
    for node, beta in enumerate(INVERSE_TEMPERATURES):
        tilted = (beta * case.before).log_softmax(-1).unsqueeze(1)
        expected = (divergence(tilted, case.after) - case.divergence)[1:4]
        torch.testing.assert_close(found[:, node], expected, atol=1e-11, rtol=1e-11)


def test_rows_of_pairs_give_what_all_pairs_share(make_last_layer: Callable) -> None:
    case = Case(make_last_layer(writes=0.5))
    pair = torch.tensor([0, 2, 2, 3]), torch.tensor([1, 0, 4, 3])
    above, dip = above_unchanged(case.temperatures._rows(pair), INVERSE_TEMPERATURES)
    nodes = Nodes.of(case.fields, case.writes.unembedding)
    shared = case.temperatures._above_unchanged_at_nodes(nodes, torch.arange(len(case.before)))
    torch.testing.assert_close(above, shared[pair[0], :, pair[1]].T, atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(dip, nodes.dip[pair[0], :, 0].T, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("sizes", [(0.3, 1.0), (3.0, 3.0)], ids=str)
def test_few_pairs_and_many_find_the_same_minima(
    make_last_layer: Callable, monkeypatch: pytest.MonkeyPatch, sizes: tuple[float, float], few: bool
) -> None:
    monkeypatch.setattr("confreg.neurons.temperatures.are_few", lambda *_: few)
    case = Case(make_last_layer(writes=sizes[0], unembedding=sizes[1], seed=5))
    for extent in (None, case.extent):
        found = case.improved(torch.full_like(case.least, torch.nan), extent)
        torch.testing.assert_close(found, case.least, atol=1e-8, rtol=1e-8)


def test_a_pair_at_a_position_is_few_and_all_of_them_are_many() -> None:
    assert are_few(3, 3, 64)
    assert not are_few(300, 3, 64)
    assert are_few(8, 3, 768)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.heavy)])
@pytest.mark.parametrize("writes", [0.001, 0.01, 0.1, 1.0])
def test_where_the_bound_says_that_no_far_temperature_is_better_none_is(
    make_last_layer: Callable, writes: float, dtype: torch.dtype
) -> None:
    case, every = Case(make_last_layer(writes=writes, unembedding=1.0, n_positions=60), dtype), torch.arange(60)
    near = case.temperatures._divergence_at((UNCHANGED - 1, UNCHANGED + 1))
    above = case.temperatures._above_unchanged_at_nodes(Nodes.of(case.fields, case.writes.unembedding), every)
    far = [node for node in range(len(INVERSE_TEMPERATURES)) if node != UNCHANGED]
    for known in (case.least.to(dtype), case.divergence):
        is_near = near > case.temperatures._farthest(known, case.divergence, case.extent, near)
        assert (above[:, far].amin(1) > known - case.divergence)[is_near].all()
        assert is_near.double().mean() > {0.001: 0.99, 0.01: 0.95, 0.1: 0.3, 1.0: 0.0}[writes] - 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.heavy)])
def test_how_far_a_better_temperature_may_be_is_at_least_what_the_whole_row_says(make_last_layer: Callable, dtype: torch.dtype) -> None:
    for writes in (1e-4, 0.01, 1.0):
        case = Case(make_last_layer(writes=writes, unembedding=1.0, n_positions=20), dtype)
        before = case.before.log_softmax(-1).unsqueeze(1)
        change = case.after - before
        centred = change - (before.exp() * change).sum(-1, keepdim=True)
        exact = (before + 2 * centred).logsumexp(-1)
        farthest = case.temperatures._farthest(case.divergence, case.divergence, case.extent, torch.zeros(20, 1))
        assert (farthest >= exact - ROUNDING_NATS[dtype]).all()
        assert (farthest.double() / exact).median() < 30


def test_of_two_minima_the_lower_is_kept_wherever_steps_would_lead(make_last_layer: Callable) -> None:
    case = Case(make_last_layer(writes=0.3))
    for extent in (None, case.extent):
        torch.testing.assert_close(case.improved(case.least, extent), case.least, atol=1e-12, rtol=1e-9)
        assert (case.improved(case.least / 2, extent) <= case.least / 2).all()


def hesitating(gap: float, dtype: torch.dtype) -> tuple[Temperatures, Tensor, Tensor]:
    """A prediction between two tokens, of which the change prefers the one that is ahead: the colder the nearer."""
    logits = torch.tensor([[gap, 0.0, -4.0, -5.0]], dtype=torch.float64)
    direction = torch.tensor([[3.0], [-3.0], [2.0], [2.5]], dtype=torch.float64)
    nothing, log_q = torch.zeros(4, dtype=torch.float64), torch.full((4,), 0.25, dtype=torch.float64).log()
    parts = (logits, nothing, torch.tensor([0]), torch.ones(1, dtype=torch.float64), log_q, nothing)
    baseline = Baseline(*(each.to(dtype) if each.is_floating_point() else each for each in parts))
    one = torch.ones(1, 1, dtype=dtype)
    ablation = Ablation(one, 0 * one, 0 * one[0], NeuronWrites(one, direction.to(dtype)), 1, scale_is_fixed=True)
    fields = PositionFields.of(baseline)
    before, after = logits.log_softmax(-1), (logits + direction.T).log_softmax(-1)
    return Temperatures(fields, ablation.writes, coefficients(fields, ablation)), before, after


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [0.5, 0.1, 0.01, 1e-4])
def test_a_prediction_that_hesitates_is_followed_to_the_cold(gap: float, dtype: torch.dtype) -> None:
    temperatures, before, after = hesitating(gap, dtype)
    betas = torch.linspace(-10, 25, 20001, dtype=torch.float64).exp().unsqueeze(-1)
    at = divergence((betas * before).log_softmax(-1), after)
    whole = divergence(before, after).to(dtype).reshape(1, 1)
    least = torch.full_like(whole, torch.nan)
    temperatures.improve(least, whole)
    assert betas[at.argmin()] > 8
    assert least.item() == pytest.approx(at.min().item(), abs=3e-6 if dtype == torch.float32 else 1e-7)
