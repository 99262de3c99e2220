"""The table of universal-neuron statistics as part of a measurement, against scipy over weights that were folded by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from transformers import PreTrainedModel

from confreg import Blocks, MeasurementRequest, measure
from confreg.models.families import FAMILIES
from confreg.settings import SettingError, UniversalRules

N_VOCAB, N_TOKENS, N_NEURONS, N_REAL = 19, 10, 12, 17  # token ids from N_REAL on stand for padding
COUNTS = torch.randint(0, 500, (N_VOCAB,), generator=torch.Generator().manual_seed(1))
MEASURES = ("vocabulary_cosine_variance", "vocabulary_cosine_skew", "vocabulary_cosine_kurtosis")
KINDS = ("is_prediction_neuron", "is_suppression_neuron", "is_partition_neuron")
Make = Callable[..., PreTrainedModel]


@dataclass
class ByHand:
    """Where a family keeps what the statistics depend on."""

    rows: Callable[[Any], Tensor]  # of a block: neuron x d_model, gains and multipliers behind it folded in
    final_gain: Callable[[Any], Tensor]
    centres: bool


OF_FAMILY = {
    "gpt2": ByHand(lambda block: block.mlp.c_proj.weight, lambda model: model.transformer.ln_f.weight, True),
    "gpt_neox": ByHand(lambda block: block.mlp.dense_4h_to_h.weight.T, lambda model: model.gpt_neox.final_layer_norm.weight, True),
    "llama": ByHand(lambda block: block.mlp.down_proj.weight.T, lambda model: model.model.norm.weight, False),
    "granite": ByHand(lambda block: 0.4 * block.mlp.down_proj.weight.T, lambda model: model.model.norm.weight, False),
    "olmo2": ByHand(
        lambda block: block.mlp.down_proj.weight.T * block.post_feedforward_layernorm.weight, lambda model: model.model.norm.weight, False
    ),
    "gemma2": ByHand(
        lambda block: block.mlp.down_proj.weight.T * (1 + block.post_feedforward_layernorm.weight),
        lambda model: 1 + model.model.norm.weight,
        False,
    ),
}


def blocks_of(model: Any) -> Any:
    parts = getattr(model, "transformer", None) or getattr(model, "gpt_neox", None) or model.model
    return parts.h if hasattr(parts, "h") else parts.layers


def by_hand(family: str, model: Any, n_vocab: int) -> dict[str, np.ndarray]:
    """All cosines of all neurons, in float64."""
    own, model = OF_FAMILY[family], copy.deepcopy(model).double()
    unembedding = model.get_output_embeddings().weight[:n_vocab] * own.final_gain(model)
    rows = torch.cat([own.rows(block) for block in blocks_of(model)])
    if own.centres:
        unembedding, rows = unembedding - unembedding.mean(1, keepdim=True), rows - rows.mean(1, keepdim=True)
    unembedding = unembedding - unembedding.mean(0)
    cosines = (rows @ unembedding.T / rows.norm(dim=1, keepdim=True) / unembedding.norm(dim=1)).detach().numpy()
    return {
        "w_out_norm": rows.norm(dim=1).detach().numpy(),
        "vocabulary_cosine_variance": cosines.var(axis=1),
        "vocabulary_cosine_skew": stats.skew(cosines, axis=1),
        "vocabulary_cosine_kurtosis": stats.kurtosis(cosines, axis=1, fisher=False),
    }


@pytest.fixture
def blocks() -> Blocks:
    generator = torch.Generator().manual_seed(2)
    reference, measured = (torch.randint(0, N_REAL, (n, N_TOKENS), generator=generator) for n in (5, 20))
    return Blocks(reference, measured, excluded_ids=(2, 7))


def values(table: Any, name: str) -> np.ndarray:
    return table[name].to_numpy(zero_copy_only=False).astype(float)


def universal_of(model: PreTrainedModel, blocks: Blocks, **request: Any) -> Any:
    return measure(model, blocks, COUNTS, MeasurementRequest(universal=True, **request))["universal"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", OF_FAMILY)
def test_every_layers_statistics_are_those_of_all_cosines_with_the_weights_folded_by_hand(
    make_of_family: Make, blocks: Blocks, family: str, dtype: torch.dtype
) -> None:
    model = make_of_family(family, dtype)
    for vocabulary_size in (None, N_REAL):
        rows = universal_of(model, blocks, vocabulary_size=vocabulary_size)
        assert rows["layer"].to_pylist() == [0] * N_NEURONS + [1] * N_NEURONS
        assert rows["neuron"].to_pylist() == [*range(N_NEURONS)] * 2
        for name, expected in by_hand(family, model, vocabulary_size or N_VOCAB).items():
            np.testing.assert_allclose(values(rows, name), expected, rtol=1e-9 if dtype == torch.float64 else 1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_of_every_family_the_last_layers_norm_and_variance_are_those_of_the_neurons(
    make_of_family: Make, blocks: Blocks, family: str
) -> None:
    records = measure(make_of_family(family), blocks, COUNTS, MeasurementRequest(universal=True))
    neurons, every = records["neurons"], records["universal"]
    last = every.slice(every.num_rows - neurons.num_rows)
    assert set(last["layer"].to_pylist()) == set(neurons["layer"].to_pylist())
    assert last["neuron"].equals(neurons["neuron"])
    np.testing.assert_allclose(values(last, "w_out_norm"), values(neurons, "w_out_norm"), rtol=1e-12)
    divided_by_one_less = values(last, "vocabulary_cosine_variance") * N_VOCAB / (N_VOCAB - 1)
    np.testing.assert_allclose(divided_by_one_less, values(neurons, "logit_var"), rtol=1e-9)
    assert all(every[name].null_count == 0 for name in MEASURES)


def test_it_is_there_only_where_it_is_asked_for_and_changes_no_other_table(make_of_family: Make, blocks: Blocks) -> None:
    model = make_of_family("gpt2")
    before = [each.clone() for each in model.parameters()]
    plain = measure(model, blocks, COUNTS, MeasurementRequest(control_draws=1), step=4, tokens_seen=99)
    asked = measure(model, blocks, COUNTS, MeasurementRequest(control_draws=1, universal=True), step=4, tokens_seen=99)
    assert set(asked) == {*plain, "universal"} == {"neurons", "model", "spectrum", "universal"}
    assert all(asked[table].equals(rows) for table, rows in plain.items())
    rows = asked["universal"]
    assert set(rows["step"].to_pylist()) == {4}
    assert set(rows["tokens_seen"].to_pylist()) == {99}
    assert set(rows["weights_sha256"].to_pylist()) == set(plain["model"]["weights_sha256"].to_pylist())
    assert all(after.equal(each) for after, each in zip(model.parameters(), before, strict=True))


def test_neurons_that_write_nothing_or_nothing_the_norm_lets_through_have_null_and_are_of_no_kind(
    make_of_family: Make, blocks: Blocks
) -> None:
    model = make_of_family("gpt2")
    with torch.no_grad():
        model.transformer.h[0].mlp.c_proj.weight[3] = 0
        model.transformer.h[1].mlp.c_proj.weight[5] = 0.7  # the same everywhere: centring takes all of it
    rows = universal_of(model, blocks).to_pylist()
    silent, unseen = rows[3], rows[N_NEURONS + 5]
    assert silent["w_out_norm"] == 0
    assert all(silent[name] is None for name in MEASURES)
    assert unseen["w_out_norm"] < 1e-6
    assert unseen["vocabulary_cosine_skew"] is unseen["vocabulary_cosine_kurtosis"] is None
    assert not any(row[kind] for row in (silent, unseen) for kind in KINDS)


def test_a_neuron_of_a_lower_layer_along_a_token_is_named_and_so_is_its_reverse(make_of_family: Make, blocks: Blocks) -> None:
    model = make_of_family("llama", tie_word_embeddings=False)
    axis = torch.eye(16)[2]
    with torch.no_grad():
        model.get_output_embeddings().weight[:, 2] = 5.0 * (torch.arange(N_VOCAB) == 4)  # this token alone is written along the axis
        model.model.norm.weight.fill_(1.0)
        model.model.layers[0].mlp.down_proj.weight[:, 0] = axis
        model.model.layers[0].mlp.down_proj.weight[:, 1] = -axis
    predicts, suppresses = universal_of(model, blocks).to_pylist()[:2]
    assert [predicts[kind] for kind in KINDS[:2]] == [True, False]
    assert [suppresses[kind] for kind in KINDS[:2]] == [False, True]
    assert predicts["vocabulary_cosine_skew"] == pytest.approx(-suppresses["vocabulary_cosine_skew"])


def test_the_rules_of_the_request_name_the_neurons(make_of_family: Make, blocks: Blocks) -> None:
    model = make_of_family("gpt2")
    lax = UniversalRules(kurtosis_above=1.0, partition_variance_above=0.0, partition_variance_multiple=0.0)
    rows = universal_of(model, blocks, universal_rules=lax)
    skew = values(rows, "vocabulary_cosine_skew")
    np.testing.assert_array_equal(values(rows, "is_prediction_neuron"), skew > 0)
    np.testing.assert_array_equal(values(rows, "is_suppression_neuron"), skew < 0)
    assert values(rows, "is_partition_neuron").all()
    strict = universal_of(model, blocks, universal_rules=UniversalRules(kurtosis_above=20.0, partition_variance_multiple=100.0))
    assert not any(values(strict, kind).any() for kind in KINDS)


def test_a_threshold_out_of_range_is_refused_by_name(make_of_family: Make, blocks: Blocks) -> None:
    with pytest.raises(SettingError, match=r"universal_rules\.kurtosis_above is 0\.5; expected a value at least 1\.0"):
        universal_of(make_of_family("gpt2"), blocks, universal_rules=UniversalRules(kurtosis_above=0.5))
