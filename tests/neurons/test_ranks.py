"""Arg max and rank from the nearest tokens against sorting whole rows."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from confreg.neurons import ranks as module
from confreg.neurons import writes as writes_module
from confreg.neurons.ablation import Ablation, Baseline
from confreg.neurons.effects import coefficients
from confreg.neurons.fields import PositionFields
from confreg.neurons.ranks import Neighbours, _Count, reciprocal_rank_change
from confreg.neurons.writes import NeuronWrites


def above(logits: Tensor, token: int) -> int:
    """Tokens in front of this one in descending order; those with its own logit come after it."""
    return sum(each > logits[token].item() for each in logits.tolist())


def changed_logits(baseline: Baseline, ablation: Ablation) -> Tensor:
    """Of every pair, [position, neuron, vocab]."""
    scale = ablation.scale(baseline.scale)
    shrink, along = baseline.scale.unsqueeze(1) / scale, ablation.activation_change / scale
    write = ablation.writes.to_tokens(slice(None))
    return shrink.unsqueeze(-1) * baseline.scaled_logits.unsqueeze(1) + along.unsqueeze(-1) * write + baseline.output_bias


def more_above(baseline: Baseline, ablation: Ablation, token: Tensor, pairs: Tensor | None = None) -> Tensor:
    fields = PositionFields.of(baseline)
    at = coefficients(fields, ablation)
    everything = torch.ones_like(at.scaled, dtype=torch.bool)
    return Neighbours(fields, token).more_above(ablation.writes, at, everything if pairs is None else pairs)


@pytest.mark.parametrize(("many_tokens", "share_of_a_row"), [(0, 0.2), (3, 0.6), (40, 1.0)])  # near tokens decide seldom, often, and always
@pytest.mark.parametrize("at_once", [1, 2**20])
@pytest.mark.parametrize("kept_writes", [0, 2**22])
@pytest.mark.parametrize("writes", [0.003, 0.1, 3.0])
def test_counts_are_those_of_sorted_rows_whatever_the_window(
    make_last_layer: Callable,
    monkeypatch: pytest.MonkeyPatch,
    many_tokens: int,
    share_of_a_row: float,
    at_once: int,
    kept_writes: int,
    writes: float,
) -> None:
    monkeypatch.setattr(module, "MANY_TOKENS", many_tokens)
    monkeypatch.setattr(module, "SHARE_OF_A_ROW", share_of_a_row)
    monkeypatch.setattr(module, "ELEMENTS_AT_ONCE", at_once)
    monkeypatch.setattr(writes_module, "ELEMENTS_AT_ONCE", kept_writes)
    baseline, ablation = make_last_layer(writes=writes, unembedding=0.3, n_vocabulary=40).fast_inputs()
    after = changed_logits(baseline, ablation)
    for token in (baseline.targets, baseline.logits().argmax(-1)):
        found = more_above(baseline, ablation, token)
        for position in range(6):
            for neuron in range(5):
                before = above(baseline.logits()[position], int(token[position]))
                assert before + found[position, neuron] == above(after[position, neuron], int(token[position]))
    if writes > 0.01:
        assert found.any()


def test_most_pairs_are_decided_by_a_few_tokens(make_last_layer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    windows, n_looked_at, count = [], [], _Count._of_pairs

    def spy(self: _Count, pair: tuple[Tensor, Tensor], gaps: tuple[Tensor, Tensor], write_and_own: tuple[Tensor, Tensor]) -> None:
        windows.append(gaps[0].shape[-1])
        n_looked_at.append(gaps[0].numel())
        count(self, pair, gaps, write_and_own)

    monkeypatch.setattr(_Count, "_of_pairs", spy)
    monkeypatch.setattr(module, "MANY_TOKENS", 4)
    monkeypatch.setattr(module, "SHARE_OF_A_CROWD", 2.0)
    baseline, ablation = make_last_layer(writes=0.05, n_positions=50, n_vocabulary=400).fast_inputs()
    more_above(baseline, ablation, baseline.logits().argmax(-1))
    assert len(set(windows) - {400}) > 1  # the usual neurons' first, then with more tokens those that carry farther
    assert max(set(windows) - {400}) <= 0.25 * 400 + 1
    assert sum(n_looked_at) < 50 * 5 * 400 / 10


@pytest.mark.parametrize("share_of_a_crowd", [0.0, 2.0])  # all neurons of a position at once, or pair by pair
def test_counts_do_not_depend_on_whether_all_neurons_of_a_position_are_looked_at(
    make_last_layer: Callable, monkeypatch: pytest.MonkeyPatch, share_of_a_crowd: float
) -> None:
    baseline, ablation = make_last_layer(writes=0.1, unembedding=0.3, n_positions=30, n_vocabulary=100).fast_inputs()
    as_ever = more_above(baseline, ablation, baseline.targets)
    monkeypatch.setattr(module, "SHARE_OF_A_CROWD", share_of_a_crowd)
    assert as_ever.any()
    assert torch.equal(more_above(baseline, ablation, baseline.targets), as_ever)


def test_other_pairs_than_those_asked_for_are_left_at_zero(make_last_layer: Callable) -> None:
    baseline, ablation = make_last_layer(writes=3.0, n_vocabulary=40).fast_inputs()
    whole = more_above(baseline, ablation, baseline.targets)
    pairs = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    assert whole[~pairs].any()
    assert torch.equal(more_above(baseline, ablation, baseline.targets, pairs), whole * pairs)


@pytest.mark.parametrize("amount", [torch.inf, torch.nan])
@pytest.mark.parametrize("is_counted", [True, False])
def test_a_pair_without_a_finite_change_leaves_the_others_as_they_are(make_last_layer: Callable, amount: float, is_counted: bool) -> None:
    baseline, ablation = make_last_layer(writes=0.1, unembedding=0.3, n_positions=30, n_vocabulary=100).fast_inputs()
    as_ever = more_above(baseline, ablation, baseline.targets)
    broken = ablation.activation_change.clone()
    broken[::2, 3] = amount
    pairs = torch.ones_like(broken, dtype=torch.bool)
    pairs[:, 3] = is_counted
    found = more_above(baseline, replace(ablation, activation_change=broken), baseline.targets, pairs)
    assert as_ever[:, [0, 1, 2, 4]].any()
    assert torch.equal(found[:, [0, 1, 2, 4]], as_ever[:, [0, 1, 2, 4]])


def ties(change: float) -> tuple[Tensor, Tensor]:
    """Two tokens share the largest logit; the write moves the second of them, at all but the first position."""
    logits = torch.tensor([0.0, 3.0, 3.0, 1.0], dtype=torch.float64).expand(2, 4).contiguous()
    log_q = torch.full((4,), 0.25, dtype=torch.float64).log()
    baseline = Baseline(logits, torch.zeros_like(log_q), torch.tensor([1, 1]), torch.ones(2, dtype=torch.float64), log_q, 0 * log_q)
    write = torch.tensor([[0.0], [0.0], [change], [0.0]], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    amount = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    ablation = Ablation(amount, 0 * amount, 0 * one[0], NeuronWrites(one, write), 1, scale_is_fixed=True)
    return tuple(more_above(baseline, ablation, token)[:, 0] for token in (baseline.targets, logits.argmax(-1)))


@pytest.mark.parametrize(("change", "expected"), [(1e-9, [0, 1]), (-1e-9, [0, 0])])
def test_a_tie_changes_nothing_until_one_of_both_moves_up(change: float, expected: list[int]) -> None:
    of_target, of_top = ties(change)
    assert of_target.tolist() == of_top.tolist() == expected


def test_reciprocal_ranks_are_counted_from_one() -> None:
    before, after = torch.tensor([0, 3, 9]), torch.tensor([1, 0, 9])
    torch.testing.assert_close(
        reciprocal_rank_change(before.double(), after.double()), torch.tensor([-0.5, 0.75, 0.0], dtype=torch.float64)
    )
