"""Standard errors clustered over documents: against loops, a bootstrap and a simulation."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from confreg.neurons.ratio_bounds import upper_bound_of_ratio
from confreg.neurons.uncertainty import ClusterSums, share_not_in


def draw(n_clusters: int, n_series: int, seed: int = 0, largest: int = 6) -> tuple[Tensor, Tensor]:
    """Values [position, series] of mean 1 with an effect of each cluster, and clusters of one to six positions."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, largest + 1, (n_clusters,), generator=generator)
    clusters = torch.repeat_interleave(torch.arange(n_clusters), sizes)
    shared = torch.randn(n_clusters, n_series, generator=generator, dtype=torch.float64)
    own = torch.randn(len(clusters), n_series, generator=generator, dtype=torch.float64)
    return 1 + 0.3 * shared[clusters] + 0.3 * own, clusters


def test_mean_and_standard_error_equal_the_loop_over_clusters() -> None:
    values, clusters = draw(9, 2)
    sums = ClusterSums.of(values, clusters, 9)
    for series in range(2):
        column = values[:, series].tolist()
        mean = sum(column) / len(column)
        total = 0.0
        for cluster in range(9):
            total += sum(value - mean for value, of in zip(column, clusters.tolist(), strict=True) if of == cluster) ** 2
        assert sums.mean()[series].item() == pytest.approx(mean)
        assert sums.stderr()[series].item() == pytest.approx(math.sqrt(total * 9 / 8) / len(column))


def test_with_one_position_in_each_cluster_the_standard_error_is_the_textbook_one() -> None:
    values, _ = draw(30, 1)
    values = values[:30]
    found = ClusterSums.of(values, torch.arange(30), 30).stderr()
    torch.testing.assert_close(found, values.std(0, correction=1) / math.sqrt(30))


def test_copies_of_a_position_within_a_document_do_not_make_the_mean_surer() -> None:
    values, _ = draw(20, 1)
    values = values[:20]
    once = ClusterSums.of(values, torch.arange(20), 20)
    often = ClusterSums.of(values.repeat_interleave(50, 0), torch.arange(20).repeat_interleave(50), 20)
    torch.testing.assert_close(often.stderr(), once.stderr())


def test_a_document_without_a_scored_position_counts_for_nothing() -> None:
    values, clusters = draw(9, 2)
    without, with_empty = ClusterSums.of(values, clusters, 9), ClusterSums.of(values, clusters * 2, 20)
    assert with_empty.n_clusters == without.n_clusters == 9
    torch.testing.assert_close(with_empty.stderr(), without.stderr())
    torch.testing.assert_close(with_empty.mean(), without.mean())


def test_sums_of_two_halves_add_up_to_the_whole() -> None:
    values, clusters = draw(9, 2)
    whole = ClusterSums.of(values, clusters, 9)
    halves = ClusterSums.of(values[:11], clusters[:11], 9) + ClusterSums.of(values[11:], clusters[11:], 9)
    torch.testing.assert_close(halves.sums, whole.sums)
    assert torch.equal(halves.counts, whole.counts)


def test_fp32_values_are_summed_in_float64() -> None:
    values = torch.cat([torch.tensor([[1e8]]), torch.full((1000, 1), 0.25)])
    assert ClusterSums.of(values, torch.zeros(1001, dtype=torch.int64), 1).sums.item() == 1e8 + 250


def test_one_cluster_alone_has_no_standard_error() -> None:
    sums = ClusterSums.of(torch.ones(5, 2), torch.zeros(5, dtype=torch.int64), 1)
    assert sums.stderr().isnan().all()
    assert share_not_in(sums, sums, 1e-6, 16).low.isnan().all()
    assert (share_not_in(sums, sums, 1e-6, 16).value == 0).all()


def test_the_standard_error_covers_the_true_mean_as_often_as_it_says() -> None:
    values, clusters = draw(40, 4000, seed=1)
    sums = ClusterSums.of(values, clusters, 40)
    reach = float(stats.t.ppf(0.975, 39)) * sums.stderr()
    covered = ((sums.mean() - 1).abs() <= reach).double().mean().item()
    assert 0.93 < covered < 0.965


def test_a_standard_error_over_positions_would_cover_far_too_rarely() -> None:
    values, clusters = draw(40, 4000, seed=1)
    naive = ClusterSums.of(values, torch.arange(len(clusters)), len(clusters))
    covered = ((naive.mean() - 1).abs() <= 1.96 * naive.stderr()).double().mean().item()
    assert covered < 0.88


def pair_of_effects(n_clusters: int, n_series: int, seed: int) -> tuple[ClusterSums, ClusterSums, Tensor, Tensor, Tensor]:
    """A part that is 0.4 of the whole on average, in ways that differ between documents."""
    whole, clusters = draw(n_clusters, n_series, seed)
    noise, _ = draw(n_clusters, n_series, seed)
    other = torch.randn(whole.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    part = 0.4 * noise + 0.1 * other
    return ClusterSums.of(part, clusters, n_clusters), ClusterSums.of(whole, clusters, n_clusters), part, whole, clusters


def test_the_share_is_one_minus_a_ratio_of_means() -> None:
    part, whole, part_values, whole_values, _ = pair_of_effects(20, 3, 0)
    share = share_not_in(part, whole, 1e-6, 16)
    torch.testing.assert_close(share.value, 1 - part_values.mean(0) / whole_values.mean(0))
    torch.testing.assert_close(share.low, 1 - upper_bound_of_ratio(part.sums, whole.sums, 0.95))


def test_the_standard_error_of_a_share_is_that_of_a_bootstrap_over_documents() -> None:
    part, whole, *_ = pair_of_effects(60, 3, 0)
    drawn = torch.randint(0, 60, (4000, 60), generator=torch.Generator().manual_seed(2))
    shares = 1 - part.sums[drawn].sum(1) / whole.sums[drawn].sum(1)
    found = share_not_in(part, whole, 1e-6, 16).stderr
    torch.testing.assert_close(found, shares.std(0), rtol=0.1, atol=0)


def test_the_lower_bound_of_a_share_lies_below_the_truth_nineteen_times_in_twenty() -> None:
    part, whole, *_ = pair_of_effects(40, 4000, 3)
    share = share_not_in(part, whole, 1e-6, 16)
    below = (share.low <= 0.6).double().mean().item()
    assert 0.93 < below < 0.965


def test_below_sixteen_documents_a_share_has_no_standard_error_and_no_bound_but_stays() -> None:
    part, whole, *_ = pair_of_effects(15, 3, 0)
    share = share_not_in(part, whole, 1e-6, 16)
    assert share.value.isfinite().all()
    assert share.stderr.isnan().all()
    assert share.low.isnan().all()
    enough = share_not_in(*pair_of_effects(16, 3, 0)[:2], 1e-6, 16)
    assert enough.stderr.isfinite().all()
    assert enough.low.isfinite().all()


def test_below_the_floor_of_the_whole_a_share_is_nan_and_at_the_floor_it_is_not() -> None:
    clusters = torch.arange(20)
    whole = ClusterSums.of(torch.tensor([[0.5, 0.25, 0.0]]).expand(20, 3), clusters, 20)
    part = ClusterSums.of(torch.full((20, 3), 0.125), clusters, 20)
    share = share_not_in(part, whole, 0.5, 16)
    assert share.value[0].item() == 0.75
    for values in (share.value, share.stderr, share.low):
        assert values[1:].isnan().all()


def test_a_part_larger_than_the_whole_gives_a_negative_share() -> None:
    clusters = torch.arange(20)
    part, whole = (ClusterSums.of(torch.full((20, 1), value), clusters, 20) for value in (1.5, 1.0))
    assert share_not_in(part, whole, 1e-6, 16).value.item() == -0.5
