"""A saved step opened by plain transformers, or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from confreg import save_pretrained
from confreg.languages.synthetic import number_tokenizer
from confreg.languages.tokenizers import train_tokenizer, wrapped_tokenizer
from confreg.models.build import build_model
from confreg.models.checkpoints import CheckpointError, checkpoint_name
from confreg.models.export import ExportError
from confreg.models.families import BUILDABLE
from confreg.models.runs import SavedStep, open_model, save_tokenizer
from confreg.records.durable import sha256_of
from confreg.records.run_folder import RunFolderError
from confreg.settings import ModelSettings, Settings, SyntheticSettings, settings_to_mapping

N_VOCAB, N_TOKENS, STEP = 300, 12, 4
MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A function that writes what a run of these parts leaves at one step: the configuration and a checkpoint of random weights."""

    def make(tokenizer: Any = None, **parts: Any) -> Path:
        model_settings = ModelSettings(n_layer=2, d_model=16, d_mlp=12, n_head=2, dropout=0.1, **parts)
        settings = Settings(model=model_settings, data=SyntheticSettings(vocabulary_size=N_VOCAB, block_length=N_TOKENS))
        model, run = build_model(model_settings, N_VOCAB, N_TOKENS, seed=0), tmp_path / "run"
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        (run / "checkpoints").mkdir(parents=True)
        (run / "config.yaml").write_text(yaml.safe_dump(settings_to_mapping(settings)))
        state = {f"model.{name}": values for name, values in model.state_dict().items()}
        path = run / "checkpoints" / checkpoint_name(STEP)
        torch.save({"state_dict": state, "hyper_parameters": {"vocabulary_size": N_VOCAB}}, path)
        (run / "checkpoints" / "manifest.json").write_text(json.dumps({path.name: sha256_of(path)}))
        save_tokenizer(run, tokenizer)
        return run

    return make


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", sorted(BUILDABLE))
def test_plain_transformers_opens_the_folder_with_the_same_logits_to_the_bit(
    family: str, tied: bool, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(number_tokenizer(N_VOCAB), family=family, tied=tied)
    folder = save_pretrained(run, STEP, tmp_path / "out" / "exported")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer("17 4 200 299 0", return_tensors="pt").input_ids
    assert tokens.tolist() == [[17, 4, 200, 299, 0]]
    with torch.no_grad():
        assert torch.equal(model(input_ids=tokens).logits, open_model(run, STEP)(input_ids=tokens).logits)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    expected = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir()} == expected
    assert [path.name for path in folder.parent.iterdir()] == ["exported"]


@pytest.mark.parametrize("family", sorted(BUILDABLE))
def test_the_tokenizer_of_a_text_reads_as_before_whatever_the_family(family: str, make_run: MakeRun, tmp_path: Path) -> None:
    text = "  Two blanks, a naïve café.\n\tA tab — and <|endoftext|> as text."
    tokenizer = wrapped_tokenizer(train_tokenizer([text] * 5, N_VOCAB))
    opened = AutoTokenizer.from_pretrained(save_pretrained(make_run(tokenizer, family=family), STEP, tmp_path / "exported"))
    assert opened(text).input_ids == tokenizer(text).input_ids
    assert opened.decode(opened(text).input_ids) == text
    assert opened.eos_token == tokenizer.eos_token


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"norm": "frozen"}, r"norms of the blocks: frozen; final norm: frozen"),
        ({"norm": "rmsnorm", "norm_scope": "final"}, r"\(final norm: rmsnorm\)"),
        ({"family": "llama", "norm": "layernorm"}, r"LlamaForCausalLM does not know \(norms of the blocks: layernorm"),
        ({"output_bias": True}, r"output bias.*confreg\.open_run\("),
    ],
)
def test_a_model_that_plain_transformers_cannot_represent_is_refused_by_its_parts(
    parts: dict[str, Any], said: str, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(number_tokenizer(N_VOCAB), **parts)
    with pytest.raises(ExportError, match=said):
        save_pretrained(run, STEP, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_a_swap_to_the_familys_own_norm_is_exported(make_run: MakeRun, tmp_path: Path) -> None:
    folder = save_pretrained(make_run(number_tokenizer(N_VOCAB), norm="layernorm"), STEP, tmp_path / "exported")
    assert (folder / "config.json").exists()


def test_without_a_tokenizer_the_model_is_exported_and_the_lack_is_said(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    with pytest.warns(UserWarning, match="keeps no tokenizer"):
        folder = save_pretrained(run, STEP, tmp_path / "exported")
    assert {path.name for path in folder.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}


def test_the_working_directory_is_refused_by_name(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, empty = make_run(), tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    with pytest.raises(ExportError, match=r"^\. is the working directory.*give a folder below it"):
        save_pretrained(run, STEP, ".")


def test_a_folder_with_something_in_it_is_not_touched(make_run: MakeRun, tmp_path: Path) -> None:
    run, target = make_run(), tmp_path / "exported"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"exported exists already; expected a new or an empty folder"):
        save_pretrained(run, STEP, target)
    assert [path.name for path in target.iterdir()] == ["mine.txt"]


def test_an_export_that_fails_in_the_middle_leaves_nothing(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(number_tokenizer(N_VOCAB))

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("confreg.models.export.shutil.copytree", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_pretrained(run, STEP, tmp_path / "exported")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_step_or_a_folder_that_is_not_there_is_refused_by_name(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint of step 5"):
        save_pretrained(make_run(), 5, tmp_path / "exported")
    with pytest.raises(RunFolderError, match="expected the folder of a run"):
        save_pretrained(tmp_path / "nowhere", STEP, tmp_path / "exported")


def test_what_completes_the_folder_sees_the_opened_step_and_is_put_in_place_with_it(make_run: MakeRun, tmp_path: Path) -> None:
    def complete(place: Path, opened: SavedStep) -> None:
        assert (place / "model.safetensors").exists()
        (place / "README.md").write_text(str(opened.model.config.vocab_size))

    folder = save_pretrained(make_run(number_tokenizer(N_VOCAB)), STEP, tmp_path / "exported", complete)
    assert (folder / "README.md").read_text() == str(N_VOCAB)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_where_completing_stops_neither_the_folder_nor_the_folders_above_it_stay(
    error: type[BaseException], make_run: MakeRun, tmp_path: Path
) -> None:
    def complete(*_: Any) -> None:
        raise error

    with pytest.raises(error):
        save_pretrained(make_run(number_tokenizer(N_VOCAB)), STEP, tmp_path / "deep" / "er" / "exported", complete)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_weights_that_find_no_room_are_an_error_of_the_file_system(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_pretrained(make_run(number_tokenizer(N_VOCAB)), STEP, tmp_path / "exported")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
