"""What a measurement will cost, by a clock that says what the test wants."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from confreg import Blocks, MeasurementRequest, estimate_cost
from confreg.cost import Cost, _Law, described

N_VOCAB, N_TOKENS = 19, 10
COUNTS = torch.randint(0, 500, (N_VOCAB,), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def blocks() -> Blocks:
    generator = torch.Generator().manual_seed(2)
    return Blocks(*(torch.randint(0, N_VOCAB, (n, N_TOKENS), generator=generator) for n in (5, 20)))


@pytest.fixture
def model(make_of_family: Callable[..., PreTrainedModel]) -> PreTrainedModel:
    return make_of_family("gpt2")


def test_the_law_of_the_effects_is_found_from_four_timings() -> None:
    law = _Law.through((2, 8), (16, 64), lambda p, n: 5 + 3 * p + 2 * n + 0.5 * p * n)
    assert (law.start, law.position, law.neuron, law.pair) == pytest.approx((5, 3, 2, 0.5))


def test_noise_makes_no_part_of_the_cost_negative() -> None:
    noise = {(2, 16): 5.0, (8, 16): 4.0, (2, 64): 4.5, (8, 64): 3.0}
    law = _Law.through((2, 8), (16, 64), lambda p, n: noise[p, n])
    assert min(law.start, law.position, law.neuron, law.pair) >= 0
    assert _Law.through((1, 1), (1, 1), lambda p, n: 2.0).start == 2.0


def test_the_cost_is_linear_in_control_draws_and_in_blocks(model: PreTrainedModel, blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(draws: int, copies: int = 1) -> float:
        ticks = itertools.count()
        monkeypatch.setattr("confreg.cost.time.perf_counter", lambda: float(next(ticks)))  # every piece takes one second
        many = replace(blocks, reference=blocks.reference.repeat(copies, 1), measured=blocks.measured.repeat(copies, 1))
        return estimate_cost(model, many, COUNTS, MeasurementRequest(control_draws=draws, batch_blocks=2)).seconds

    none, one, four = (seconds(draws) for draws in (0, 1, 4))
    assert one > none
    assert four - none == pytest.approx(4 * (one - none))
    single, double, triple = (seconds(0, copies) for copies in (1, 2, 3))
    assert double > single
    assert triple - double == pytest.approx(double - single)


def test_the_memory_grows_with_what_is_kept_and_with_what_is_allowed(model: PreTrainedModel, blocks: Blocks) -> None:
    usual, drawn = (estimate_cost(model, blocks, COUNTS, MeasurementRequest(control_draws=draws)).memory_mib for draws in (0, 20))
    assert 0 < usual < drawn < 512
    copied = estimate_cost(model.bfloat16(), blocks, COUNTS).memory_mib
    assert copied - usual == pytest.approx(sum(each.numel() for each in model.parameters()) * 4 / 2**20)


def test_an_estimate_leaves_the_model_and_the_random_state_as_they_were(model: PreTrainedModel, blocks: Blocks) -> None:
    model.train()
    before, random = [each.detach().clone() for each in model.parameters()], torch.get_rng_state()
    estimate_cost(model, blocks, COUNTS, MeasurementRequest(control_draws=1))
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(map(torch.equal, model.parameters(), before))


@pytest.mark.parametrize("family", ["gemma2", "llama", "olmo2"])
def test_families_with_other_readouts_have_a_cost_too(make_of_family: Callable[..., PreTrainedModel], blocks: Blocks, family: str) -> None:
    assert estimate_cost(make_of_family(family), blocks, COUNTS, MeasurementRequest(control_draws=1)).seconds > 0


def test_a_time_is_said_with_the_digits_that_an_estimate_has() -> None:
    assert [described(each) for each in (0.52, 31.4, 600, 9000)] == ["about 0.5 s", "about 31 s", "about 10 min", "about 2.5 h"]
    assert str(Cost(0.52, 51.3)) == "about 0.5 s and 51 MiB above the model"
