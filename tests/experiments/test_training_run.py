"""A whole run: from the settings to the page, resumed, and opened again."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from confreg import MeasurementRequest, measure, open_run, save_pretrained
from confreg.callbacks import MeasureOnClock
from confreg.experiments.composition import compose_settings
from confreg.experiments.training_run import train
from confreg.figures.page import write_page
from confreg.languages.sources import language_of
from confreg.models.checkpoints import CheckpointError, checkpoint_steps
from confreg.records.run_folder import RunFolderError
from confreg.records.store import RecordStore

TINY = [
    "data.vocabulary_size=24",
    "data.rank=3",
    "data.block_length=12",
    "data.batch_size=4",
    "data.n_inverse_temperatures=2",
    "data.n_backoff_weights=2",
    "data.n_reference=6",
    "data.n_measured=18",
    "model.n_layer=1",
    "model.d_model=16",
    "model.d_mlp=8",
    "model.n_head=2",
    "model.dropout=0.1",
    "measure.n_scored_per_block=5",
    "measure.control_draws_last=3",
    "optimizer.warmup_steps=2",
    "trainer.max_steps=6",
    "trainer.validate_every=2",
    "clock.resume_every=2",
    "trainer.accelerator=cpu",
    "trainer.progress_bar=false",
    "trainer.model_summary=false",
    "logger.wandb.mode=disabled",
]


@pytest.fixture
def settings(tmp_path):
    def make(*overrides, name="mine"):
        return compose_settings([*TINY, f"run.root={tmp_path}", f"run.name={name}", *overrides])

    return make


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    assert train(compose_settings([*TINY, f"run.root={root}", "run.name=mine"])) == 0
    return root / "mine"


@pytest.fixture
def finished(trained, tmp_path):
    """A finished run of the test's own."""
    return shutil.copytree(trained, tmp_path / "mine")


def test_a_run_leaves_what_the_design_promises_and_nothing_else(finished):
    files = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    steps = [0, 1, 2, 3, 4, 6]
    tables = {f"records/{table}/step={step:08d}.parquet" for table in ("neurons", "model", "spectrum") for step in steps}
    checkpoints = {f"checkpoints/step={step:08d}.ckpt" for step in steps} | {f"checkpoints/resume/step={step:08d}.ckpt" for step in (4, 6)}
    others = {"config.yaml", "run.json", "report.html", "blocks.safetensors", "records/manifest.json", "checkpoints/manifest.json"}
    others |= {"tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"}
    assert {name for name in files if not name.startswith("csv/")} == tables | checkpoints | others
    facts = json.loads((finished / "run.json").read_text())
    assert facts["status"] == "finished"
    assert facts["steps"] == 6
    assert facts["language"]["kind"] == "synthetic"
    assert facts["model"]["n_parameters"] > 1000
    assert (facts["model"]["loads_in_transformers"], facts["model"]["swapped"]) == (True, [])


def test_a_run_with_frozen_norms_says_so_is_opened_to_the_bit_and_names_no_entropy_neuron(settings, tmp_path):
    assert train(settings("model.norm=frozen", "model.output_bias=true", "trainer.max_steps=2", name="frozen")) == 0
    facts = json.loads((tmp_path / "frozen" / "run.json").read_text())["model"]
    assert facts["loads_in_transformers"] is False
    assert facts["swapped"] == ["norms of the blocks: frozen", "final norm: frozen", "output bias"]
    live = RecordStore(tmp_path / "frozen" / "records")
    again = measure(*open_run(tmp_path / "frozen", 2), settings("trainer.max_steps=2").measure.request_at(2, 2, 0))
    assert again["model"]["weights_sha256"] == live.read("model", 2)["weights_sha256"]
    assert again["neurons"]["loss_effect"] == live.read("neurons", 2)["loss_effect"]
    assert set(live.read("neurons", 2)["loss_effect_scale_only"].to_pylist()) == {0.0}
    assert live.read("model", 2)["n_entropy_neurons"].to_pylist() == [0]


@pytest.mark.parametrize("step", [0, 3, 6])
def test_a_run_opened_again_gives_the_rows_that_were_measured_live_to_the_bit(finished, settings, step):
    model, blocks, counts = open_run(finished, step)
    live = RecordStore(finished / "records")
    request = settings().measure.request_at(step, 6, 0)
    tokens_seen = live.read("model", step)["tokens_seen"][0].as_py()
    again = measure(model, blocks, counts, request, step=step, tokens_seen=tokens_seen)
    assert all(live.read(table, step).equals(rows) for table, rows in again.items())
    assert not model.training


@pytest.mark.heavy
@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_run_in_another_precision_gives_its_rows_again_too_with_the_hash_of_what_is_opened(settings, tmp_path, precision):
    chosen = settings(f"trainer.precision={precision}", "trainer.max_steps=2", "model.norm=frozen", name="precise")
    assert train(chosen) == 0
    live = RecordStore(tmp_path / "precise" / "records")
    tokens_seen = live.read("model", 2)["tokens_seen"][0].as_py()
    again = measure(*open_run(tmp_path / "precise", 2), chosen.measure.request_at(2, 2, 0), step=2, tokens_seen=tokens_seen)
    assert all(live.read(table, 2).equals(rows) for table, rows in again.items())


def test_the_default_request_needs_no_control(finished):
    rows = measure(*open_run(finished, 6), MeasurementRequest())["model"].to_pylist()[0]
    assert rows["step"] is None
    assert rows["n_entropy_neurons_control"] is None
    assert rows["bayes_loss_nats"] > 0


def test_opening_a_step_that_was_not_saved_names_those_that_were(finished):
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 5.*\[0, 1, 2, 3, 4, 6\]"):
        open_run(finished, 5)


def test_opening_a_folder_that_is_no_run_says_so(tmp_path):
    with pytest.raises(RunFolderError, match="expected the folder of a run"):
        open_run(tmp_path, 0)


def test_a_second_start_of_a_finished_run_does_nothing(finished, settings, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.parquet")}
    assert train(settings()) == 0
    assert "finished already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*.parquet")}


class StoppedError(RuntimeError):
    """What the test raises in the middle of a run."""


@pytest.mark.parametrize("error", [StoppedError, pytest.param(KeyboardInterrupt, marks=pytest.mark.heavy)])
def test_an_interrupted_run_goes_on_and_ends_like_one_that_was_not(settings, tmp_path, monkeypatch, capsys, error):
    train(settings(name="whole"))
    assert "To go on" not in capsys.readouterr().out
    original = MeasureOnClock.on_train_batch_end

    def stop_at_five(self, trainer, *rest):
        if trainer.global_step == 5:
            raise error
        original(self, trainer, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(MeasureOnClock, "on_train_batch_end", stop_at_five)
        with pytest.raises(error):
            train(settings(name="broken"))
    assert json.loads((tmp_path / "broken" / "run.json").read_text())["status"] in ("failed", "interrupted")
    assert f"To go on with this run from step 4: confreg-train resume={tmp_path / 'broken'}" in capsys.readouterr().out
    again = settings(name="broken") if error is StoppedError else compose_settings([f"resume={tmp_path / 'broken'}"])
    assert train(again) == 0
    whole, broken = (RecordStore(tmp_path / name / "records") for name in ("whole", "broken"))
    assert all(whole.read(table).equals(broken.read(table)) for table in ("neurons", "model", "spectrum"))
    assert checkpoint_steps(tmp_path / "broken" / "checkpoints") == [0, 1, 2, 3, 4, 6]


def test_a_run_is_finished_when_everything_is_written_and_its_page_says_so_already(settings, tmp_path, monkeypatch):
    during, run = [], tmp_path / "drawn"

    def watched(*arguments, **named):
        during.append(json.loads((run / "run.json").read_text())["status"])
        return write_page(*arguments, **named)

    monkeypatch.setattr("confreg.experiments.training_run.write_page", watched)
    assert train(settings("trainer.max_steps=2", name="drawn")) == 0
    assert during == ["running"]  # a kill while the page is drawn leaves a run to go on with
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert "This run is not complete" not in (run / "report.html").read_text()


def test_a_replacement_takes_the_place_of_a_run_when_it_is_complete(finished, settings):
    before = (finished / "records" / "manifest.json").read_text()
    assert train(settings("seed=1", "run.replace=true")) == 0
    assert (finished / "records" / "manifest.json").read_text() != before
    assert (finished / "report.html").exists()
    assert [path.name for path in finished.parent.iterdir()] == ["mine"]


def test_every_callback_can_be_switched_off(settings, tmp_path):
    assert train(settings("callbacks=none", name="bare")) == 0
    assert not (tmp_path / "bare" / "records").exists()
    assert not (tmp_path / "bare" / "checkpoints").exists()


def test_watching_changes_no_bit_of_a_run(finished, settings, tmp_path):
    train(
        settings("callbacks.measure=false", "callbacks.log=false", "trainer.validation_batches=0", "clock.max_points=2", name="unwatched")
    )
    states = [
        torch.load(run / "checkpoints" / "step=00000006.ckpt", weights_only=True)["state_dict"]
        for run in (finished, tmp_path / "unwatched")
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_extra_callbacks_come_from_the_configuration(settings, tmp_path):
    stopping = "+callbacks.extra.timer={_target_:lightning.pytorch.callbacks.Timer,duration:'00:00:01:00'}"
    assert train(settings(stopping, name="timed")) == 0
    state = torch.load(tmp_path / "timed" / "checkpoints" / "resume" / "step=00000006.ckpt", weights_only=True)
    assert "Timer" in state["callbacks"]


def test_text_of_ones_own_is_trained_on_from_a_folder(settings, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02d}.txt").write_text(f"The number of this text is {number}. " * 30)
    overrides = [
        "data=text",
        f"data.source={folder}",
        f"data.cache={tmp_path / 'cache'}",
        "data.vocabulary_size=260",
        "data.block_length=12",
    ]
    kept = [each for each in TINY if not each.startswith("data.")]
    run = compose_settings([*kept, *overrides, f"run.root={tmp_path}", "run.name=text", "trainer.max_steps=2"])
    assert train(run) == 0
    language, (model, opened, _) = language_of(run.data, run.seed), open_run(tmp_path / "text", 2)
    assert torch.equal(opened.documents, language.measured_documents)
    assert torch.equal(opened.measured, language.measured)
    row = RecordStore(tmp_path / "text" / "records").read("model", 2).to_pylist()[0]
    assert row["bayes_loss_nats"] is None
    assert row["loss_nats"] > 0
    folder = save_pretrained(tmp_path / "text", 2, tmp_path / "exported")
    sentence = "The number of this text is 3."
    assert AutoTokenizer.from_pretrained(folder)(sentence).input_ids == language.tokenizer(sentence).input_ids
    with torch.no_grad():
        plain, own = (each(input_ids=opened.measured).logits for each in (AutoModelForCausalLM.from_pretrained(folder), model))
    assert torch.equal(plain, own)


def test_the_report_of_a_profiler_is_shown_and_what_lightning_tells_everybody_is_not(settings, caplog):
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        assert train(settings("trainer.profiler=simple", "trainer.max_steps=2", name="profiled")) == 0
    assert "FIT Profiler Report" in caplog.text
    assert "GPU available" not in caplog.text
