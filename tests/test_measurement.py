"""One measurement from end to end: the model's row, the spectrum, what is null, and what it must leave alone."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from confreg import Blocks, MeasurementRequest, measure
from confreg.models.build import build_model
from confreg.models.checkpoints import weights_sha256
from confreg.settings import ModelSettings

N_VOCAB, N_TOKENS, N_NEURONS, D_MODEL = 19, 10, 12, 16
COUNTS = torch.randint(0, 500, (N_VOCAB,), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model() -> PreTrainedModel:
    """In training mode, with dropout, and with gains and biases that matter."""
    settings = ModelSettings(n_layer=2, d_model=D_MODEL, d_mlp=N_NEURONS, n_head=2, dropout=0.3)
    model, generator = build_model(settings, N_VOCAB, N_TOKENS, seed=0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def blocks() -> Blocks:
    """Twenty measured blocks from eighteen documents; the truth is made up."""
    generator = torch.Generator().manual_seed(2)
    reference, measured = (torch.randint(0, N_VOCAB, (n, N_TOKENS), generator=generator) for n in (5, 20))
    truth = torch.randn(20, N_TOKENS, N_VOCAB, generator=generator, dtype=torch.float64).log_softmax(-1)
    documents = torch.tensor([30, 30, 30, 4, *range(10, 26)])[torch.randperm(20, generator=generator)]
    return Blocks(reference, measured, documents=documents, excluded_ids=(2, 7), bayes_log_probs=truth)


def predictions(model: PreTrainedModel, blocks: Blocks) -> Tensor:
    """Log-probabilities at the scored positions, of the real model in float64."""
    with torch.no_grad():
        log_probs = copy.deepcopy(model).double().eval()(input_ids=blocks.measured).logits.log_softmax(-1)
    return log_probs[blocks.scored_positions()]


def entropy(log_probs: Tensor) -> Tensor:
    return -(log_probs.exp() * log_probs).sum(-1)


def column(records: dict[str, pa.Table], table: str, name: str) -> np.ndarray:
    return records[table][name].to_numpy(zero_copy_only=False).astype(float)


def test_the_models_row_holds_the_means_over_the_scored_positions(model: PreTrainedModel, blocks: Blocks) -> None:
    row = measure(model, blocks, COUNTS, step=8, tokens_seen=720)["model"].to_pylist()[0]
    before, scored = predictions(model, blocks), blocks.scored_positions()
    targets, truth = blocks.measured.roll(-1, 1)[scored].unsqueeze(-1), blocks.bayes_log_probs[scored]
    loss, bayes_loss = (-each.gather(-1, targets).mean() for each in (before, truth))
    expected = {
        "step": 8,
        "tokens_seen": 720,
        "loss_nats": loss,
        "entropy_nats": entropy(before).mean(),
        "bayes_loss_nats": bayes_loss,
        "excess_loss_nats": loss - bayes_loss,
        "excess_entropy_nats": entropy(before).mean() - entropy(truth).mean(),
        "bayes_kl_nats": (truth.exp() * (truth - before)).sum(-1).mean(),
        "n_positions": int(scored.sum()),
        "n_documents": 18,
        "null_dimensions": 4,
        "zero_count_share": float((COUNTS == 0).double().mean()),
    }
    assert {name: row[name] for name in expected} == pytest.approx({name: float(each) for name, each in expected.items()}, abs=1e-5)
    assert row["weights_sha256"] == weights_sha256(model)


def test_the_spectrum_is_that_of_the_effective_unembedding_without_the_exact_null(model: PreTrainedModel, blocks: Blocks) -> None:
    rows = measure(model, blocks, COUNTS)["spectrum"]
    effective = (model.lm_head.weight * model.transformer.ln_f.weight).detach().double()
    effective = effective - effective.mean(1, keepdim=True)
    expected = torch.linalg.svdvals(effective - effective.mean(0))[: D_MODEL - 1]
    assert rows["index"].to_pylist() == list(range(D_MODEL - 1))
    assert rows["singular_value"].to_pylist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_what_is_defined_is_there_and_what_is_not_is_null_and_nothing_is_nan(model: PreTrainedModel, blocks: Blocks) -> None:
    with torch.no_grad():
        model.transformer.h[-1].mlp.c_proj.weight[3] = 0.0
    records = measure(model, replace(blocks, bayes_log_probs=None), COUNTS)
    for table in records.values():
        for name in table.column_names:
            assert not any(isinstance(value, float) and not math.isfinite(value) for value in table[name].to_pylist()), name
    nulls = {name: column.null_count for name, column in zip(records["neurons"].column_names, records["neurons"].columns, strict=True)}
    assert {name for name, count in nulls.items() if count == N_NEURONS} == {"step", "tokens_seen"}
    of_a_dead_neuron = {name for name, count in nulls.items() if count == 1}
    of_effects = ("norm_mediated_share", "frequency_mediated_share", "entropy_norm_mediated_share", "temperature_share")
    shares = {f"{share}{suffix}" for share in of_effects for suffix in ("", "_stderr", "_low")}
    assert of_a_dead_neuron == {"logit_var", "null_space_share", "unembedding_gain", "frequency_cosine", *shares}
    row = records["model"].to_pylist()[0]
    unknown = {name for name, value in row.items() if value is None}
    truths = {"bayes_loss_nats", "excess_loss_nats", "excess_entropy_nats", "bayes_kl_nats"}
    assert unknown == {"step", "tokens_seen", "n_entropy_neurons_control", "n_frequency_neurons_control", *truths}


def test_a_write_into_the_exact_null_space_acts_through_the_norm_alone(model: PreTrainedModel, blocks: Blocks) -> None:
    with torch.no_grad():
        model.transformer.ln_f.weight[:2] = 0.0
        write = model.transformer.h[-1].mlp.c_proj.weight
        write[0], write[0, 0], write[0, 1] = 0.0, 2.0, -2.0
        write[1] = 1.5  # the all-ones direction, which LayerNorm takes out
    rows = measure(model, blocks, COUNTS)["neurons"].to_pylist()
    assert rows[0]["loss_effect"] > 1e-3
    assert rows[0]["norm_mediated_share"] == pytest.approx(1, abs=1e-3)
    assert rows[0]["entropy_norm_mediated_share"] == pytest.approx(1, abs=1e-3)
    assert rows[0]["null_space_share"] == pytest.approx(1, abs=1e-5)
    assert rows[1]["loss_effect"] < 1e-6
    assert rows[1]["norm_mediated_share"] is None


def test_the_same_call_twice_gives_the_same_bits_and_other_batches_the_same_rows(model: PreTrainedModel, blocks: Blocks) -> None:
    request = MeasurementRequest(control_draws=2)
    first, second = measure(model, blocks, COUNTS, request), measure(model, blocks, COUNTS, request)
    assert all(first[name].equals(second[name]) for name in first)
    for changed in (replace(request, batch_blocks=1), replace(request, batch_blocks=7), replace(request, memory_mib=16)):
        other = measure(model, blocks, COUNTS, changed)
        for table, rows in first.items():
            for name in rows.column_names:
                if pa.types.is_floating(rows.schema.field(name).type):
                    absolute = 2e-5 if "_share" in name else 1e-6  # a ratio of small effects
                    np.testing.assert_allclose(column(other, table, name), column(first, table, name), 1e-5, absolute, err_msg=name)
                else:
                    assert other[table][name].equals(rows[name]), name


@pytest.mark.parametrize("fails", [False, True])
def test_measuring_leaves_weights_modes_hooks_gradients_and_random_state_as_they_were(
    model: PreTrainedModel, blocks: Blocks, fails: bool
) -> None:
    model.transformer.h[0].eval()
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)

    def state() -> list[Any]:
        hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
        flags = [(each.requires_grad, each.grad is None) for each in model.parameters()]
        random = (torch.get_rng_state().tolist(), torch.is_grad_enabled())
        return [weights_sha256(model), [module.training for module in model.modules()], hooks, flags, random]

    before = state()
    if fails:
        with pytest.raises(IndexError):
            measure(
                model, replace(blocks, measured=blocks.measured.repeat(1, 2), bayes_log_probs=None), COUNTS
            )  # more than it has positions
    else:
        measure(model, blocks, COUNTS, MeasurementRequest(control_draws=1))
    assert state() == before


def test_the_default_request_is_the_mean_over_reference_tokens_without_a_control(model: PreTrainedModel, blocks: Blocks) -> None:
    request = MeasurementRequest()
    assert (request.replacement, request.control_draws, request.control_seed) == ("mean_over_reference_tokens", 0, 0)
    rows, asked = measure(model, blocks, COUNTS), measure(model, blocks, COUNTS, request)
    assert all(rows[name].equals(asked[name]) for name in rows)
    assert set(rows["neurons"]["replacement"].to_pylist()) == {"mean_over_reference_tokens"}
    assert rows["neurons"]["layer"].to_pylist() == [1] * N_NEURONS
    assert rows["neurons"]["neuron"].to_pylist() == list(range(N_NEURONS))


def test_a_compiled_model_is_measured_as_the_plain_one_and_stays_compiled(model: PreTrainedModel, blocks: Blocks) -> None:
    graphs: list[object] = []
    expected = measure(model, blocks, COUNTS)
    wrapped = torch.compile(model, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    model.compile(backend=lambda graph, _: graphs.append(graph) or graph.forward)
    assert all(rows.equals(expected[table]) for each in (model, wrapped) for table, rows in measure(each, blocks, COUNTS).items())
    assert not graphs
    model(input_ids=blocks.measured[:2])
    assert graphs


def test_what_cannot_be_measured_is_refused_by_name(model: PreTrainedModel, blocks: Blocks) -> None:
    with pytest.raises(TypeError, match=r"measure got a Tensor as blocks; expected confreg.Blocks"):
        measure(model, blocks.measured, COUNTS)
    with pytest.raises(TypeError, match="measure got a list as token_counts; expected a tensor"):
        measure(model, blocks, COUNTS.tolist())
    with pytest.raises(ValueError, match="those of the model"):
        measure(model, replace(blocks, measured=blocks.measured + len(COUNTS)), COUNTS)
    model.get_output_embeddings().weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="weights that are not finite"):
        measure(model, blocks, COUNTS)
