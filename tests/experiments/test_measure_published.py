"""Published weights measured by the command: one model, series, counts of one's own, and what is wrong with some of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from confreg import MeasurementRequest, measure
from confreg.experiments.command_line import is_mendable, run_command
from confreg.experiments.measure_source import measure_source
from confreg.figures.page import write_page
from confreg.figures.run_records import read_run
from confreg.interventions.self_checks import SelfCheckError
from confreg.languages.model_sources import ModelSourceError
from confreg.languages.plain_text import TextError
from confreg.languages.sources import measured_blocks, widened
from confreg.languages.text import TextLanguage
from confreg.models.checkpoints import weights_sha256
from confreg.records.measured_folder import MeasuredFolderError
from confreg.records.store import RecordStore
from confreg.settings import MeasureSettings, SettingError, TextSettings
from confreg.settings.measure_command import MeasureCommandSettings, RepeatedRequest


@pytest.fixture
def text(story_folder, tmp_path):
    return TextSettings(
        source=str(story_folder), block_length=16, n_measured=16, n_reference=4, held_out_every=3, cache=str(tmp_path / "cache")
    )


@pytest.fixture
def ask(text, tmp_path):
    """A function that measures a source into a folder, and gives its records."""

    def measured(source, **settings):
        chosen = {"data": text, "n_scored_per_block": 4, "output": str(tmp_path / "out"), "progress_bar": False, **settings}
        assert measure_source(MeasureCommandSettings(source=str(source), **chosen)) == 0
        return RecordStore(tmp_path / "out" / "records")

    return measured


@pytest.fixture
def series(publish, tmp_path):
    """A folder of models of one training, as others save them."""
    for step in (0, 20, 100):
        publish("llama", seed=step, folder=tmp_path / "series" / f"checkpoint-{step}")
    return tmp_path / "series"


def test_a_published_model_gives_the_rows_that_a_notebook_gives(publish, ask, text):
    folder = publish("gemma2")
    records = ask(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    language = widened(TextLanguage(replace(text, tokenizer=str(folder))), 300)
    blocks = measured_blocks(language, MeasureSettings(n_scored_per_block=4), seed=0)
    request = MeasurementRequest(control_draws=1, control_seed=MeasureSettings().request_at(0, -1, 0).control_seed)
    rows = measure(model, blocks, language.token_counts(), request)
    assert all(records.read(table, 0).equals(rows[table]) for table in rows)
    assert records.read("model", 0)["step"][0].as_py() is None
    assert records.read("model", 0)["weights_sha256"][0].as_py() == weights_sha256(model)


def test_the_page_and_the_terminal_tell_of_weights_and_not_of_a_run(publish, ask, tmp_path, capsys):
    ask(publish("gpt2"))
    said = capsys.readouterr().out
    assert "64 neurons at " in said
    assert "Published weights (1 model), measured" in said
    assert "step 0" not in said
    page = write_page(tmp_path / "out").read_text(encoding="utf-8")
    assert "Published weights (1 model)" in page
    assert read_run(tmp_path / "out").config["source"].endswith("gpt2")
    assert read_run(tmp_path / "out").name.endswith("gpt2")
    facts = json.loads((tmp_path / "out" / "measured.json").read_text())
    assert facts["source"]["kind"] == "published"
    assert facts["source"]["facts"]["language"]["tokenizer"].endswith("gpt2")


def test_a_series_is_measured_in_the_order_of_its_steps_and_goes_on_with_what_is_missing(series, ask, capsys, monkeypatch):
    records = ask(series, revisions=["checkpoint-20"])
    assert records.steps("neurons") == [20]
    opened = []
    count = measure_source.__globals__["measure"]
    monkeypatch.setitem(measure_source.__globals__, "measure", lambda *a, **k: opened.append(k["step"]) or count(*a, **k))
    records = ask(series)
    assert opened == [0, 100]
    assert records.steps("neurons") == [0, 20, 100]
    assert records.read("neurons", 100)["step"].unique().to_pylist() == [100]
    assert "at 3 steps, checkpoint-0 to checkpoint-100: control draws: 1 at each step, on cpu. 1 of these steps are there already." in (
        " ".join(capsys.readouterr().out.split())
    )
    opened.clear()
    ask(series, steps=[20, 100])
    assert opened == []


def test_a_step_that_repeats_another_steps_weights_is_an_error_that_names_both(series, ask, tmp_path):
    shutil.copytree(series / "checkpoint-20", series / "checkpoint-300")
    with pytest.raises(ModelSourceError, match="checkpoint-300 has the very weights of checkpoint-20") as caught:
        ask(series)
    assert is_mendable(caught.value)
    assert RecordStore(tmp_path / "out" / "records").steps("neurons") == [0, 20, 100]


def test_a_model_that_was_written_anew_is_noticed(series, ask, publish):
    ask(series, revisions=["checkpoint-20"])
    shutil.rmtree(series / "checkpoint-20")
    publish("llama", seed=7, folder=series / "checkpoint-20")
    with pytest.raises(MeasuredFolderError, match="has step 20 of other weights"):
        ask(series, revisions=["checkpoint-20"])


def test_another_text_in_the_same_output_is_refused(publish, ask, text):
    folder = publish("llama")
    ask(folder)
    with pytest.raises(MeasuredFolderError, match=r"source\.config\.data\.n_measured: there 16, asked for 14"):
        ask(folder, data=replace(text, n_measured=14))


def test_counts_come_from_a_file_where_one_is_given(publish, ask, tmp_path, capsys):
    folder = publish("llama")
    counts = np.zeros(290, dtype=np.int32)
    counts[:100] = np.arange(1, 101)
    np.save(tmp_path / "counts.npy", counts)
    records = ask(folder, counts=str(tmp_path / "counts.npy"))
    row = records.read("model", 0)
    assert row["zero_count_share"][0].as_py() == pytest.approx(200 / 300)
    assert row["n_frequency_neurons"][0].as_py() == 0
    assert "67% of the token ids were never counted: no token-frequency neuron will be named." in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.ones(301, dtype=np.int64), r"int64 of shape \(301,\); expected whole numbers, .* one for each of the model's 300 token ids"),
        (np.ones((3, 2), dtype=np.int64), r"int64 of shape \(3, 2\)"),
        (np.ones(300), r"float64 of shape \(300,\)"),
        (-np.ones(300, dtype=np.int64), "not below zero"),
        (np.zeros(300, dtype=np.int64), "not all zero"),
        (np.array([{}], dtype=object), "it cannot be read"),
        (None, "it cannot be read .*No such file"),
    ],
)
def test_a_file_of_counts_that_is_none_is_refused_by_name(publish, ask, tmp_path, counts, message):
    if counts is not None:
        np.save(tmp_path / "counts.npy", counts, allow_pickle=True)
    with pytest.raises(TextError, match=message):
        ask(publish("llama"), counts=str(tmp_path / "counts.npy"))
    assert not (tmp_path / "out").exists()


def test_a_model_whose_readout_is_not_what_its_family_says_is_refused(publish, ask, tmp_path, monkeypatch):
    folder = publish("llama")
    forward = torch.nn.Linear.forward

    def other(module, values):
        found = forward(module, values)
        return found * 1.5 if found.shape[-1] == 300 else found

    monkeypatch.setattr(torch.nn.Linear, "forward", other)
    with pytest.raises(SelfCheckError):
        ask(folder)
    assert not (tmp_path / "out").exists()


def test_what_only_published_weights_need_is_refused_of_a_run(tmp_path, story_folder):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(ModelSourceError, match=r"revisions, seed came with source=.*, a run, which is measured on what it measured itself"):
        measure_source(MeasureCommandSettings(source=str(tmp_path / "run"), revisions=["a"], seed=3))


def test_steps_that_no_revision_has_are_refused(series, ask):
    with pytest.raises(SettingError, match=r"steps has 5, and the chosen revisions of .* are 0, 20, 100"):
        ask(series, steps=[5])


def test_the_command_line_says_all_of_it(series, story_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["source=series", "revisions=[checkpoint-*]", "per_doubling=1", f"data.source={story_folder}", "data.held_out_every=3"]
    sizes = ["data.block_length=16", "data.n_measured=16", "data.n_reference=4", "n_scored_per_block=2", "request.control_draws=0"]
    assert run_command("measure", measure_source, [*arguments, *sizes, "progress_bar=false"]) == 0
    assert "Into measured/series/control_draws=0." in capsys.readouterr().out
    assert RecordStore(tmp_path / "measured" / "series" / "control_draws=0" / "records").steps("neurons") == [0, 20, 100]
    assert run_command("measure", measure_source, ["source=series", "data.redraw_probability=0.1"]) == 2
    assert "data.redraw_probability" in capsys.readouterr().err


def test_the_request_of_published_weights_is_one_draw_of_the_control_unless_it_says_otherwise():
    assert RepeatedRequest().at_revision(5, 0).control_draws == 1
    assert RepeatedRequest().at_revision(5, 0).control_seed != RepeatedRequest().at_revision(6, 0).control_seed
    assert RepeatedRequest(control_draws=0, control_seed=9).at_revision(5, 0) == MeasurementRequest(control_draws=0, control_seed=9)
