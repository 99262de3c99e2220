"""Low-rank changes: nothing at the start, frozen weights, and the same function when they are added up."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from confreg.models.adapters import add_lora, has_adapters, lora_targets, without_adapters
from confreg.models.checkpoints import weights_sha256
from confreg.models.families import last_down_projection
from confreg.models.plain_model import causal_model, effective_model
from confreg.models.pretrained import open_pretrained
from confreg.settings import LoraSettings, PretrainedSettings, SettingError

TOKENS = torch.arange(12).unsqueeze(0)


@pytest.fixture(params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, publish: Callable[..., Path]) -> PreTrainedModel:
    return open_pretrained(PretrainedSettings(str(publish(request.param)), dropout=0.0))


def change(model: PreTrainedModel) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def test_at_the_start_nothing_is_changed_and_only_the_changes_are_trained(model: PreTrainedModel) -> None:
    before = model(input_ids=TOKENS).logits
    add_lora(model, LoraSettings(rank=3), seed=0)
    torch.testing.assert_close(model(input_ids=TOKENS).logits, before)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)


def test_what_is_added_up_computes_the_same_and_has_no_adapters(model: PreTrainedModel) -> None:
    plain = weights_sha256(model)
    add_lora(model, LoraSettings(rank=3), seed=0)
    change(model)
    merged = without_adapters(model)
    assert has_adapters(model)
    assert not has_adapters(merged)
    assert type(merged) is type(model)
    torch.testing.assert_close(merged(input_ids=TOKENS).logits, model(input_ids=TOKENS).logits, atol=1e-5, rtol=1e-5)
    assert weights_sha256(merged) != plain
    assert without_adapters(merged) is merged


def test_changes_are_added_to_weights_in_half_precision_without_rounding_the_sum(model: PreTrainedModel) -> None:
    model = model.bfloat16()
    add_lora(model, LoraSettings(rank=3), seed=0)
    change(model)
    merged, expected = without_adapters(model), effective_model(model)
    assert {each.dtype for each in merged.parameters()} == {torch.float32}
    assert weights_sha256(merged) == weights_sha256(expected)
    assert model.dtype == torch.bfloat16


def test_the_measured_output_weights_are_the_effective_ones(model: PreTrainedModel) -> None:
    add_lora(model, LoraSettings(rank=2, alpha=6.0), seed=0)
    change(model)
    projection = last_down_projection(model)
    product = 3.0 * projection.lora_B["default"].weight @ projection.lora_A["default"].weight
    effective = last_down_projection(effective_model(model)).weight
    stored = projection.get_base_layer().weight
    expected = stored + (product if stored.shape == product.shape and type(projection.get_base_layer()) is torch.nn.Linear else product.T)
    torch.testing.assert_close(effective, expected, atol=1e-6, rtol=1e-5)


def test_a_wrapper_of_peft_is_seen_through(model: PreTrainedModel) -> None:
    wrapped = get_peft_model(model, LoraConfig(target_modules=lora_targets(model, []), r=2))
    assert causal_model(wrapped) is model
    assert not has_adapters(effective_model(wrapped))


def test_the_first_factors_are_drawn_from_the_seed_alone(publish: Callable[..., Path]) -> None:
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(drawn))
        state = torch.get_rng_state()
        opened = open_pretrained(PretrainedSettings(str(publish("llama")), lora=LoraSettings()), seed)
        assert torch.equal(torch.get_rng_state(), state)
        drawn.append(torch.cat([each.flatten() for name, each in opened.named_parameters() if "lora_A" in name]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_target_that_no_projection_has_is_refused_with_those_there_are(model: PreTrainedModel) -> None:
    some = {lora_targets(model, [])[0].rpartition(".")[2]}
    assert {each.rpartition(".")[2] for each in lora_targets(model, list(some))} == some
    with pytest.raises(SettingError, match=r"model\.lora\.targets has 'nose'; expected some of .*(c_proj|down_proj)"):
        lora_targets(model, ["nose"])
