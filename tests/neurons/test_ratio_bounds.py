"""The promise of the lower bounds by simulation: few documents, of unequal sizes, with effects that differ much between them."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from confreg.neurons.ratio_bounds import upper_bound_of_ratio
from confreg.neurons.uncertainty import ClusterSums, share_not_in

TRUE_SHARE, CALLED_ABOVE = 0.45, 0.5
SIZES = {"32 positions each": (32, 32), "8 to 48 positions": (8, 48), "2 to 96 positions": (2, 96)}


def draws(n_documents: int, n_draws: int, sizes: tuple[int, int], seed: int, spread: float, leaning: float) -> tuple[Tensor, Tensor]:
    """Sums of part and whole, [document, draw]; their means stand as 0.55 to 1.

    Args:
        sizes: smallest and largest number of positions, even in the logarithm; log-normal are the rest:
        spread: coefficient of variation of a document's mean effect.
        leaning: standard deviation of the logarithm of part over whole: the sums of the part have the longer tail.
    """
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(n_documents, n_draws, generator=generator, dtype=torch.float64)
    size = (sizes[0] * ((sizes[1] + 1) / sizes[0]) ** uniform).floor().clamp(max=sizes[1])
    normal = torch.randn(2, n_documents, n_draws, generator=generator, dtype=torch.float64)
    of_log = math.sqrt(math.log(1 + spread**2))
    whole = size * (of_log * normal[0] - of_log**2 / 2).exp()
    return (1 - TRUE_SHARE) * whole * (leaning * normal[1] - leaning**2 / 2).exp(), whole


def lower_bounds(part: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
    """The share's lower bound of each draw: the columns', and the linearised one."""
    counts = torch.ones(len(part), dtype=torch.float64)
    share = share_not_in(ClusterSums(part, counts), ClusterSums(whole, counts), 1e-9, 16)
    return share.low, share.value - float(stats.t.ppf(0.95, len(part) - 1)) * share.stderr


@pytest.mark.parametrize("n_documents", [16, 25, 64])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("spread", "leaning"), [(0.8, 0.35), (0.8, 0.5), (0.3, 0.5)])
def test_a_share_of_45_percent_is_called_above_one_half_in_at_most_5_percent_of_draws(
    n_documents: int, sizes: str, spread: float, leaning: float
) -> None:
    low, _ = lower_bounds(*draws(n_documents, 4000, SIZES[sizes], 0, spread, leaning))
    assert low.isfinite().all()
    assert (low >= CALLED_ABOVE).double().mean() <= 0.035  # 3 % measured at most; the promise is 5 %


def test_the_linearised_bound_would_call_it_above_one_half_too_often() -> None:
    low, linearised = lower_bounds(*draws(16, 4000, SIZES["2 to 96 positions"], 0, 0.8, 0.5))
    assert (linearised >= CALLED_ABOVE).double().mean() > 0.07
    assert (low >= CALLED_ABOVE).double().mean() < 0.035


@pytest.mark.parametrize("n_documents", [16, 25, 64])
def test_with_documents_of_one_size_and_even_tails_the_bound_lies_above_the_truth_in_5_percent_of_draws(n_documents: int) -> None:
    part, whole = draws(n_documents, 20_000, SIZES["32 positions each"], 1, 0.2, 0.05)
    above = (lower_bounds(part, whole)[0] > TRUE_SHARE).double().mean().item()
    assert 0.03 < above < 0.06


def test_a_left_tail_and_a_part_that_moves_against_the_whole_do_not_break_the_promise() -> None:
    part, whole = draws(25, 8000, SIZES["8 to 48 positions"], 2, 0.5, 0.4)
    for other in (2 * (1 - TRUE_SHARE) * whole - part, (1 - TRUE_SHARE) * (2 * whole.mean() - whole).clamp(min=0)):
        truth = other.mean() / whole.mean()
        bound = upper_bound_of_ratio(other, whole, 0.95)
        assert 0.01 < (bound < truth).double().mean() < 0.065


@pytest.mark.heavy
@pytest.mark.parametrize("n_documents", [16, 25, 64])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("spread", [0.3, 1.2])
@pytest.mark.parametrize("leaning", [0.2, 0.35, 0.5, 0.6])
def test_the_promise_holds_to_the_tails_that_were_seen_in_real_runs(n_documents: int, sizes: str, spread: float, leaning: float) -> None:
    low, _ = lower_bounds(*draws(n_documents, 20_000, SIZES[sizes], 3, spread, leaning))
    assert (low >= CALLED_ABOVE).double().mean() <= 0.045


def test_many_even_documents_have_the_linearised_bound() -> None:
    normal = torch.randn(2, 4000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = 1 + 0.1 * normal[0]
    part = 0.4 * whole + 0.05 * normal[1]
    ratio = part.sum(0) / whole.sum(0)
    stderr = (part - ratio * whole).square().sum(0).sqrt() / whole.sum(0)
    torch.testing.assert_close((upper_bound_of_ratio(part, whole, 0.95) - ratio) / stderr, torch.full_like(ratio, 1.645), rtol=0.02, atol=0)


def test_where_nothing_leans_the_bound_is_where_a_t_test_begins_to_refuse() -> None:
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(2, 20, 1, generator=generator, dtype=torch.float64)
    whole = torch.full((40, 1), 3.0, dtype=torch.float64)  # of one size: jackknife and scatter change nothing beyond a factor
    part = 1.2 + torch.cat([half[0], -half[0]])
    bound = upper_bound_of_ratio(part, whole, 0.95)
    refused = stats.ttest_1samp((part - bound * whole).squeeze(1).numpy(), 0.0, alternative="less")
    assert refused.pvalue == pytest.approx(0.05, rel=1e-5)


def test_a_longer_right_tail_widens_the_bound_and_a_left_one_does_not_narrow_it() -> None:
    whole = torch.ones(30, 1, dtype=torch.float64)
    even = torch.linspace(-1, 1, 30, dtype=torch.float64).unsqueeze(1)
    skewed = even.exp() - even.exp().mean()
    skewed = skewed * (even.norm() / skewed.norm())
    reach = {
        name: upper_bound_of_ratio(0.5 + each, whole, 0.95).item() - 0.5
        for name, each in {"even": even, "right": skewed, "left": -skewed}.items()
    }
    assert reach["right"] > 1.1 * reach["even"]
    assert reach["left"] == pytest.approx(reach["even"])


def test_a_part_that_is_the_same_share_of_every_document_is_known_without_error() -> None:
    whole = draws(20, 6, (2, 96), 0, 0.8, 0.5)[1]
    torch.testing.assert_close(upper_bound_of_ratio(0.25 * whole, whole, 0.95), torch.full((6,), 0.25, dtype=torch.float64))
    assert (upper_bound_of_ratio(whole, whole, 0.95) == 1).all()


def test_the_bound_does_not_depend_on_the_unit_and_moves_with_the_part() -> None:
    part, whole = draws(20, 6, (2, 96), 0, 0.8, 0.5)
    bound = upper_bound_of_ratio(part, whole, 0.95)
    torch.testing.assert_close(upper_bound_of_ratio(1e-9 * part, 1e-9 * whole, 0.95), bound)
    torch.testing.assert_close(upper_bound_of_ratio(part + 0.3 * whole, whole, 0.95), bound + 0.3)


def test_one_document_that_is_nearly_the_whole_effect_leaves_a_wide_bound_and_one_that_is_all_of_it_none() -> None:
    whole = torch.full((20, 1), 1e-4, dtype=torch.float64)
    whole[3] = 1.0
    part = 0.5 * whole * torch.linspace(0.8, 1.2, 20, dtype=torch.float64).unsqueeze(1)
    bound = upper_bound_of_ratio(part, whole, 0.95) - part.sum(0) / whole.sum(0)
    assert bound.item() > 0.05
    whole[whole < 1] = 0.0
    assert upper_bound_of_ratio(0.5 * whole, whole, 0.95).isnan().all()


def test_without_an_effect_or_with_two_documents_there_is_no_bound() -> None:
    zero, some = torch.zeros(20, 2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
    assert upper_bound_of_ratio(zero, zero, 0.95).isnan().all()
    assert upper_bound_of_ratio(some, some, 0.95).isnan().all()
