"""The path for large changes: new logits, then subtraction."""

from collections.abc import Callable

import torch

from confreg.neurons.ablation import Ablation, Baseline
from confreg.neurons.effects import effect_changes
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


def test_a_small_change_whose_frequency_part_is_large_is_recomputed_too() -> None:
    n_tokens = 401
    direction = torch.tensor([0.7, *([0.035, -0.035] * 200)], dtype=torch.float64)
    direction = direction / direction.norm()
    write = 4 * direction.sign().unsqueeze(0)  # no logit moves by more than 4 nats, but 57 along the direction
    logits = torch.zeros(1, n_tokens, dtype=torch.float64)
    logits[0, 0] = 22.0  # nearly all of the probability lies where the frequency part is put back
    log_q = torch.full((n_tokens,), 1 / n_tokens, dtype=torch.float64).log()
    nothing, one = torch.zeros(1, 1), torch.ones(1, 1)
    parts = (logits, torch.zeros(n_tokens), torch.tensor([3]), torch.ones(1), log_q, direction)
    baseline = Baseline(*(each.float() if each.is_floating_point() else each for each in parts))
    found = effect_changes(baseline, Ablation(one, nothing, torch.zeros(1), write.float(), 8)).loss_frozen_frequency
    kept = logits + write - (write @ direction) * direction
    expected = logits.log_softmax(-1)[0, 3] - kept.log_softmax(-1)[0, 3]
    torch.testing.assert_close(found.double().squeeze(), expected, atol=1e-4, rtol=1e-5)
