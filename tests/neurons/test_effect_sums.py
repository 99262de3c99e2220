"""From changes at each position to columns: against loops over positions."""

from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from confreg.neurons.ablation import EffectChanges
from confreg.neurons.effect_sums import EffectSums, evidence_from
from confreg.neurons.effects import effect_changes
from confreg.neurons.selection import Evidence

N_CLUSTERS = 18
# column -> (change, whether the absolute value is taken inside the mean), by the definitions of the paper
DEFINITIONS = {
    "loss_effect": ("loss", True),
    "loss_effect_frozen_norm": ("loss_frozen_norm", True),
    "loss_effect_scale_only": ("loss_scale_only", True),
    "loss_effect_frozen_frequency": ("loss_frozen_frequency", True),
    "entropy_effect": ("entropy", True),
    "entropy_effect_frozen_norm": ("entropy_frozen_norm", True),
    "loss_change": ("loss", False),
    "entropy_change": ("entropy", False),
    "kl_from_frequency_change": ("kl_from_frequency", False),
    "kl_from_frequency_effect": ("kl_from_frequency", True),
    "kl_to_frequency_effect": ("kl_to_frequency", True),
}
SHARES = {
    "norm_mediated_share": ("loss_frozen_norm", "loss"),
    "frequency_mediated_share": ("loss_frozen_frequency", "loss"),
    "entropy_norm_mediated_share": ("entropy_frozen_norm", "entropy"),
}


@pytest.fixture
def changes(make_last_layer: Callable) -> EffectChanges:
    return effect_changes(*make_last_layer(n_positions=40).fast_inputs())


@pytest.fixture
def clusters() -> Tensor:
    return torch.cat([torch.arange(N_CLUSTERS), torch.randint(0, N_CLUSTERS, (22,), generator=torch.Generator().manual_seed(0))])


def mean_absolute(values: Tensor) -> float:
    return sum(abs(each) for each in values.tolist()) / len(values)


def test_every_mean_equals_the_loop_over_positions_with_the_absolute_value_inside(changes: EffectChanges, clusters: Tensor) -> None:
    columns = EffectSums.of(changes, clusters, N_CLUSTERS).columns(1e-6, 16)
    for column, (name, is_absolute) in DEFINITIONS.items():
        for neuron in range(5):
            values = getattr(changes, name)[:, neuron]
            expected = mean_absolute(values) if is_absolute else sum(values.tolist()) / len(values)
            assert columns[column][neuron].item() == pytest.approx(expected, abs=1e-14), column


def test_every_share_is_one_minus_the_ratio_of_two_mean_absolute_effects(changes: EffectChanges, clusters: Tensor) -> None:
    columns = EffectSums.of(changes, clusters, N_CLUSTERS).columns(1e-6, 16)
    for column, (frozen, total) in SHARES.items():
        for neuron in range(5):
            part, whole = (mean_absolute(getattr(changes, name)[:, neuron]) for name in (frozen, total))
            assert columns[column][neuron].item() == pytest.approx(1 - part / whole), column
        assert (columns[f"{column}_low"] < columns[column]).all()


def test_without_a_frequency_direction_only_the_share_through_it_is_undefined(changes: EffectChanges, clusters: Tensor) -> None:
    sums = EffectSums.of(changes, clusters, N_CLUSTERS)
    undefined = {f"frequency_mediated_share{suffix}" for suffix in ("", "_stderr", "_low")}
    for name, values in sums.columns(1e-6, 16, has_frequency_direction=False).items():
        expected = torch.full_like(values, torch.nan) if name in undefined else sums.columns(1e-6, 16)[name]
        torch.testing.assert_close(values, expected, equal_nan=True)


def test_the_columns_are_these_and_no_others(changes: EffectChanges, clusters: Tensor) -> None:
    effects = {f"{name}{suffix}" for name in DEFINITIONS for suffix in ("", "_stderr")}
    shares = {f"{name}{suffix}" for name in SHARES for suffix in ("", "_stderr", "_low")}
    assert set(EffectSums.of(changes, clusters, N_CLUSTERS).columns(1e-6, 16)) == effects | shares


def test_the_standard_error_of_an_effect_is_clustered_over_documents(changes: EffectChanges, clusters: Tensor) -> None:
    columns = EffectSums.of(changes, clusters, N_CLUSTERS).columns(1e-6, 16)
    values = changes.loss[:, 2].abs()
    sums = [(values - values.mean())[clusters == cluster].sum().item() for cluster in range(N_CLUSTERS)]
    expected = (sum(each**2 for each in sums) * N_CLUSTERS / (N_CLUSTERS - 1)) ** 0.5 / len(values)
    assert columns["loss_effect_stderr"][2].item() == pytest.approx(expected)


def test_sums_of_two_batches_add_up_to_those_of_both_at_once(changes: EffectChanges, clusters: Tensor) -> None:
    def part(positions: slice) -> EffectSums:
        cut = EffectChanges(*(getattr(changes, each.name)[positions] for each in fields(EffectChanges)))
        return EffectSums.of(cut, clusters[positions], N_CLUSTERS)

    together = part(slice(0, 13)) + part(slice(13, 40))
    assert together.n_clusters == N_CLUSTERS
    for name, values in EffectSums.of(changes, clusters, N_CLUSTERS).columns(1e-6, 16).items():
        torch.testing.assert_close(together.columns(1e-6, 16)[name], values)


def test_the_evidence_holds_the_columns_of_its_names() -> None:
    columns = {each.name: torch.full((2,), float(number)) for number, each in enumerate(fields(Evidence))}
    evidence = evidence_from({**columns, "loss_effect": torch.zeros(2)})
    assert all(torch.equal(getattr(evidence, name), values) for name, values in columns.items())
