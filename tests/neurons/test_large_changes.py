"""The path for large changes: new logits, then subtraction."""

from collections.abc import Callable

import torch

from confreg.neurons.large_changes import exact_changes


def test_exact_changes_of_chosen_pairs_equal_the_ablation_done_one_at_a_time(make_last_layer: Callable) -> None:
    layer = make_last_layer(writes=5.0, unembedding=10.0)
    baseline, ablation = layer.fast_inputs()
    position, neuron = torch.tensor([5, 0, 5, 3]), torch.tensor([1, 4, 0, 1])
    change, scale = ablation.activation_change[position, neuron], baseline.scale[position]
    new_scale = ablation.scale(baseline.scale)[position, neuron]
    shrink, along = scale / new_scale - 1, change / new_scale
    logits, write, direction = baseline.scaled_logits[position], ablation.logit_writes[neuron], baseline.frequency_direction
    kept = -(shrink.unsqueeze(1) * logits + along.unsqueeze(1) * write) @ direction
    found = exact_changes(baseline, ablation.logit_writes, (position, neuron), (shrink, along, change / scale, kept))
    expected = layer.slow_changes()
    assert set(found) == set(expected)
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name][position, neuron], atol=1e-10, rtol=1e-10)


def test_a_prediction_that_becomes_certain_loses_all_its_entropy(make_last_layer: Callable) -> None:
    baseline, _ = make_last_layer().fast_inputs()
    certain = torch.full((1, 13), -2000.0, dtype=torch.float64)
    certain[0, baseline.targets[0]] = 2000.0
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    found = exact_changes(baseline, certain, (torch.tensor([0]), torch.tensor([0])), (zero, one, one, zero))
    log_p = baseline.log_probs()[0]
    torch.testing.assert_close(found["loss"], log_p[baseline.targets[:1]])
    torch.testing.assert_close(found["entropy"], (log_p.exp() * log_p).sum().reshape(1))
    assert found["loss_scale_only"].abs().item() < 1e-14
