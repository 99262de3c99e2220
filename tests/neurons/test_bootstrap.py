"""The bootstrap over documents, against loops and known distributions; and the columns' errors against the bootstrap."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from confreg.neurons.bootstrap import bootstrap_mean, bootstrap_share_not_in
from confreg.neurons.uncertainty import ClusterSums, share_not_in


def pair(n_documents: int, n_series: int, seed: int, leaning: float = 0.4) -> tuple[ClusterSums, ClusterSums]:
    """A part that is 0.55 of the whole on average; documents of 8 to 48 positions, effects that differ between them."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(8, 49, (n_documents,), generator=generator).double()
    normal = torch.randn(2, n_documents, n_series, generator=generator, dtype=torch.float64)
    whole = sizes.unsqueeze(1) * (0.5 * normal[0] - 0.125).exp()
    part = 0.55 * whole * (leaning * normal[1] - leaning**2 / 2).exp()
    return ClusterSums(part, sizes), ClusterSums(whole, sizes)


def loop_over_draws(part: Tensor, whole: Tensor, seed: int, n_draws: int) -> tuple[float, float]:
    """Standard deviation and studentised lower bound of one minus the ratio of two lists of sums."""
    generator, n_documents = torch.Generator().manual_seed(seed), len(part)

    def share_and_stderr(chosen: list[int]) -> tuple[float, float]:
        parts, wholes = [part[i].item() for i in chosen], [whole[i].item() for i in chosen]
        ratio = sum(parts) / sum(wholes)
        squares = sum((p - ratio * w) ** 2 for p, w in zip(parts, wholes, strict=True))
        return 1 - ratio, math.sqrt(squares) / sum(wholes)

    share, stderr = share_and_stderr(list(range(n_documents)))
    draws = [share_and_stderr(row.tolist()) for row in torch.randint(n_documents, (n_draws, n_documents), generator=generator)]
    distances = sorted((each - share) / own for each, own in draws)
    shares = torch.tensor([each for each, _ in draws], dtype=torch.float64)
    return shares.std().item(), share - distances[math.ceil(0.95 * (n_draws + 1)) - 1] * stderr


def test_the_bootstrap_of_a_share_equals_the_loop_over_draws() -> None:
    part, whole = pair(12, 2, 0)
    found = bootstrap_share_not_in(part, whole, seed=5, n_draws=99)
    for series in range(2):
        stderr, low = loop_over_draws(part.sums[:, series], whole.sums[:, series], 5, 99)
        assert found.stderr[series].item() == pytest.approx(stderr)
        assert found.low[series].item() == pytest.approx(low)


def test_of_a_mean_of_many_normal_documents_the_bootstrap_says_what_the_textbook_says() -> None:
    values = 3 + torch.randn(200, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = bootstrap_mean(ClusterSums(values, torch.ones(200, dtype=torch.float64)), seed=1)
    expected = values.std(0) / math.sqrt(200)
    torch.testing.assert_close(found.stderr, expected, rtol=0.05, atol=0)
    torch.testing.assert_close(found.low, values.mean(0) - float(stats.t.ppf(0.95, 199)) * expected, rtol=0, atol=0.02)


def test_a_part_that_is_the_same_share_of_every_document_is_known_without_error() -> None:
    whole = pair(20, 3, 0)[1]
    found = bootstrap_share_not_in(ClusterSums(0.25 * whole.sums, whole.counts), whole, seed=0, n_draws=99)
    torch.testing.assert_close(found.stderr, torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(found.low, torch.full((3,), 0.75, dtype=torch.float64))


def test_documents_without_a_position_are_never_drawn() -> None:
    part, whole = pair(20, 3, 0)
    spread = [ClusterSums(torch.zeros(40, 3, dtype=torch.float64), torch.zeros(40, dtype=torch.float64)) for _ in range(2)]
    for each, sums in zip(spread, (part, whole), strict=True):
        each.sums[::2], each.counts[::2] = sums.sums, sums.counts
    found, expected = bootstrap_share_not_in(*spread, seed=0, n_draws=99), bootstrap_share_not_in(part, whole, seed=0, n_draws=99)
    torch.testing.assert_close(found.stderr, expected.stderr)
    torch.testing.assert_close(found.low, expected.low)


def test_the_memory_limit_changes_nothing_but_the_memory() -> None:
    part, whole = pair(20, 7, 0)
    found = bootstrap_share_not_in(part, whole, seed=0, n_draws=99, memory_bytes=20_000)  # three series at a time
    expected = bootstrap_share_not_in(part, whole, seed=0, n_draws=99)
    torch.testing.assert_close(found.stderr, expected.stderr)
    torch.testing.assert_close(found.low, expected.low)


def test_the_draws_are_a_function_of_the_seed_and_leave_the_global_generator_alone() -> None:
    part, whole = pair(20, 3, 0)
    before = torch.get_rng_state()
    first, again, other = (bootstrap_share_not_in(part, whole, seed=seed, n_draws=99).low for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_one_document_alone_has_no_interval_and_a_zero_effect_has_none_either() -> None:
    one = ClusterSums(torch.ones(1, 2, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    assert bootstrap_mean(one, seed=0).stderr.isnan().all()
    assert bootstrap_mean(one, seed=0).low.isnan().all()
    zero = ClusterSums(torch.zeros(20, 2, dtype=torch.float64), torch.ones(20, dtype=torch.float64))
    assert bootstrap_share_not_in(zero, zero, seed=0, n_draws=99).low.isnan().all()


def test_standard_errors_of_the_columns_are_those_of_the_bootstrap() -> None:
    part, whole = pair(64, 20, 1)
    torch.testing.assert_close(whole.stderr(), bootstrap_mean(whole, seed=0).stderr, rtol=0.1, atol=0)
    share = share_not_in(part, whole, 1e-6, 16)
    torch.testing.assert_close(share.stderr, bootstrap_share_not_in(part, whole, seed=0).stderr, rtol=0.1, atol=0)


def test_the_lower_bound_of_the_columns_is_nearer_to_the_bootstraps_than_the_linearised_one() -> None:
    part, whole = pair(32, 200, 2, leaning=0.5)
    share, bootstrap = share_not_in(part, whole, 1e-6, 16), bootstrap_share_not_in(part, whole, seed=0)
    linearised = share.value - float(stats.t.ppf(0.95, 31)) * share.stderr
    assert (share.low - bootstrap.low).abs().median() < 0.5 * (linearised - bootstrap.low).abs().median()
    assert (linearised - bootstrap.low).median() > 0.005  # too sure of itself where the part leans to the right
