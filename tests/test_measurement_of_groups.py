"""Neurons replaced together: against the real model with hooks, against the neurons' own rows, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from confreg import Blocks, MeasurementRequest, measure
from confreg.models.families import final_norm, last_down_projection
from confreg.models.readout import Readout, ScoredTokens, capture
from confreg.neurons.ablation import Baseline, EffectChanges, Wanted
from confreg.neurons.effects import effect_changes
from confreg.neurons.frequency import Frequency
from confreg.records.schema import GROUPS, IDENTITY, NEURONS
from confreg.settings import SettingError

N_VOCAB, N_TOKENS, N_NEURONS = 19, 10, 12
COUNTS = torch.randint(0, 500, (N_VOCAB,), generator=torch.Generator().manual_seed(1))
# LayerNorm, RMSNorm with a gated MLP, a norm behind the MLP, a soft-cap alone, both of them
families = pytest.mark.parametrize("family", ["gpt2", "llama", "olmo2", "vaultgemma", "gemma2"])
TOGETHER: dict[str, Any] = {"all": range(N_NEURONS), "few": [3, 7, 8], "one": [5]}
EFFECTS = [name for name in GROUPS.names if name in NEURONS.names and name not in (*IDENTITY, "layer", "replacement")]


@pytest.fixture
def blocks() -> Blocks:
    generator = torch.Generator().manual_seed(2)
    reference, measured = (torch.randint(0, N_VOCAB, (n, N_TOKENS), generator=generator) for n in (5, 20))
    return Blocks(reference, measured, excluded_ids=(2, 7))


class InDouble:
    """A model in float64, the closed form on it, and the same by hooks on its own modules."""

    def __init__(self, model: PreTrainedModel, blocks: Blocks, without_rounding: Callable) -> None:
        self.model, self.blocks, self.without_rounding = model, blocks, without_rounding
        self.scored = blocks.scored_positions()
        with without_rounding():
            self.activations = capture(model, blocks.measured).activations
            self.replaced = capture(model, blocks.reference).activations.mean((0, 1)).expand_as(self.activations)
            self.tokens: ScoredTokens = capture(model, blocks.measured).at(self.scored, blocks.measured, blocks.clusters())
        self.readout = Readout.of(model)
        self.frequency = Frequency.of(COUNTS, N_VOCAB, like=self.readout.unembedding)

    @property
    def baseline(self) -> Baseline:
        return self.readout.baseline(self.tokens, self.frequency)

    def closed_form(self, groups: dict[str, Any]) -> EffectChanges:
        members = [torch.tensor(each) for each in groups.values()]
        ablation = self.readout.group_ablation(self.tokens, self.replaced[self.scored], members)
        return effect_changes(self.baseline, ablation, wanted=Wanted(every_variant=True))

    def closed_form_of_each(self) -> EffectChanges:
        writes = self.readout.writes(self.readout.w_out)
        ablation = self.readout.ablation(self.tokens, self.replaced[self.scored], writes)
        return effect_changes(self.baseline, ablation, wanted=Wanted(every_variant=True))

    def logits_by_hooks(self, neurons: Any) -> dict[str, Tensor]:
        """Logits [position, vocab] of each variant; the final norm divides by the scale that the variant says."""
        norm, changed = self.readout.norm, self.activations.clone()
        changed[..., list(neurons)] = self.replaced[..., list(neurons)]
        seen: list[Tensor] = []

        def run(activations: Tensor, through: Callable[[Tensor], Tensor] | None = None) -> Tensor:
            hooks = [last_down_projection(self.model).register_forward_pre_hook(lambda *_: (activations,))]
            hooks += [final_norm(self.model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))]
            if through is not None:
                hooks += [final_norm(self.model).register_forward_hook(lambda _module, inputs, _output: through(inputs[0]))]
            with torch.no_grad(), self.without_rounding():
                logits = self.model(input_ids=self.blocks.measured).logits
            for hook in hooks:
                hook.remove()
            return logits[self.scored]

        logits = {"before": run(self.activations), "total": run(changed)}
        scale, new_scale = (norm.scale(each) for each in seen)
        logits["frozen_norm"] = run(changed, lambda residual: norm.applied(residual, scale))
        logits["scale_only"] = run(self.activations, lambda residual: norm.applied(residual, new_scale))
        return logits

    def by_hooks(self, neurons: Any) -> dict[str, Tensor]:
        """Changes by their definitions, by the names of ``EffectChanges``."""
        logits, target = self.logits_by_hooks(neurons), self.tokens.targets.unsqueeze(-1)
        log_q = ((COUNTS + 1).double() / (COUNTS + 1).sum()).log()
        direction = nn.functional.normalize(log_q - log_q.mean(), dim=0)
        kept = ((logits["before"] - logits["total"]) @ direction).unsqueeze(-1)
        logits["frozen_frequency"] = logits["total"] + kept * direction
        measures = {
            "loss": lambda log_p: -log_p.gather(-1, target).squeeze(-1),
            "entropy": lambda log_p: -(log_p.exp() * log_p).sum(-1),
            "kl_from_frequency": lambda log_p: (log_q.exp() * (log_q - log_p)).sum(-1),
            "kl_to_frequency": lambda log_p: (log_p.exp() * (log_p - log_q)).sum(-1),
            "reciprocal_rank": lambda log_p: 1 / (1 + (log_p > log_p.gather(-1, target)).sum(-1).double()),
        }
        of = {name: {key: measure_of(each.log_softmax(-1)) for key, each in logits.items()} for name, measure_of in measures.items()}
        changes = {name: each["total"] - each["before"] for name, each in of.items()}
        for path in ("frozen_norm", "frozen_frequency"):
            changes |= {f"{name}_{path}": of[name][path] - of[name]["before"] for name in ("loss", "entropy", "kl_from_frequency")}
        changes["loss_scale_only"] = of["loss"]["scale_only"] - of["loss"]["before"]
        changes["argmax"] = (logits["total"].argmax(-1) != logits["before"].argmax(-1)).double()
        return changes


@families
def test_a_group_is_the_real_model_with_all_of_its_neurons_replaced_by_hooks(
    family: str, make_of_family: Callable, without_rounding: Callable, blocks: Blocks
) -> None:
    model = InDouble(make_of_family(family, torch.float64), blocks, without_rounding)
    found = model.closed_form(TOGETHER)
    for column, neurons in enumerate(TOGETHER.values()):
        for name, expected in model.by_hooks(neurons).items():
            torch.testing.assert_close(getattr(found, name)[:, column], expected.double(), atol=1e-10, rtol=0, msg=f"{name} of {neurons}")


@families
def test_a_group_of_one_neuron_changes_what_the_neuron_changes(
    family: str, make_of_family: Callable, without_rounding: Callable, blocks: Blocks
) -> None:
    model = InDouble(make_of_family(family, torch.float64), blocks, without_rounding)
    alone, found = model.closed_form_of_each(), model.closed_form({str(neuron): [neuron] for neuron in range(N_NEURONS)})
    for name in Wanted(every_variant=True).names():
        torch.testing.assert_close(getattr(found, name), getattr(alone, name), atol=1e-10, rtol=0, msg=name)


@families
def test_the_row_of_a_group_of_one_neuron_has_the_columns_of_the_neurons_row(family: str, make_of_family: Callable, blocks: Blocks) -> None:
    records = measure(make_of_family(family), blocks, COUNTS, MeasurementRequest(groups={"one": [5]}))
    neuron, (group,) = records["neurons"].to_pylist()[5], records["groups"].to_pylist()
    assert (group["layer"], group["n_neurons"]) == (1, 1)
    assert len(EFFECTS) == 12 * 2 + 5 * 3
    for name in EFFECTS:
        tolerance = 1e-5 if "share" in name else 1e-6  # a ratio of small changes: the rounding of each is divided by their sum
        assert group[name] == pytest.approx(neuron[name], abs=tolerance), name
    assert {name: group[name] for name in (*IDENTITY, "replacement")} == {name: neuron[name] for name in (*IDENTITY, "replacement")}


def test_effects_of_a_group_are_no_sum_of_effects_and_the_rest_of_the_measurement_stays(make_of_family: Callable, blocks: Blocks) -> None:
    model = make_of_family("gpt2")
    plain, records = measure(model, blocks, COUNTS), measure(model, blocks, COUNTS, MeasurementRequest(groups=TOGETHER))
    assert "groups" not in plain
    assert all(plain[table].equals(records[table]) for table in plain)
    rows = {row["group"]: row for row in records["groups"].to_pylist()}
    assert list(rows) == ["all", "few", "one"]
    assert [row["n_neurons"] for row in rows.values()] == [12, 3, 1]
    sum_of_three = sum(records["neurons"]["loss_change"][neuron].as_py() for neuron in TOGETHER["few"])
    assert abs(rows["few"]["loss_change"] - sum_of_three) > 1e-3


def test_how_groups_are_written_changes_no_bit(make_of_family: Callable, blocks: Blocks) -> None:
    model, ways = make_of_family("llama"), ({"a": [0, 1], "b": [3, 7, 8]}, {"b": np.array([8, 3, 7]), "a": (1, 0)})
    first, other = (measure(model, blocks, COUNTS, MeasurementRequest(groups=each)) for each in ways)  # type: ignore[arg-type]
    assert first["groups"].equals(other["groups"])


def test_how_many_groups_and_blocks_are_computed_at_once_changes_nothing(
    make_of_family: Callable, blocks: Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, groups = make_of_family("gemma2"), {f"pair_{each}": [each, each + 1] for each in range(11)}

    def rows(n_blocks: int) -> Any:
        return measure(model, blocks, COUNTS, MeasurementRequest(groups=groups, batch_blocks=n_blocks))["groups"]

    whole, by_blocks = rows(64), rows(3)
    monkeypatch.setattr("confreg.batches.VALUES_OF_A_GROUP", 10_000)  # so that no more than a few fit the memory
    for parts in (by_blocks, rows(64)):
        assert parts["group"].equals(whole["group"])
        for name in EFFECTS:
            np.testing.assert_allclose(parts[name].to_numpy(), whole[name].to_numpy(), atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"pair": [3, 12]}, r"groups.pair has 12; expected neurons of the last MLP, which are 0 to 11."),
        ({"pair": []}, r"groups.pair is \[\]; expected one neuron at least"),
        ({"pair": [3, 5, 3]}, r"groups.pair has 3 more than once; expected each neuron once."),
    ],
)
def test_a_group_that_the_layer_cannot_have_is_refused_by_name(groups: Any, message: str, make_of_family: Callable, blocks: Blocks) -> None:
    with pytest.raises(SettingError, match=message):
        measure(make_of_family("gpt2"), blocks, COUNTS, MeasurementRequest(groups=groups))
