"""Effects of interventions at the scored positions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from confreg import Blocks, MeasurementRequest, measure
from confreg.interventions.changes import DownstreamChanges, downstream_changes
from confreg.interventions.downstream import downstream_log_probs
from confreg.interventions.replacing import Intervention, site_activations

Maker = Callable[..., PreTrainedModel]
COUNTS = torch.randint(0, 500, (19,), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def blocks() -> Blocks:
    generator = torch.Generator().manual_seed(2)
    reference, measured = (torch.randint(0, 19, (n, 10), generator=generator) for n in (5, 20))
    return Blocks(reference, measured, excluded_ids=(2, 7), documents=torch.arange(20) // 2 + 5)


def of(changes: DownstreamChanges) -> dict[str, Tensor]:
    return {name: getattr(changes, name) for name in DownstreamChanges.__annotations__}


def test_changes_at_scored_positions_are_those_of_the_loop_over_interventions_and_positions(make_of_family: Maker, blocks: Blocks) -> None:
    model = make_of_family("llama", torch.float64)
    interventions = [Intervention(0, 0.5, neurons=(3,)), Intervention(1, -0.2, neurons=(3, 4)), Intervention(0, 0.0, heads=(1,))]
    changes = downstream_changes(model, blocks, COUNTS, interventions, batch_blocks=7)
    log_q = ((COUNTS + 1).double() / (COUNTS + 1).sum()).log()
    with torch.no_grad():
        before = model(input_ids=blocks.measured).logits.log_softmax(-1)
    for which, intervention in enumerate(interventions):
        total, frozen = (downstream_log_probs(model, blocks.measured, intervention, each) for each in (False, True))
        for row, (block, position) in enumerate(blocks.scored_positions().nonzero().tolist()):
            old, new, direct = before[block, position], total[block, position], frozen[block, position]
            target = blocks.measured[block, position + 1]
            expected = {
                "loss": old[target] - new[target],
                "loss_frozen_norm": old[target] - direct[target],
                "entropy": (old.exp() * old).sum() - (new.exp() * new).sum(),
                "entropy_frozen_norm": (old.exp() * old).sum() - (direct.exp() * direct).sum(),
                "kl_from_frequency": (log_q.exp() * (old - new)).sum(),
                "kl_to_frequency": (new.exp() * (new - log_q)).sum() - (old.exp() * (old - log_q)).sum(),
            }
            for name, value in expected.items():
                torch.testing.assert_close(getattr(changes, name)[row, which], value, atol=1e-5, rtol=0)
            assert changes.clusters[row] == block // 2


def test_effects_in_the_last_layer_are_the_columns_of_the_closed_form(make_of_family: Maker, blocks: Blocks) -> None:
    model = make_of_family("gpt2")
    mean = site_activations(model, blocks.reference, 1).double().mean((0, 1))
    interventions = [Intervention(1, float(mean[neuron]), neurons=(neuron,)) for neuron in range(12)]
    columns = downstream_changes(model, blocks, COUNTS, interventions).columns(MeasurementRequest(share_floor_nats=1e-4))
    neurons = measure(model, blocks, COUNTS, MeasurementRequest(share_floor_nats=1e-4))["neurons"]
    for name, values in columns.items():
        expected = torch.tensor([float("nan") if each is None else each for each in neurons[name].to_pylist()]).double()
        torch.testing.assert_close(values, expected, atol=3e-6, rtol=1e-3, equal_nan=True, msg=name)


def test_a_replacement_of_its_own_for_every_block_goes_with_its_block(make_of_family: Maker, blocks: Blocks) -> None:
    model = make_of_family("gpt2")
    own = site_activations(model, blocks.measured, 0)
    interventions = [Intervention(0, own, neurons=tuple(range(12))), Intervention(0, own[..., :1] + 1.0, neurons=(0,))]
    whole, cut = (of(downstream_changes(model, blocks, COUNTS, interventions, batch_blocks=size)) for size in (20, 3))
    for name, values in whole.items():
        torch.testing.assert_close(cut[name], values, atol=2e-6, rtol=0)
    assert whole["loss"][:, 0].abs().max() < 1e-5 < 1e-3 < whole["loss"][:, 1].abs().max()


def test_no_intervention_is_refused(make_of_family: Maker, blocks: Blocks) -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        downstream_changes(make_of_family("gpt2"), blocks, COUNTS, [])
