"""Models from weights that exist: the same weights, dropout where asked for, and nothing of theirs is ever run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from confreg.languages.model_sources import ModelSource, ModelSourceError
from confreg.models.build import model_from
from confreg.models.checkpoints import weights_sha256
from confreg.models.pretrained import architecture_of, check_pretrained, open_pretrained, open_source, rebuilt
from confreg.settings import LoraSettings, PretrainedSettings, SettingError

TOKENS = torch.arange(12).unsqueeze(0)


@pytest.fixture(scope="module")
def llama(publish: Callable[..., Path]) -> Path:
    return publish("llama", attention_dropout=0.3)


def test_the_weights_are_the_published_ones_in_fp32_and_training_mode(llama: Path) -> None:
    published = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    model = open_pretrained(PretrainedSettings(str(llama)))
    assert weights_sha256(model) == weights_sha256(published)
    assert model.dtype == torch.float32
    assert all(module.training for module in model.modules())


def test_dropout_acts_in_training_and_not_in_evaluation(llama: Path) -> None:
    model = open_pretrained(PretrainedSettings(str(llama)))
    draws = [model(input_ids=TOKENS).logits for _ in range(2)]
    assert not torch.equal(*draws)
    model.eval()
    assert torch.equal(*(model(input_ids=TOKENS).logits for _ in range(2)))


def test_another_dropout_takes_the_place_of_the_published_one_whatever_its_name(publish: Callable[..., Path]) -> None:
    for model_type in ("llama", "gpt2"):
        folder = publish(model_type)
        model = open_pretrained(PretrainedSettings(str(folder), dropout=0.5))
        rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
        config = model.config.to_dict()
        assert rates <= {0.5}
        assert config.get("attention_dropout", config.get("attn_pdrop")) == 0.5
        silent = open_pretrained(PretrainedSettings(str(folder), dropout=0.0))
        assert torch.equal(*(silent(input_ids=TOKENS).logits for _ in range(2)))


def test_another_dtype_is_that_of_the_weights(llama: Path) -> None:
    assert open_pretrained(PretrainedSettings(str(llama), dtype="bfloat16")).dtype == torch.bfloat16


def test_what_is_rebuilt_and_filled_is_the_same_model(llama: Path) -> None:
    settings = PretrainedSettings(str(llama), dropout=0.2)
    model = open_pretrained(settings)
    again = rebuilt(settings, json.loads(json.dumps(architecture_of(model))))
    again.load_state_dict(model.state_dict())
    model.eval(), again.eval()
    assert torch.equal(model(input_ids=TOKENS).logits, again(input_ids=TOKENS).logits)
    assert again.config.attention_dropout == 0.2
    plain = {"source": "gone", "lora": {"rank": 2}}
    assert any("lora_A" in name for name, _ in model_from(plain, 0, 0, 0, architecture_of(model)).named_parameters())


def test_pickled_weights_are_read_only_where_asked_for_and_never_run(llama: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama)
    (tmp_path / "config.json").write_bytes((llama / "config.json").read_bytes())
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelSourceError, match="weights cannot be read"):
        open_pretrained(PretrainedSettings(str(tmp_path)))
    opened = open_pretrained(PretrainedSettings(str(tmp_path), pickled=True))
    assert weights_sha256(opened) == weights_sha256(model)
    torch.save({"weight": Touching(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelSourceError):
        open_pretrained(PretrainedSettings(str(tmp_path), pickled=True))
    assert not (tmp_path / "ran").exists()


class Touching:
    """A pickle that makes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("has_type", [False, True])
def test_code_that_comes_with_a_model_is_refused_without_a_question(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_type: bool
) -> None:
    config = json.loads((llama / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}}
    if not has_type:
        config["model_type"] = "theirs"
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((llama / "model.safetensors").read_bytes())
    (tmp_path / "theirs.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    if has_type:
        open_pretrained(PretrainedSettings(str(tmp_path)))
    else:
        with pytest.raises(ModelSourceError, match="its configuration cannot be read"):
            open_pretrained(PretrainedSettings(str(tmp_path)))
    assert not (tmp_path / "ran").exists()


def test_damaged_weights_are_named(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((llama / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((llama / "model.safetensors").read_bytes()[:2000])
    with pytest.raises(ModelSourceError, match=f"{tmp_path}: its weights cannot be read"):
        open_source(ModelSource.of(str(tmp_path)))


def test_what_cannot_be_trained_is_refused_before_any_weights_are_read(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match=r"data\.block_length is 33, and .* has 32 positions"):
        check_pretrained(PretrainedSettings(str(llama)), 33)
    check_pretrained(PretrainedSettings(str(llama)), 32)
    monkeypatch.setattr("confreg.models.adapters.find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"needs the package peft, .* pip install 'confreg\[peft\]'"):
        check_pretrained(PretrainedSettings(str(llama), lora=LoraSettings()), 32)


def test_a_gguf_file_gives_the_weights_that_were_written_into_it(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    generator = torch.Generator().manual_seed(0)
    sizes = {"vocab": 32, "width": 8, "hidden": 16}
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(sizes["width"])
    writer.add_block_count(1)
    writer.add_feed_forward_length(sizes["hidden"])
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(sizes["vocab"])
    shapes = {
        "token_embd.weight": (32, 8),
        "output.weight": (32, 8),
        "output_norm.weight": (8,),
        **{f"blk.0.{name}.weight": (8, 8) for name in ("attn_q", "attn_k", "attn_v", "attn_output")},
        **{f"blk.0.{name}.weight": (8,) for name in ("attn_norm", "ffn_norm")},
        **{f"blk.0.{name}.weight": (16, 8) for name in ("ffn_gate", "ffn_up")},
        "blk.0.ffn_down.weight": (8, 16),
    }
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name, value in tensors.items():
        writer.add_tensor(name, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = open_source(ModelSource.of(str(tmp_path / "tiny.gguf")))
    assert torch.equal(model.get_output_embeddings().weight, tensors["output.weight"])
    assert torch.equal(model.model.layers[0].mlp.down_proj.weight, tensors["blk.0.ffn_down.weight"])
