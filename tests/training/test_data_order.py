"""Order as a function of the step."""

from __future__ import annotations

import pytest
import torch

from confreg.training.data_order import StepIndexedBatches, train_loader, validation_loader


@pytest.mark.parametrize("start", [0, 1, 5, 11, 12])
def test_any_start_gives_the_rest_of_the_same_order(start):
    whole = list(StepIndexedBatches(10, 3, 12, seed=4))
    assert list(StepIndexedBatches(10, 3, 12, seed=4, start=start)) == whole[start:]


def test_every_pass_over_a_finite_text_is_a_permutation_and_passes_differ():
    samples = [index for batch in StepIndexedBatches(10, 5, 6, seed=1) for index in batch]
    passes = [samples[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(each) == list(range(10)) for each in passes)
    assert len({tuple(each) for each in passes}) == 3


def test_the_seed_decides_the_order_of_a_finite_text():
    assert list(StepIndexedBatches(10, 5, 2, seed=1)) != list(StepIndexedBatches(10, 5, 2, seed=2))


def test_an_endless_language_is_read_once_from_the_front():
    assert list(StepIndexedBatches(None, 2, 3, seed=9)) == [[0, 1], [2, 3], [4, 5]]


def test_ranks_share_every_global_batch_without_overlap():
    ranks = [list(StepIndexedBatches(10, 2, 5, seed=3, rank=rank, world_size=2)) for rank in (0, 1)]
    joined = [first + second for first, second in zip(*ranks, strict=True)]
    assert joined == list(StepIndexedBatches(10, 4, 5, seed=3))


def test_overfitting_repeats_the_first_batches():
    batches = list(StepIndexedBatches(None, 2, 5, seed=0, repeat=2))
    assert batches == [[0, 1], [2, 3], [0, 1], [2, 3], [0, 1]]


def test_the_length_counts_the_batches_before_the_start_too():
    assert len(StepIndexedBatches(10, 3, 12, seed=4, start=7)) == 12


def test_the_training_loader_gives_the_blocks_of_the_indices(tiny_language):
    batches = StepIndexedBatches(None, 4, 3, seed=0, start=1)
    first = next(iter(train_loader(tiny_language, batches)))
    assert torch.equal(first, tiny_language.train_blocks(range(4, 8)))


def test_validation_draws_nothing_from_the_global_generator(tiny_language):
    before = torch.get_rng_state()
    batches = list(validation_loader(tiny_language, 4, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.cat(batches), tiny_language.measured[:8])
