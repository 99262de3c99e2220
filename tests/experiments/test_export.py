"""confreg-export: a saved step as a folder for plain transformers with a model card, or a refusal in a line or two."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

from confreg import MeasurementRequest, measure
from confreg.experiments.composition import compose_settings
from confreg.experiments.export import main
from confreg.experiments.reproducing import command_of
from confreg.languages.blocks import Blocks
from confreg.languages.synthetic import number_tokenizer
from confreg.models.build import build_model
from confreg.models.checkpoints import checkpoint_name
from confreg.models.runs import open_model, save_tokenizer
from confreg.records.durable import sha256_of
from confreg.records.store import RecordStore
from confreg.settings import ModelSettings, Settings, SyntheticSettings, identity, settings_to_mapping

STEPS, N_VOCAB, N_TOKENS = (0, 4), 24, 12
WRITTEN = {"README.md", "config.json", "figures", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture
def make_run(tmp_path: Path, tiny_blocks: Blocks, tiny_counts: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A function that writes what a run leaves at two steps: checkpoints of random weights, and what is measured on them."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(
        "confreg.experiments.export_run.command_of", lambda settings, facts: f"confreg-train seed={settings.seed}"
    )  # a second each

    def make(tokenizer: bool = True, measured: tuple[int, ...] = STEPS, records: str = "", **model: Any) -> Path:
        parts = ModelSettings(n_layer=1, d_model=16, d_mlp=8, n_head=2, **model)
        settings = Settings(model=parts, data=SyntheticSettings(vocabulary_size=N_VOCAB, block_length=N_TOKENS))
        settings.run.name = "mine/first"
        run = tmp_path / "run"
        (run / "checkpoints").mkdir(parents=True)
        (run / "config.yaml").write_text(yaml.safe_dump(settings_to_mapping(settings)))
        facts = {"status": "finished", "steps": STEPS[-1], "language": {"kind": "synthetic", "vocabulary_size": N_VOCAB}}
        (run / "run.json").write_text(json.dumps(facts))
        hashes = {}
        for step in STEPS:
            built, path = build_model(parts, N_VOCAB, N_TOKENS, seed=step), run / "checkpoints" / checkpoint_name(step)
            state = {f"model.{name}": values for name, values in built.state_dict().items()}
            torch.save({"state_dict": state, "hyper_parameters": {"vocabulary_size": N_VOCAB, "tokens_per_step": 44}}, path)
            hashes[path.name] = sha256_of(path)
            if step in measured:
                rows = measure(built.eval(), tiny_blocks, tiny_counts, MeasurementRequest(), step=step, tokens_seen=44 * step)
                for table in rows:
                    RecordStore(run / records / "records").write(table, step, rows[table])
        (run / "checkpoints" / "manifest.json").write_text(json.dumps(hashes))
        save_tokenizer(run, number_tokenizer(N_VOCAB) if tokenizer else None)
        return run

    return make


def test_the_last_step_goes_below_the_run_and_its_place_is_printed(make_run: Callable[..., Path], capsys: Any) -> None:
    run = make_run()
    assert main([str(run)]) == 0
    folder = run / "exported" / "step=00000004"
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (f"{folder}\n", "")
    assert {path.name for path in folder.iterdir()} == WRITTEN
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "transformers"
    assert card.text.strip().startswith("# mine/first, step 4\n")
    assert "| tokens seen | 176 target tokens |" in card.text
    assert "\nconfreg-train seed=0\n" in card.text


def test_the_exported_model_gives_the_same_logits_to_the_bit(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run()
    assert main([str(run), "--step", "0", "--out", str(tmp_path / "out")]) == 0
    tokens = torch.arange(N_TOKENS)[None]
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(input_ids=tokens).logits
        assert torch.equal(logits, open_model(run, 0)(input_ids=tokens).logits)


@pytest.mark.parametrize("tokenizer", [True, False])
def test_what_the_card_says_about_opening_works_as_it_stands_there(
    tokenizer: bool, make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert main([str(make_run(tokenizer)), "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    assert ("keeps no tokenizer" in told.err) != tokenizer
    code = re.search(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path / "out")
    exec(code[1], {})
    assert capsys.readouterr().out.startswith("tensor([[")


def test_the_same_step_exported_twice_has_the_same_card_and_figures(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run()
    for name in ("first", "second"):
        assert main([str(run), "--out", str(tmp_path / name)]) == 0
    paths = [path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file()]
    assert len(paths) == len(WRITTEN) - 1 + 3  # three figures: there are two steps, and enough documents to name somebody
    for path in paths:
        assert (tmp_path / "first" / path).read_bytes() == (tmp_path / "second" / path).read_bytes()


def test_a_step_that_was_not_measured_is_exported_and_the_lack_is_said(make_run: Callable[..., Path], capsys: Any) -> None:
    run = make_run(measured=(0,))
    assert main([str(run)]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith(
        f"confreg-export: step 4 was not measured, so the card has no numbers: confreg-measure source={run} steps=[4]"
    )
    assert "no neuron was measured at it" in (run / "exported" / "step=00000004" / "README.md").read_text(encoding="utf-8")


def test_what_was_measured_later_by_the_runs_own_request_fills_the_card(make_run: Callable[..., Path], capsys: Any) -> None:
    run = make_run(records="measured/own")
    assert main([str(run)]) == 0
    assert capsys.readouterr().err == ""
    assert "| loss |" in (run / "exported" / "step=00000004" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--step", "3"], "has no checkpoint of step 3; it has the steps [0, 4]"),
        (["--out", "full"], "full exists already; expected a new or an empty folder"),
        (["--out", "full/mine.txt/below"], "Not a directory"),
    ],
)
def test_what_cannot_be_exported_ends_with_2_and_one_line(
    options: list[str], said: str, make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run = make_run()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    assert main([str(run), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("confreg-export: ")
    assert said in error
    assert error.count("\n") == 1
    assert {path.name for path in tmp_path.rglob("*") if path.parent in (tmp_path, tmp_path / "full")} == {"run", "full", "mine.txt"}
    assert not (run / "exported").exists()


def test_a_folder_that_is_no_run_and_a_run_without_checkpoints_end_with_2(
    make_run: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    assert main([str(tmp_path / "absent")]) == 2
    assert "expected the folder of a run, such as runs/default/seed=0" in capsys.readouterr().err
    run = make_run()
    (run / "checkpoints" / "manifest.json").unlink()
    assert main([str(run)]) == 2
    assert "has no checkpoints; expected at least one" in capsys.readouterr().err


def test_a_model_that_plain_transformers_has_not_ends_with_2(make_run: Callable[..., Path], capsys: Any) -> None:
    assert main([str(make_run(norm="frozen"))]) == 2
    assert "does not know (norms of the blocks: frozen" in capsys.readouterr().err


def test_a_place_without_permission_ends_with_2(make_run: Callable[..., Path], capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    run = make_run()
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert main([str(run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("confreg-export: Permission denied (reading ")
    assert "Choose another --out" in error


def test_a_ctrl_c_leaves_nothing_and_ends_with_130(
    make_run: Callable[..., Path], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    run = make_run()
    monkeypatch.setattr("confreg.figures.model_card.card.card_text", interrupt)
    assert main([str(run), "--out", str(tmp_path / "deep" / "out")]) == 130
    assert capsys.readouterr().err == "confreg-export: interrupted; nothing was written.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_fault_of_the_program_itself_is_not_hidden(make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("of some other package")

    monkeypatch.setattr("confreg.figures.model_card.card.card_text", fail)
    with pytest.raises(ValueError, match="of some other package"):
        main([str(make_run())])


@pytest.mark.parametrize("step", ["first", "-1", "1.5", ""])
def test_a_step_that_is_no_step_is_refused_by_the_command_line(step: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as exit_of_command:
        main(["run", f"--step={step}"])
    assert exit_of_command.value.code == 2
    assert "expected a saved optimizer step, such as 512, or last" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "said"), [("--version", version("confreg")), ("--help", "RUN/exported/step=00000512")])
def test_version_and_help_are_told(flag: str, said: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as exit_of_command:
        main([flag])
    assert exit_of_command.value.code == 0
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["seed=3", "model=llama_tiny", "trainer.precision=bf16-mixed", "model.norm=rmsnorm", "measure.request.groups.pair=[0, 3]"],
        ["experiment=sotu", "frequency=seen"],
        ["data=mixture", "data.parts.speeches.weight=2"],
        ["callbacks=ema"],
    ],
)
def test_the_command_of_the_card_composes_the_same_configuration(overrides: list[str]) -> None:
    settings = compose_settings(overrides)
    command = command_of(settings, {})
    assert command is not None
    program, *arguments = shlex.split(command)
    assert program == "confreg-train"
    assert identity(settings_to_mapping(compose_settings(arguments))) == identity(settings_to_mapping(settings))


def test_the_command_names_a_text_by_its_last_part_and_says_nothing_where_it_could_not_be_true() -> None:
    assert (
        command_of(compose_settings(["data=text", "data.source=/home/somebody/texts"]), {}) == "confreg-train data=text data.source=texts"
    )
    own_part = ["data=mixture", "+data.parts.mine={text: {source: mine}}"]
    assert command_of(compose_settings(own_part), {}) is None


def test_a_name_on_the_hub_is_told_whole_and_a_path_by_its_last_part():
    settings = compose_settings(["model=lora", "model.source=somebody/small", "data=text", "data.source=x", "optimizer.learning_rate=1e-4"])
    expected = "confreg-train data=text model=lora model.source={} data.source=x optimizer.learning_rate=0.0001"
    assert command_of(settings, {"model": {"source_kind": "hub"}}).replace("'", "").replace('"', "") == expected.format("somebody/small")
    assert command_of(settings, {"model": {"source_kind": "folder"}}).replace("'", "").replace('"', "") == expected.format("small")
