"""Runs that begin with pretrained weights: all of them trained, or low-rank changes; what is opened again is what was measured."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from confreg import open_run
from confreg.experiments import training_run
from confreg.experiments.command_line import run_command
from confreg.experiments.composition import check_model_names, compose_settings
from confreg.experiments.export_run import export_run
from confreg.experiments.measure_source import measure_source
from confreg.experiments.training_run import train
from confreg.languages.model_sources import ModelSourceError
from confreg.models.checkpoints import weights_sha256
from confreg.models.export import save_pretrained
from confreg.models.runs import open_model
from confreg.records.schema import TABLES
from confreg.records.store import RecordStore
from confreg.settings import SettingError
from confreg.settings.measure_command import MeasureCommandSettings, RepeatedRequest

TINY = [
    "data=text",
    "data.block_length=16",
    "data.batch_size=4",
    "data.n_measured=16",
    "data.n_reference=6",
    "data.held_out_every=3",
    "measure.n_scored_per_block=4",
    "measure.control_draws_last=2",
    "optimizer.learning_rate=0.01",
    "optimizer.warmup_steps=1",
    "trainer.max_steps=4",
    "trainer.validate_every=2",
    "trainer.accelerator=cpu",
    "trainer.progress_bar=false",
    "trainer.model_summary=false",
    "callbacks.log=false",
    "logger.wandb.mode=disabled",
    "logger.csv=false",
]
KINDS = {
    "full": ("llama", ["model.dropout=0.1"]),
    "post_norm": ("gemma2", ["trainer.gradient_checkpointing=true"]),
    "lora": ("llama", ["model=lora", "model.lora.rank=2", "model.lora.dropout=0.1"]),
    "lora_of_gpt2": ("gpt2", ["model=lora", "model.lora.targets=[c_proj]", "frequency=seen"]),
    "short": ("llama", ["model.dtype=bfloat16", "trainer.precision=bf16-true"]),
    "averaged_lora": ("llama", ["model=lora", "callbacks=ema", "trainer.precision=bf16-mixed"]),
}


@pytest.fixture(scope="module")
def fine_tune(tmp_path_factory, publish, story_folder):
    """A function that trains a run of a kind, when it is first asked for."""
    root, folders = tmp_path_factory.mktemp("runs"), {}

    def finished(kind):
        family, overrides = KINDS[kind]
        if not (root / kind).exists():
            folders[kind] = publish(family)
            place = [f"run.root={root}", f"run.name={kind}", f"data.cache={root / 'cache'}", f"data.source={story_folder}"]
            preset = [] if any(each.startswith("model=") for each in overrides) else ["model=pretrained"]
            assert train(compose_settings([*preset, *overrides, *TINY, *place, f"model.source={folders[kind]}"])) == 0
        return root / kind, folders[kind]

    return finished


HEAVY = ("post_norm", "short", "averaged_lora", "lora_of_gpt2")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.heavy) if kind in HEAVY else kind for kind in KINDS])
def test_what_is_measured_again_equals_what_was_measured_while_training_to_the_bit(fine_tune, kind, tmp_path):
    run, _ = fine_tune(kind)
    settings = compose_settings(["model=pretrained", "model.source=x", *TINY])
    own = RepeatedRequest.own_of(settings)
    asked = MeasureCommandSettings(source=str(run), output=str(tmp_path / "again"), request=own, progress_bar=False)
    assert measure_source(asked) == 0
    live, again = RecordStore(run / "records"), RecordStore(tmp_path / "again" / "records")
    assert live.steps("neurons") == [0, 1, 2, 3, 4]
    assert all(live.read(table, step).equals(again.read(table, step)) for table in TABLES for step in live.steps(table))
    hashes = [live.read("model", step)["weights_sha256"][0].as_py() for step in live.steps("model")]
    assert len(set(hashes)) == (5 if kind != "averaged_lora" else len(set(hashes)))


@pytest.mark.parametrize("kind", ["full", "lora", "lora_of_gpt2"])
def test_a_run_begins_with_the_published_weights_and_says_which(fine_tune, kind):
    run, source = fine_tune(kind)
    published = weights_sha256(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32))
    assert RecordStore(run / "records").read("model", 0)["weights_sha256"][0].as_py() == published
    facts = json.loads((run / "run.json").read_text())["model"]
    assert facts["began_with_sha256"] == published
    assert (facts["n_trained_parameters"] == facts["n_parameters"]) == (kind == "full")


def test_a_run_opens_and_exports_without_its_source(fine_tune, tmp_path):
    run, _ = fine_tune("lora")
    model, blocks, counts = open_run(run, 4)
    assert len(counts) == 300
    save_pretrained(run, 4, tmp_path / "exported")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    assert torch.equal(exported(input_ids=blocks.measured).logits, model(input_ids=blocks.measured).logits)


@pytest.mark.parametrize("kind", ["full", "lora", "lora_of_gpt2", pytest.param("post_norm", marks=pytest.mark.heavy)])
def test_the_card_of_an_exported_run_tells_with_which_weights_it_began(fine_tune, kind, tmp_path):
    run, source = fine_tune(kind)
    folder = export_run(run, None, tmp_path / "exported")
    card = (folder / "README.md").read_text(encoding="utf-8")
    sha256 = json.loads((run / "run.json").read_text())["model"]["began_with_sha256"]
    assert f"It began with the weights of {source.name} (SHA-256 {sha256[:12]}…) and was trained on" in card.replace("\\", "")
    assert ("low-rank changes" in card) == ("lora" in kind)
    assert "from scratch" not in card
    assert str(source.parent) not in card
    assert f"model={'lora' if 'lora' in kind else 'pretrained'} model.source={source.name}" in card.replace("\\", "").replace('"', "")
    exported, model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), open_model(run, 4)
    assert weights_sha256(exported) == weights_sha256(model)


def test_low_rank_changes_leave_all_other_weights_alone(fine_tune):
    run, _ = fine_tune("lora_of_gpt2")
    before, after = (dict(open_model(run, step).named_parameters()) for step in (0, 4))
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert all("c_proj.weight" in name for name in changed)


@pytest.mark.heavy
def test_a_run_is_where_another_one_begins(fine_tune, tmp_path, story_folder):
    first, _ = fine_tune("full")
    place = [f"run.root={tmp_path}", "run.name=second", f"data.source={story_folder}", f"data.cache={tmp_path}"]
    for source in (first, first / "checkpoints" / "step=00000004.ckpt"):
        settings = compose_settings(
            ["model=pretrained", *TINY, *place, f"model.source={source}", "trainer.max_steps=1", "run.replace=true"]
        )
        check_model_names(settings)
        assert train(settings) == 0
        assert weights_sha256(open_model(tmp_path / "second", 0)) == weights_sha256(open_model(first, 4))
    settings.model.source, settings.model.revision = str(first), "2"
    assert train(settings) == 0
    assert weights_sha256(open_model(tmp_path / "second", 0)) == weights_sha256(open_model(first, 2))


@pytest.mark.heavy
def test_a_run_of_a_synthetic_language_goes_on_with_another_one(tmp_path):
    sizes = ["data.vocabulary_size=24", "data.block_length=12", "data.n_measured=6", "data.n_reference=6", "data.n_inverse_temperatures=2"]
    quiet = [each for each in TINY if each.startswith(("trainer.", "logger.", "callbacks."))]
    scratch = ["model.n_layer=1", "model.d_model=16", "model.d_mlp=8", "model.n_head=2"]
    assert train(compose_settings([*sizes, *quiet, *scratch, f"run.root={tmp_path}", "run.name=first"])) == 0
    begun = ["model=pretrained", f"model.source={tmp_path / 'first'}", "data=fixed_confidence", *sizes[:4]]
    assert train(compose_settings([*begun, *quiet, f"run.root={tmp_path}", "run.name=second"])) == 0
    row = RecordStore(tmp_path / "second" / "records").read("model", 4)
    assert row["bayes_loss_nats"][0].as_py() is not None
    wrong = compose_settings([*begun, *quiet, f"run.root={tmp_path}", "run.name=third", "data.vocabulary_size=20"])
    with pytest.raises(SettingError, match="The data has 20 token ids and the model 24; expected as many"):
        train(wrong)


@pytest.mark.heavy
def test_recomputed_activations_change_no_bit_of_the_training(fine_tune, tmp_path, story_folder):
    _, source = fine_tune("full")
    hashes = []
    for name, is_recomputed in (("again", "true"), ("kept", "false")):
        place = [f"run.root={tmp_path}", f"run.name={name}", f"data.source={story_folder}", f"data.cache={tmp_path}"]
        chosen = ["model=pretrained", f"model.source={source}", "model.dropout=0.2", f"trainer.gradient_checkpointing={is_recomputed}"]
        assert train(compose_settings([*chosen, *TINY, *place])) == 0
        hashes.append(weights_sha256(open_model(tmp_path / name, 4)))
    assert hashes[0] == hashes[1]


@pytest.mark.heavy
def test_a_broken_off_run_goes_on_to_the_same_weights(fine_tune, tmp_path, story_folder, monkeypatch):
    _, source = fine_tune("full")

    def settings(name):
        place = [f"run.root={tmp_path}", f"run.name={name}", f"data.source={story_folder}", f"data.cache={tmp_path}"]
        chosen = ["model=lora", f"model.source={source}", "model.lora.dropout=0.2", "clock.resume_every=2"]
        return compose_settings([*chosen, *TINY, *place])

    assert train(settings("whole")) == 0
    step_of = training_run.LanguageModule.training_step

    def broken(module, batch, batch_idx):
        if module.global_step == 3:
            raise RuntimeError("the light went out")
        return step_of(module, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(training_run.LanguageModule, "training_step", broken)
        with pytest.raises(RuntimeError, match="light"):
            train(settings("broken"))
    assert train(settings("broken")) == 0
    stores = [RecordStore(tmp_path / name / "records") for name in ("whole", "broken")]
    assert all(stores[0].read(table, step).equals(stores[1].read(table, step)) for table in TABLES for step in range(5))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.source=./nowhere"], "there is no such file or folder; expected the NAME"),
        ([], "model.source is empty; expected the name of a published model"),
        (
            ["model.source=x", "model.n_layer=3"],
            r"model.n_layer .* is a setting of ModelSettings, and the chosen model is PretrainedSettings",
        ),
        (["model.source=x", "model.lora.rank=4"], r"model\.lora\.rank .* below one that is null; choose model=lora"),
        (["model=lora", "model.source=x", "model.lora.rank=0"], r"model\.lora\.rank is 0; expected a value at least 1"),
        (["model.source=x", "model.lora={rank: 1}"], r"model\.lora .* is null and cannot take a mapping there"),
        (["model.source=x", "model.dtype=int8"], "model.dtype is 'int8'; expected one of float32"),
        (["model.source=x", "data=mixture"], "model is pretrained and data is MixtureSettings; expected data=text"),
    ],
)
def test_what_cannot_be_begun_with_is_refused_before_any_folder_exists(overrides, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    preset = [] if "model=lora" in overrides else ["model=pretrained"]
    arguments = [*preset, *overrides, *([] if any("data=" in each for each in overrides) else ["data=text", f"data.source={tmp_path}"])]
    with pytest.raises((SettingError, ModelSourceError), match=message):
        check_model_names(compose_settings(arguments))
    assert not list(tmp_path.iterdir())
    assert run_command("train", lambda settings: 0, arguments) == 2
    assert "Traceback" not in capsys.readouterr().err
