"""What one call of the closed form needs at once: bounded by its argument, whatever the sizes; and cutting changes nothing."""

from collections.abc import Callable

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from confreg.neurons import effects, ranks, shared_moments
from confreg.neurons import writes as writes_module
from confreg.neurons.ablation import Ablation, Baseline, Wanted
from confreg.neurons.effects import effect_changes
from confreg.neurons.writes import NeuronWrites

MEBIBYTE = 2**20
EVERY = Wanted(every_variant=True)
FIXED_MEBIBYTES = 40  # parts of a constant size, whatever the bound: products of fields, writes, rows and nearest tokens


def layer_of(n_vocabulary: int, n_neurons: int, n_positions: int, size: float) -> tuple[Baseline, Ablation]:
    """Random, with the changes of a middling layer."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    unembedding, residual, w_out = normal(n_vocabulary, 16), normal(n_positions, 16), size * normal(n_neurons, 16)
    counts = torch.randint(1, 1000, (n_vocabulary,), generator=generator).double()
    log_q = (counts / counts.sum()).log().float()
    direction = (log_q - log_q.mean()) / (log_q - log_q.mean()).norm()
    targets = torch.randint(0, n_vocabulary, (n_positions,), generator=generator)
    scale = residual.double().square().mean(-1).sqrt()
    baseline = Baseline(residual @ unembedding.T / scale.float().unsqueeze(1), 0 * log_q, targets, scale, log_q, direction)
    along = residual.double() @ w_out.double().T
    writes = NeuronWrites(w_out, unembedding)
    return baseline, Ablation(normal(n_positions, n_neurons), along, w_out.double().norm(dim=-1), writes, 16)


def peak_mebibytes(call: Callable[[], object]) -> float:
    """Largest sum of bytes of tensors that lived at once, beside those from before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    now = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak / MEBIBYTE


def use_order(monkeypatch: pytest.MonkeyPatch, order: int) -> None:
    monkeypatch.setattr(effects, "cheapest_orders", lambda reach, *_: torch.full((reach.shape[1],), order))


# vocabulary, neurons, positions
@pytest.mark.parametrize("sizes", [(64, 24, 600), (64, 600, 24), (6000, 8, 40)], ids=str)
def test_the_peak_stays_under_the_bound_whatever_is_large(monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int, int]) -> None:
    use_order(monkeypatch, 8)
    inputs = layer_of(*sizes, size=1e-3)
    results = len(EVERY.names()) * sizes[1] * sizes[2] * 4 / MEBIBYTE
    peak = peak_mebibytes(lambda: effect_changes(*inputs, 8 * MEBIBYTE, EVERY))
    assert results < peak < 8 + results + FIXED_MEBIBYTES


def test_without_the_bound_the_peak_is_higher(monkeypatch: pytest.MonkeyPatch) -> None:
    use_order(monkeypatch, 8)
    inputs = layer_of(64, 900, 60, size=1e-3)
    low, high = (peak_mebibytes(lambda bound=bound: effect_changes(*inputs, bound * MEBIBYTE, EVERY)) for bound in (8, 512))
    assert high > 2 * low
    assert high > 8 + FIXED_MEBIBYTES


def test_whole_rows_stay_under_the_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    use_order(monkeypatch, 0)
    inputs, wanted = layer_of(20_000, 8, 20, size=0.003), Wanted(temperature=False)
    assert peak_mebibytes(lambda: effect_changes(*inputs, 8 * MEBIBYTE, wanted)) < 8 + FIXED_MEBIBYTES


@pytest.mark.parametrize("memory_bytes", [2 * 12 * 8 * 13 * 2, 12 * 8 * 13 * 7 + 2 * 60 * 8 * 7 * 3])
@pytest.mark.parametrize("writes", [1e-3, 0.2, 5.0])
def test_cutting_into_parts_changes_nothing(
    make_last_layer: Callable, monkeypatch: pytest.MonkeyPatch, memory_bytes: int, writes: float
) -> None:
    inputs = make_last_layer(n_positions=7, writes=writes).fast_inputs()
    use_order(monkeypatch, 8)  # in every part
    whole = effect_changes(*inputs, wanted=EVERY)
    monkeypatch.setattr(shared_moments, "FEWEST_TOKENS", 3)
    for module, name in ((shared_moments, "ELEMENTS_AT_ONCE"), (ranks, "ELEMENTS_AT_ONCE"), (writes_module, "ELEMENTS_AT_ONCE")):
        monkeypatch.setattr(module, name, 100)
    monkeypatch.setattr(effects, "ELEMENTS_OF_ROWS", 100)
    cut = effect_changes(*inputs, memory_bytes=memory_bytes, wanted=EVERY)
    for name in EVERY.names():
        if name != "divergence_from_temperature":
            torch.testing.assert_close(
                getattr(cut, name), getattr(whole, name), atol=1e-12, rtol=1e-12, msg=lambda text, n=name: f"{n}: {text}"
            )
    least = (cut.divergence_from_temperature, whole.divergence_from_temperature)
    torch.testing.assert_close(*least, atol=1e-8, rtol=0)  # steps end where all pairs of a part are near enough
