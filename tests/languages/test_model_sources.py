"""What a source of weights names, and what is said where there is none."""

from collections.abc import Callable
from pathlib import Path

import pytest

from confreg.languages.model_sources import ModelSource, ModelSourceError


def test_a_source_is_known_by_what_is_there(publish: Callable[..., Path], tmp_path: Path) -> None:
    folder, gguf, run = publish(), tmp_path / "model.gguf", tmp_path / "run"
    gguf.write_bytes(b"GGUF")
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 0\n")
    checkpoint = run / "checkpoints" / "step=00000004.ckpt"
    checkpoint.write_bytes(b"")
    sources = {str(folder): "folder", str(gguf): "gguf", str(run): "run", str(checkpoint): "checkpoint"}
    assert {source: ModelSource.of(source).kind for source in sources} == sources
    assert ModelSource.of("EleutherAI/pythia-70m", "step512").kind == "hub"
    assert ModelSource.of("gpt2").kind == "hub"
    assert ModelSource.of(str(checkpoint)).run == run


@pytest.mark.parametrize("source", ["./nowhere", "/no/such/place", "a/b/c", "model.gguf", "x/step=00000004.ckpt", "~/none", "runs/none"])
def test_a_path_that_leads_nowhere_is_no_name_on_the_hub(source: str) -> None:
    with pytest.raises(ModelSourceError, match="there is no such file or folder; expected the NAME"):
        ModelSource.of(source)


def test_other_files_and_folders_are_refused_with_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(ModelSourceError, match="neither a GGUF file nor a checkpoint"):
        ModelSource.of(str(tmp_path / "weights.bin"))
    with pytest.raises(ModelSourceError, match=r"folder without config\.json"):
        ModelSource.of(str(tmp_path))
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "config.json").write_text("{}")
    with pytest.raises(ModelSourceError, match=r"holds .*/one: choose one"):
        ModelSource.of(str(tmp_path))


def test_only_names_and_runs_have_revisions(publish: Callable[..., Path]) -> None:
    with pytest.raises(ModelSourceError, match=r"revision is 'main' and source is .*, a folder"):
        ModelSource.of(str(publish()), "main")


def test_a_name_that_is_not_cached_says_what_was_looked_for_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    source = ModelSource.of("nobody/nothing", "step512")
    with pytest.raises(ModelSourceError) as caught, source.explained("weights"):
        raise OSError("We couldn't connect")
    message = str(caught.value)
    for part in (
        "nobody/nothing",
        "weights",
        "step512",
        str(tmp_path),
        "hf download nobody/nothing --revision step512",
        "copy the model's folder",
    ):
        assert part in message


def test_a_run_without_a_tokenizer_asks_for_one(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(ModelSourceError, match=r"keeps no tokenizer .* give one by tokenizer=NAME"):
        ModelSource.of(str(tmp_path)).tokenizer()


def test_a_gguf_file_without_its_packages_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("confreg.languages.model_sources.find_spec", lambda name: None)
    with pytest.raises(ModelSourceError, match=r"needs the package gguf, .* pip install 'confreg\[gguf\]'"):
        ModelSource.of(str(tmp_path / "model.gguf")).arguments()
