"""From changes at each position to columns: against loops over positions."""

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from confreg.neurons.ablation import EffectChanges, Wanted
from confreg.neurons.effect_sums import EffectSums, Floors, columns_of, evidence_from
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
    "reciprocal_rank_effect": ("reciprocal_rank", True),
}
SHARES = {
    "norm_mediated_share": ("loss_frozen_norm", "loss"),
    "frequency_mediated_share": ("loss_frozen_frequency", "loss"),
    "entropy_norm_mediated_share": ("entropy_frozen_norm", "entropy"),
    "temperature_share": ("divergence_from_temperature", "divergence"),
}
FLOORS = Floors(effect_nats=1e-6, divergence_nats=1e-9, clusters_min=16)


@pytest.fixture
def changes(make_last_layer: Callable) -> EffectChanges:
    return effect_changes(*make_last_layer(n_positions=40).fast_inputs())


@pytest.fixture
def clusters() -> Tensor:
    return torch.cat([torch.arange(N_CLUSTERS), torch.randint(0, N_CLUSTERS, (22,), generator=torch.Generator().manual_seed(0))])


def mean_absolute(values: Tensor) -> float:
    return sum(abs(each) for each in values.tolist()) / len(values)


def test_every_mean_equals_the_loop_over_positions_with_the_absolute_value_inside(changes: EffectChanges, clusters: Tensor) -> None:
    columns = EffectSums.of(changes, clusters, N_CLUSTERS).columns(FLOORS)
    for column, (name, is_absolute) in DEFINITIONS.items():
        for neuron in range(5):
            values = getattr(changes, name)[:, neuron]
            expected = mean_absolute(values) if is_absolute else sum(values.tolist()) / len(values)
            assert columns[column][neuron].item() == pytest.approx(expected, abs=1e-14), column


def test_every_share_is_one_minus_the_ratio_of_two_mean_absolute_effects(changes: EffectChanges, clusters: Tensor) -> None:
    columns = EffectSums.of(changes, clusters, N_CLUSTERS).columns(FLOORS)
    for column, (frozen, total) in SHARES.items():
        for neuron in range(5):
            part, whole = (mean_absolute(getattr(changes, name)[:, neuron]) for name in (frozen, total))
            assert columns[column][neuron].item() == pytest.approx(1 - part / whole), column
        assert (columns[f"{column}_low"] < columns[column]).all()


def test_without_a_frequency_direction_only_the_share_through_it_is_undefined(changes: EffectChanges, clusters: Tensor) -> None:
    sums = EffectSums.of(changes, clusters, N_CLUSTERS)
    undefined = {f"frequency_mediated_share{suffix}" for suffix in ("", "_stderr", "_low")}
    for name, values in sums.columns(FLOORS, has_frequency_direction=False).items():
        expected = torch.full_like(values, torch.nan) if name in undefined else sums.columns(FLOORS)[name]
        torch.testing.assert_close(values, expected, equal_nan=True)


def test_the_columns_are_these_and_no_others(changes: EffectChanges, clusters: Tensor) -> None:
    effects = {f"{name}{suffix}" for name in DEFINITIONS for suffix in ("", "_stderr")}
    shares = {f"{name}{suffix}" for name in (*SHARES, "argmax_change_share") for suffix in ("", "_stderr", "_low")}
    assert set(EffectSums.of(changes, clusters, N_CLUSTERS).columns(FLOORS)) == effects | shares


def test_the_standard_error_of_an_effect_is_clustered_over_documents(changes: EffectChanges, clusters: Tensor) -> None:
    columns = EffectSums.of(changes, clusters, N_CLUSTERS).columns(FLOORS)
    values = changes.loss[:, 2].abs()
    sums = [(values - values.mean())[clusters == cluster].sum().item() for cluster in range(N_CLUSTERS)]
    expected = (sum(each**2 for each in sums) * N_CLUSTERS / (N_CLUSTERS - 1)) ** 0.5 / len(values)
    assert columns["loss_effect_stderr"][2].item() == pytest.approx(expected)


def test_the_share_of_changed_first_choices_is_their_mean_with_its_clustered_error(changes: EffectChanges, clusters: Tensor) -> None:
    columns = EffectSums.of(changes, clusters, N_CLUSTERS).columns(FLOORS)
    values = changes.argmax[:, 1]
    assert 0 < values.mean() < 1
    assert columns["argmax_change_share"][1].item() == pytest.approx(sum(values.tolist()) / 40)
    sums = [(values - values.mean())[clusters == cluster].sum().item() for cluster in range(N_CLUSTERS)]
    expected = (sum(each**2 for each in sums) * N_CLUSTERS / (N_CLUSTERS - 1)) ** 0.5 / 40
    assert columns["argmax_change_share_stderr"][1].item() == pytest.approx(expected)
    assert columns["argmax_change_share_low"][1] < columns["argmax_change_share"][1]


def test_with_few_documents_a_share_has_no_error_and_no_bound_and_is_there_all_the_same(changes: EffectChanges) -> None:
    columns = EffectSums.of(changes, torch.arange(40) % 15, 15).columns(FLOORS)
    for name in (*SHARES, "argmax_change_share"):
        assert columns[name].isfinite().all(), name
        assert columns[f"{name}_stderr"].isnan().all(), name
        assert columns[f"{name}_low"].isnan().all(), name


def test_every_share_has_the_floor_of_its_own_whole(changes: EffectChanges, clusters: Tensor) -> None:
    sums = EffectSums.of(changes, clusters, N_CLUSTERS)
    of_effects, of_divergences = (replace(FLOORS, **{name: 1e9}) for name in ("effect_nats", "divergence_nats"))
    for floors, undefined in ((of_effects, {*SHARES} - {"temperature_share"}), (of_divergences, {"temperature_share"})):
        columns = sums.columns(floors)
        assert {name for name in (*SHARES, "argmax_change_share") if columns[name].isnan().all()} == undefined


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(scale_only=False, ranks=False, temperature=False)])
def test_what_is_summed_is_what_was_wanted_and_the_columns_follow(make_last_layer: Callable, clusters: Tensor, wanted: Wanted) -> None:
    changes = effect_changes(*make_last_layer(n_positions=40).fast_inputs(), wanted=wanted)
    sums = EffectSums.of(changes, clusters, N_CLUSTERS)
    assert [*sums.of_column] == columns_of(wanted)
    columns = sums.columns(FLOORS)
    for name, is_there in {
        "loss_effect_scale_only": wanted.scale_only,
        "reciprocal_rank_effect": wanted.ranks,
        "argmax_change_share": wanted.ranks,
        "temperature_share": wanted.temperature,
    }.items():
        assert (name in columns) == is_there, name


def test_sums_of_two_batches_add_up_to_those_of_both_at_once(changes: EffectChanges, clusters: Tensor) -> None:
    def part(positions: slice) -> EffectSums:
        cut = EffectChanges(**{name: getattr(changes, name)[positions] for name in Wanted().names()})
        return EffectSums.of(cut, clusters[positions], N_CLUSTERS)

    together = part(slice(0, 13)) + part(slice(13, 40))
    assert together.n_clusters == N_CLUSTERS
    for name, values in EffectSums.of(changes, clusters, N_CLUSTERS).columns(FLOORS).items():
        torch.testing.assert_close(together.columns(FLOORS)[name], values)


def test_the_evidence_holds_the_columns_of_its_names() -> None:
    columns = {each.name: torch.full((2,), float(number)) for number, each in enumerate(fields(Evidence))}
    evidence = evidence_from({**columns, "loss_effect": torch.zeros(2)})
    assert all(torch.equal(getattr(evidence, name), values) for name, values in columns.items())
