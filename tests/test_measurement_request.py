"""What a caller may ask of a measurement, what is refused, and where few documents or no control leave nulls."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import OPTConfig, OPTForCausalLM, PreTrainedModel

from confreg import Blocks, MeasurementRequest, measure
from confreg.models.build import build_model
from confreg.models.checkpoints import weights_sha256
from confreg.settings import ModelSettings, SelectionRules, SettingError

N_VOCAB, N_TOKENS, N_NEURONS = 19, 10, 12
COUNTS = torch.randint(0, 500, (N_VOCAB,), generator=torch.Generator().manual_seed(1))
CONTROLS = ("n_entropy_neurons_control", "n_frequency_neurons_control")
# rules that any neuron with an effect passes, and any random direction too
LAX = SelectionRules(0.0, 0.0, 0.0, -1e9, -1e9, 0.0, 1.0, 16)


@pytest.fixture
def model() -> PreTrainedModel:
    model = build_model(ModelSettings(n_layer=2, d_model=16, d_mlp=N_NEURONS, n_head=2), N_VOCAB, N_TOKENS, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    return model


@pytest.fixture
def blocks() -> Blocks:
    generator = torch.Generator().manual_seed(2)
    return Blocks(*(torch.randint(0, N_VOCAB, (n, N_TOKENS), generator=generator) for n in (5, 20)))


def model_row(*arguments: Any) -> dict[str, Any]:
    return measure(*arguments)["model"].to_pylist()[0]


def test_exactly_the_given_positions_are_scored(model: PreTrainedModel, blocks: Blocks) -> None:
    scored = torch.zeros(20, N_TOKENS, dtype=torch.bool)
    scored[4, 0] = scored[17, 8] = scored[17, 9] = True  # a first position counts if asked for; a last one never does
    row = model_row(model, replace(blocks, scored=scored), COUNTS)
    with torch.no_grad():
        losses = -model.eval()(input_ids=blocks.measured).logits.log_softmax(-1)
    expected = (losses[4, 0, blocks.measured[4, 1]] + losses[17, 8, blocks.measured[17, 9]]) / 2
    assert (row["n_positions"], row["n_documents"]) == (2, 2)
    assert row["loss_nats"] == pytest.approx(float(expected), abs=1e-5)


def test_the_replacement_comes_from_the_reference_part_and_the_effects_from_the_measured_one(
    model: PreTrainedModel, blocks: Blocks
) -> None:
    first = measure(model, blocks, COUNTS)
    other = measure(model, replace(blocks, reference=blocks.reference.flip(1)), COUNTS)
    same = ("activation_mean", "activation_std", "logit_var", "activation_entropy_pearson")
    assert all(first["neurons"][name].equals(other["neurons"][name]) for name in same)
    assert not first["neurons"]["loss_effect"].equals(other["neurons"]["loss_effect"])
    assert first["model"].equals(other["model"])


def test_below_sixteen_documents_the_shares_stay_their_errors_are_null_and_nothing_is_named(model: PreTrainedModel, blocks: Blocks) -> None:
    request = MeasurementRequest(control_draws=2, rules=LAX)
    documents = torch.arange(20).clamp(max=14)
    few, enough = (measure(model, replace(blocks, documents=each), COUNTS, request) for each in (documents, torch.arange(20)))
    for row in few["neurons"].to_pylist():
        assert row["norm_mediated_share"] is not None
        assert row["norm_mediated_share_stderr"] is row["norm_mediated_share_low"] is None
        assert row["loss_effect_stderr"] > 0
        assert not row["is_entropy_neuron"]
        assert not row["is_frequency_neuron"]
    few_row, enough_row = few["model"].to_pylist()[0], enough["model"].to_pylist()[0]
    assert few_row["n_documents"] == 15
    assert (few_row["n_entropy_neurons"], few_row["n_frequency_neurons"]) == (0, 0)
    assert [few_row[name] for name in CONTROLS] == [None, None]
    assert enough_row["n_frequency_neurons"] > 0
    assert None not in [enough_row[name] for name in CONTROLS]


def test_without_control_draws_the_control_is_null_and_with_them_the_rest_stays_as_it_is(model: PreTrainedModel, blocks: Blocks) -> None:
    without, with_draws = (measure(model, blocks, COUNTS, MeasurementRequest(control_draws=n, rules=LAX)) for n in (0, 3))
    plain, controlled = without["model"].to_pylist()[0], with_draws["model"].to_pylist()[0]
    assert [plain[name] for name in CONTROLS] == [None, None]
    assert all(0 <= controlled[name] <= N_NEURONS for name in CONTROLS)
    assert {**controlled, **dict.fromkeys(CONTROLS)} == plain
    assert without["neurons"].equals(with_draws["neurons"])


def test_the_control_counts_depend_on_its_seed_alone(model: PreTrainedModel, blocks: Blocks) -> None:
    def control(seed: int) -> list[float]:
        row = model_row(
            model, blocks, COUNTS, MeasurementRequest(control_draws=1, control_seed=seed, rules=replace(LAX, median_multiple=1.0))
        )
        return [row[name] for name in CONTROLS]

    assert control(3) == control(3)
    assert len({tuple(control(seed)) for seed in range(6)}) > 1


def test_the_control_is_judged_by_the_layers_own_thresholds(model: PreTrainedModel, blocks: Blocks) -> None:
    rules = replace(LAX, median_multiple=1.0, entropy_share_floor=1.0)  # a floor that no neuron's effect reaches
    row = model_row(model, blocks, COUNTS, MeasurementRequest(control_draws=2, rules=rules))
    assert [row[name] for name in CONTROLS] == [0, 0]
    half = model_row(model, blocks, COUNTS, MeasurementRequest(control_draws=4, rules=replace(LAX, median_multiple=1.0)))
    assert (
        half["n_frequency_neurons"] == N_NEURONS // 2
    )  # half of a layer lies above its own median; a control's own median would give as many
    assert half["n_frequency_neurons_control"] != N_NEURONS // 2


@pytest.mark.parametrize("control", ["norm_drawn_from_layer", "own_norm_and_null_space_share"])
def test_the_control_counts_are_those_of_every_direction_though_only_those_that_may_be_named_are_ablated(
    model: PreTrainedModel, blocks: Blocks, monkeypatch: pytest.MonkeyPatch, control: str
) -> None:
    monkeypatch.setattr("confreg.measurement.null_space_share_chance", lambda *_: 0.55)  # some of the neurons lie above it
    request = MeasurementRequest(control=control, control_draws=8, rules=replace(LAX, frequency_cosine_min=0.3))
    looked_at, some = [], model_row(model, blocks, COUNTS, request)
    every = _all_may_be_named(looked_at)
    monkeypatch.setattr("confreg.measurement.may_be_entropy_neurons", every)
    monkeypatch.setattr("confreg.measurement.may_be_frequency_neurons", every)
    assert model_row(model, blocks, COUNTS, request) == some
    assert sum(looked_at) == 2 * 8 * N_NEURONS
    assert all(0 < some[name] < N_NEURONS for name in CONTROLS)


def _all_may_be_named(looked_at: list[int]) -> Any:
    def every(values: torch.Tensor, *_: Any) -> torch.Tensor:
        looked_at.append(len(values))
        return torch.ones_like(values, dtype=torch.bool)

    return every


def test_a_control_of_which_no_direction_may_be_named_counts_none(model: PreTrainedModel, blocks: Blocks) -> None:
    rules = replace(LAX, frequency_cosine_min=1.0, zero_count_share_max=0.0)
    row = model_row(model, blocks, COUNTS, MeasurementRequest(control_draws=1, null_dimensions=1, control_seed=1, rules=rules))
    assert [row[name] for name in CONTROLS] == [0, 0]


def test_the_null_dimensions_of_the_request_are_used_and_never_more_than_there_are(model: PreTrainedModel, blocks: Blocks) -> None:
    for asked, used in ((None, 4), (2, 2), (15, 15), (400, 15)):
        records = measure(model, blocks, COUNTS, MeasurementRequest(null_dimensions=asked))
        assert records["model"]["null_dimensions"].to_pylist() == [used]
        shares = records["neurons"]["null_space_share"].to_pylist()
        assert (min(shares) > 0.999) == (used == 15)


def test_a_bfloat16_model_is_measured_on_a_copy_in_fp32_and_stays_what_it_is(model: PreTrainedModel, blocks: Blocks) -> None:
    rounded = copy.deepcopy(model).bfloat16()
    digest = weights_sha256(rounded)
    found, expected = measure(rounded, blocks, COUNTS), measure(copy.deepcopy(rounded).float(), blocks, COUNTS)
    for name in ("neurons", "model", "spectrum"):
        assert found[name].drop_columns("weights_sha256").equals(expected[name].drop_columns("weights_sha256"))
    assert rounded.dtype == torch.bfloat16
    assert weights_sha256(rounded) == digest == found["model"]["weights_sha256"].to_pylist()[0]


def test_autocast_around_the_call_changes_nothing(model: PreTrainedModel, blocks: Blocks) -> None:
    expected = measure(model, blocks, COUNTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = measure(model, blocks, COUNTS)
    assert all(found[name].equals(expected[name]) for name in expected)


def test_a_module_that_keeps_the_model_is_measured_as_the_model_itself(model: PreTrainedModel, blocks: Blocks) -> None:
    module = nn.Module()
    module.model = model
    found, expected = measure(module, blocks, COUNTS), measure(model, blocks, COUNTS)
    assert all(found[name].equals(expected[name]) for name in expected)


def test_what_is_no_model_is_refused_with_its_type(blocks: Blocks) -> None:
    with pytest.raises(TypeError, match=r"measure got a Linear; expected a transformers causal language model"):
        measure(nn.Linear(2, 2), blocks, COUNTS)


def test_an_architecture_that_is_not_known_is_refused_by_name(blocks: Blocks) -> None:
    sizes = {
        "vocab_size": N_VOCAB,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "ffn_dim": 8,
        "num_attention_heads": 2,
        "word_embed_proj_dim": 8,
    }
    with pytest.raises(ValueError, match="do_layer_norm_before"):
        measure(OPTForCausalLM(OPTConfig(**sizes, max_position_embeddings=16, do_layer_norm_before=False)), blocks, COUNTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scored": torch.zeros(20, N_TOKENS, dtype=torch.bool)}, "No scored position"),
        ({"excluded_ids": tuple(range(N_VOCAB))}, "No scored position"),
        ({"scored": torch.ones(20, N_TOKENS + 1, dtype=torch.bool)}, r"shape \(20, 11\); expected torch.bool of shape \(20, 10\)"),
        ({"documents": torch.arange(19)}, "19 ids; expected one for each of 20 measured blocks"),
        ({"reference": torch.zeros(0, N_TOKENS, dtype=torch.int64)}, "at least one reference block"),
        ({"bayes_log_probs": torch.zeros(20, N_TOKENS, N_VOCAB + 1)}, r"bayes_log_probs is over 20 tokens; expected the model's 19"),
        ({"bayes_log_probs": torch.zeros(19, N_TOKENS, N_VOCAB)}, r"bayes_log_probs.*\(19, 10, 19\)"),
    ],
)
def test_blocks_that_do_not_fit_are_refused_with_what_came_and_what_was_expected(
    model: PreTrainedModel, blocks: Blocks, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measure(model, replace(blocks, **changes), COUNTS)


@pytest.mark.parametrize("n_counts", [N_VOCAB - 1, N_VOCAB + 1])
def test_counts_of_another_vocabulary_are_refused_with_both_sizes(model: PreTrainedModel, blocks: Blocks, n_counts: int) -> None:
    with pytest.raises(ValueError, match=rf"{n_counts} entries; expected one for each of the model's {N_VOCAB} token ids"):
        measure(model, blocks, torch.ones(n_counts, dtype=torch.int64))


def test_a_request_out_of_range_is_refused_by_name(model: PreTrainedModel, blocks: Blocks) -> None:
    with pytest.raises(SettingError, match=r"batch_blocks is 0; expected a value at least 1"):
        measure(model, blocks, COUNTS, MeasurementRequest(batch_blocks=0))


def test_a_model_without_an_unembedding_is_refused_by_name(model: PreTrainedModel, blocks: Blocks) -> None:
    with pytest.raises(TypeError, match="GPT2Model without an unembedding"):
        measure(model.transformer, blocks, COUNTS)
