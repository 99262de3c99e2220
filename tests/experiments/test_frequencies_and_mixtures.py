"""Whole runs that count the tokens seen so far, and that read mixtures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from confreg import measure, open_run
from confreg.callbacks import MeasureOnClock
from confreg.experiments.composition import compose_settings
from confreg.experiments.training_run import train
from confreg.languages.sources import language_of
from confreg.languages.token_counts import SeenTokenCounts
from confreg.records.store import RecordStore
from confreg.settings import Settings

LANGUAGE = {"vocabulary_size": 24, "rank": 3, "n_inverse_temperatures": 2, "n_backoff_weights": 2, "n_reference": 16, "n_measured": 18}
MODEL = ["model.n_layer=1", "model.d_model=16", "model.d_mlp=8", "model.n_head=2", "model.dropout=0.1", "optimizer.warmup_steps=2"]
TRAINER = ["trainer.max_steps=6", "trainer.validate_every=4", "clock.resume_every=2", "trainer=cpu", "trainer.accumulate_batches=2"]
QUIET = ["trainer.progress_bar=false", "trainer.model_summary=false", "logger.wandb.mode=disabled", "measure.n_scored_per_block=5"]
SEEN = ["frequency=seen", *(f"data.{name}={value}" for name, value in LANGUAGE.items())]
MIXED = [
    "data=mixture",
    "~data.parts.speeches",
    *(f"data.parts.known.synthetic.{name}={value}" for name, value in LANGUAGE.items()),
    *(f"+data.parts.sure.synthetic.{name}={value}" for name, value in {**LANGUAGE, "inverse_temperature_min": 3.0}.items()),
    "+data.parts.sure.weight=2",
]


def composed(root: Path, *overrides: str, name: str = "mine") -> Settings:
    shape = ["data.block_length=12", "data.batch_size=4"]
    return compose_settings([*overrides, *shape, *MODEL, *TRAINER, *QUIET, f"run.root={root}", f"run.name={name}"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that counts the tokens seen."""
    root = tmp_path_factory.mktemp("runs")
    assert train(composed(root, *SEEN, name="whole")) == 0
    return root / "whole"


def rows_measured_again(run: Path, step: int, settings: Settings) -> bool:
    model, blocks, counts = open_run(run, step)
    live = RecordStore(run / "records")
    tokens_seen = live.read("model", step)["tokens_seen"][0].as_py()
    again = measure(model, blocks, counts, settings.measure.request_at(step, 6, 0), step=step, tokens_seen=tokens_seen)
    return all(live.read(table, step).equals(rows) for table, rows in again.items())


def test_tokens_seen_are_counted_before_each_step_live_and_in_the_run_opened_again(whole):
    chosen, run = composed(whole.parent, *SEEN, name="whole"), whole
    assert [open_run(run, step)[2].sum().item() for step in (0, 1, 3, 6)] == [step * 2 * 4 * 12 for step in (0, 1, 3, 6)]
    assert all(rows_measured_again(run, step, chosen) for step in (0, 3, 6))
    facts = json.loads((run / "run.json").read_text())["token_frequencies"]
    assert (facts["last_step"], facts["n_tokens"]) == (6, 6 * 2 * 4 * 12)
    assert "frequency: seen" in (run / "config.yaml").read_text()
    assert "the tokens that the training read before" in (run / "report.html").read_text()


def test_before_the_first_step_nothing_is_a_frequency_and_nothing_passes_through_it(whole):
    store = RecordStore(whole / "records")
    model, neurons = store.read("model", 0).to_pylist()[0], store.read("neurons", 0)
    assert (model["zero_count_share"], model["n_frequency_neurons"]) == (1.0, 0)
    for column in ("frequency_cosine", "frequency_mediated_share", "frequency_mediated_share_low"):
        assert neurons[column].null_count == len(neurons)
    assert not any(neurons["is_frequency_neuron"].to_pylist())
    assert neurons["kl_from_frequency_effect"].null_count == 0  # the divergence from the uniform distribution is defined
    assert store.read("neurons", 6)["frequency_cosine"].null_count == 0


class StoppedError(RuntimeError):
    """What the test raises in the middle of a run."""


@pytest.mark.heavy
def test_a_run_that_goes_on_has_its_counts_already_and_ends_like_one_that_was_not_stopped(whole, monkeypatch):
    again = composed(whole.parent, *SEEN, name="broken")
    original = MeasureOnClock.on_train_batch_end

    def stop_at_three(self, trainer, *rest):
        if trainer.global_step == 3:
            raise StoppedError
        original(self, trainer, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(MeasureOnClock, "on_train_batch_end", stop_at_three)
        with pytest.raises(StoppedError):
            train(again)
    monkeypatch.setattr("confreg.languages.token_counts.read_token_counts", lambda *_: pytest.fail("counted again"))
    assert train(again) == 0
    stores = [RecordStore(whole.parent / name / "records") for name in ("whole", "broken")]
    assert all(stores[0].read(table).equals(stores[1].read(table)) for table in ("neurons", "model"))


def test_a_step_that_was_not_foreseen_is_counted_when_the_run_is_opened(tmp_path):
    chosen = composed(tmp_path, *SEEN, "callbacks=validation")
    train(chosen)
    assert RecordStore(tmp_path / "mine" / "records").steps("model") == [4]
    assert rows_measured_again(tmp_path / "mine", 4, chosen)
    seen = SeenTokenCounts.of(chosen, language_of(chosen.data, chosen.seed))
    assert torch.equal(open_run(tmp_path / "mine", 3)[2], seen(3))


def test_a_run_that_stops_early_keeps_the_counts_of_the_tokens_that_it_read_and_no_others(tmp_path, monkeypatch):
    stopping = ["callbacks=early_stopping", "+callbacks.extra.early_stopping.stopping_threshold=100.0"]  # at the first validation
    assert train(composed(tmp_path, *SEEN, *stopping)) == 0
    facts = json.loads((tmp_path / "mine" / "run.json").read_text())
    assert facts["stopped_early"]
    assert (facts["token_frequencies"]["last_step"], facts["token_frequencies"]["n_tokens"]) == (4, 4 * 2 * 4 * 12)
    monkeypatch.setattr("confreg.models.runs.language_of", lambda *_: pytest.fail("the language was read again"))
    monkeypatch.setattr("confreg.models.runs.is_all_synthetic", lambda _: False)  # its truth needs the language, the counts do not
    assert open_run(tmp_path / "mine", 4)[2].sum() == 4 * 2 * 4 * 12


def test_a_mixture_of_confidences_is_trained_on_and_compared_with_its_truth(tmp_path):
    chosen, run = composed(tmp_path, *MIXED), tmp_path / "mine"
    assert train(chosen) == 0
    assert all(rows_measured_again(run, step, chosen) for step in (0, 6))
    row = RecordStore(run / "records").read("model", 6).to_pylist()[0]
    assert row["n_documents"] == 27  # 18 of the heavier part, and half as many of the other
    assert row["bayes_loss_nats"] > 0
    facts = json.loads((run / "run.json").read_text())
    assert {name: part["share_of_blocks"] for name, part in facts["language"]["parts"].items()} == {"known": 1 / 3, "sure": 2 / 3}
    assert facts["token_frequencies"]["n_tokens"] == 6 * 2 * 4 * 12
