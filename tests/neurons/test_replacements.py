"""What an activation is replaced by."""

import pytest
import torch

from confreg.neurons.replacements import mean_over_reference_tokens


def test_the_mean_equals_the_loop_over_every_position_of_batches_of_different_size() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(n_blocks, 4, 3, generator=generator, dtype=torch.float64) for n_blocks in (2, 1, 5)]
    total, n_positions = [0.0, 0.0, 0.0], 0
    for batch in batches:
        for block in batch.tolist():
            for position in block:
                total = [a + b for a, b in zip(total, position, strict=True)]
                n_positions += 1
    expected = torch.tensor([each / n_positions for each in total], dtype=torch.float64)
    torch.testing.assert_close(mean_over_reference_tokens(batches), expected)


def test_the_first_position_of_a_block_counts_like_any_other() -> None:
    activations = torch.zeros(1, 4, 1)
    activations[0, 0] = 8.0
    assert mean_over_reference_tokens([activations]).item() == 2


def test_small_values_are_not_lost_beside_a_long_fp32_sum() -> None:
    batches = (torch.full((1, 1000, 1), value) for value in [1e7] + 99 * [0.5])
    found = mean_over_reference_tokens(batches)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx((1e7 + 99 * 0.5) / 100, rel=1e-12)


def test_no_position_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one reference block"):
        mean_over_reference_tokens([])
    with pytest.raises(ValueError, match="at least one reference block"):
        mean_over_reference_tokens([torch.zeros(0, 4, 3)])
