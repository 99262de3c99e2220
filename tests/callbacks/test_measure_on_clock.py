"""When the measurement runs."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from confreg.callbacks import LogRecords, MeasureOnClock, SaveOnClock
from confreg.interventions.suspicions import SelfCheckError
from confreg.measurement import measure
from confreg.models.build import build_model
from confreg.models.checkpoints import weights_sha256
from confreg.records.schema import table_of
from confreg.records.store import RecordStore
from confreg.settings import MeasurementRequest, ModelSettings


@pytest.fixture
def store(tmp_path):
    return RecordStore(tmp_path / "records")


def test_it_measures_at_its_steps_and_keeps_complete_tables(tiny_module, fit, tiny_blocks, tiny_counts, store):
    fit(tiny_module(max_steps=6), MeasureOnClock(tiny_blocks, tiny_counts, [0, 1, 4, 6], store=store))
    assert store.steps("neurons") == store.steps("model") == store.steps("spectrum") == [0, 1, 4, 6]
    assert store.read("model")["tokens_seen"].to_pylist() == [step * 44 for step in (0, 1, 4, 6)]
    assert len(set(store.read("model")["weights_sha256"].to_pylist())) == 4


def test_under_accumulation_it_counts_optimizer_steps_and_measures_each_once(tiny_module, fit, tiny_blocks, tiny_counts, monkeypatch):
    measured = []
    monkeypatch.setattr("confreg.callbacks.measure_on_clock.measure", lambda *_, step, **__: measured.append(step) or {})
    fit(tiny_module(max_steps=4), MeasureOnClock(tiny_blocks, tiny_counts, [0, 1, 2, 4]), accumulate=3)
    assert measured == [0, 1, 2, 4]


def test_a_step_that_is_complete_is_not_measured_again(tiny_module, fit, tiny_blocks, tiny_counts, store, monkeypatch):
    fit(tiny_module(max_steps=2), MeasureOnClock(tiny_blocks, tiny_counts, [0, 2], store=store))
    monkeypatch.setattr("confreg.callbacks.measure_on_clock.measure", lambda *_, **__: pytest.fail("measured again"))
    fit(tiny_module(max_steps=2), MeasureOnClock(tiny_blocks, tiny_counts, [0, 2], store=store))
    assert store.steps("model") == [0, 2]


def test_a_step_that_lacks_a_table_which_the_request_asks_for_is_measured_again(
    tiny_module, fit, tiny_blocks, tiny_counts, store, monkeypatch
):
    measured = []

    def tables(model, *_, step, **__):
        measured.append(step)
        identity = {"step": step, "weights_sha256": weights_sha256(model)}
        return {name: table_of(name, {}, 1, identity) for name in ("neurons", "model", "spectrum", "attributions")}

    monkeypatch.setattr("confreg.callbacks.measure_on_clock.measure", tables)
    callback = MeasureOnClock(tiny_blocks, tiny_counts, [0], MeasurementRequest(attributions=True), store)
    for _ in range(2):
        fit(tiny_module(max_steps=1), callback)
    assert measured == [0]
    path = store.folder / "attributions" / "step=00000000.parquet"
    path.unlink()  # as after a kill between two tables
    fit(tiny_module(max_steps=1), MeasureOnClock(tiny_blocks, tiny_counts, [0], MeasurementRequest(), store))
    assert measured == [0]
    fit(tiny_module(max_steps=1), MeasureOnClock(tiny_blocks, tiny_counts, [0], MeasurementRequest(attributions=True), store))
    assert measured == [0, 0]
    assert store.steps("attributions") == [0]


def test_records_of_other_weights_give_way_so_that_rows_and_checkpoints_stay_together(tiny_module, fit, tiny_blocks, tiny_counts, store):
    fit(tiny_module(max_steps=2), MeasureOnClock(tiny_blocks, tiny_counts, [0, 2], store=store))
    before = store.read("model")["weights_sha256"].to_pylist()
    with pytest.warns(UserWarning, match="step 0 describe other weights"):
        fit(tiny_module(max_steps=2, seed=1), MeasureOnClock(tiny_blocks, tiny_counts, [0, 2], store=store))
    assert store.steps("neurons") == [0, 2]
    assert not set(before) & set(store.read("model")["weights_sha256"].to_pylist())


def test_live_rows_are_those_of_measuring_the_same_weights_alone(tiny_module, fit, tiny_blocks, tiny_counts, store):
    module = tiny_module(max_steps=3)
    request = MeasurementRequest(control_draws=2, control_seed=5)
    fit(module, MeasureOnClock(tiny_blocks, tiny_counts, [3], request, store))
    alone = measure(module, tiny_blocks, tiny_counts, request, step=3, tokens_seen=132)
    assert all(store.read(table, 3).equals(rows) for table, rows in alone.items())


def test_the_request_may_depend_on_the_step(tiny_module, fit, tiny_blocks, tiny_counts, store):
    requests = []

    def request(step):
        requests.append(step)
        return MeasurementRequest(control_draws=step)

    fit(tiny_module(max_steps=2), MeasureOnClock(tiny_blocks, tiny_counts, [0, 2], request, store))
    controls = store.read("model")["n_entropy_neurons_control"].to_pylist()
    assert requests == [0, 2]
    assert [each is None for each in controls] == [True, False]


def test_the_token_counts_may_depend_on_the_step(tiny_module, fit, tiny_blocks, tiny_counts, store):
    module = tiny_module(max_steps=2)
    fit(module, MeasureOnClock(tiny_blocks, lambda step: tiny_counts * step, [0, 2], store=store))
    assert store.read("model")["zero_count_share"].to_pylist() == [1.0, (tiny_counts == 0).double().mean().item()]
    alone = measure(module, tiny_blocks, tiny_counts * 2, MeasurementRequest(), step=2, tokens_seen=88)
    assert all(store.read(table, 2).equals(rows) for table, rows in alone.items())


def test_as_validation_hook_it_measures_after_every_validation(tiny_module, fit, tiny_blocks, tiny_counts, store):
    fit(tiny_module(max_steps=6), MeasureOnClock(tiny_blocks, tiny_counts, store=store, when="validation"), validation_batches=1)
    assert store.steps("model") == [2, 4, 6]


def test_it_also_runs_under_validate_of_a_checkpoint(tiny_module, fit, tiny_blocks, tiny_counts, tiny_language, tmp_path):
    fit(tiny_module(max_steps=4), SaveOnClock(tmp_path / "c", [4]))
    callback = MeasureOnClock(tiny_blocks, tiny_counts, when="validation", store=RecordStore(tmp_path / "r"))
    trainer = pl.Trainer(accelerator="cpu", callbacks=[callback], logger=False, enable_progress_bar=False, enable_checkpointing=False)
    loader = DataLoader(list(tiny_language.measured.split(4)), batch_size=None)
    trainer.validate(tiny_module(max_steps=4), loader, ckpt_path=tmp_path / "c" / "step=00000004.ckpt", verbose=False)
    assert RecordStore(tmp_path / "r").steps("model") == [4]
    assert RecordStore(tmp_path / "r").read("model")["tokens_seen"].to_pylist() == [4 * 44]


def test_training_with_everything_on_equals_training_with_nothing_to_the_bit(
    tiny_module, fit, weights_of, tiny_blocks, tiny_counts, tmp_path
):
    class Losses(pl.Callback):
        def __init__(self):
            self.values = []

        def on_train_batch_end(self, trainer, pl_module, outputs, *_):
            self.values.append(outputs["loss"].item())

    plain, watched, losses = tiny_module(max_steps=7), tiny_module(max_steps=7), (Losses(), Losses())
    fit(plain, losses[0])
    store = RecordStore(tmp_path / "records")
    watching = (
        MeasureOnClock(tiny_blocks, tiny_counts, range(8), MeasurementRequest(control_draws=1), store),
        MeasureOnClock(tiny_blocks, tiny_counts, when="validation"),
        SaveOnClock(tmp_path / "c", range(8), resume_every=2),
        LogRecords(store),
    )
    fit(watched, losses[1], *watching, validation_batches=2)
    assert losses[0].values == losses[1].values
    assert all(map(torch.equal, weights_of(plain), weights_of(watched)))


@pytest.mark.parametrize("when", ["clock", "validation"])
def test_the_self_checks_run_once_before_anything_is_trained_or_measured(
    tiny_module, fit, tiny_blocks, tiny_counts, store, monkeypatch, when
):
    happened, measuring = [], "confreg.callbacks.measure_on_clock"
    monkeypatch.setattr(f"{measuring}.check_interventions", lambda model, blocks: happened.append(("checked", blocks is tiny_blocks)))
    monkeypatch.setattr(f"{measuring}.measure", lambda *_, step, **__: happened.append(("measured", step)) or {})
    module = tiny_module(max_steps=4)
    monkeypatch.setattr(module, "on_train_batch_start", lambda *_: happened.append("trained"))
    fit(module, MeasureOnClock(tiny_blocks, tiny_counts, [0, 2], when=when), validation_batches=1)
    assert happened[0] == ("checked", True)
    assert [each for each in happened if each[0] == "checked"] == happened[:1]
    assert ("measured", 2) in happened


def test_a_self_check_that_fails_stops_the_run_before_it_has_records(tiny_module, fit, tiny_blocks, tiny_counts, store, weights_of):
    module = tiny_module(max_steps=4)
    before = weights_of(module)
    own = module.model.forward
    module.model.forward = lambda *inputs, **more: _doubled(own(*inputs, **more))
    with pytest.raises(SelfCheckError, match=r"not what the unembedding makes"):
        fit(module, MeasureOnClock(tiny_blocks, tiny_counts, [0, 4], store=store))
    assert store.steps("model") == []
    assert all(map(torch.equal, weights_of(module), before))


def _doubled(output):
    output.logits = 2 * output.logits
    return output


class SomebodyElsesModule(pl.LightningModule):
    """A module of another project: it only keeps its transformers model as ``.model``."""

    def __init__(self):
        super().__init__()
        self.model = build_model(ModelSettings(n_layer=1, d_model=16, d_mlp=8, n_head=2), 24, 12, seed=3)

    def training_step(self, batch, batch_idx):
        return self.model(input_ids=batch, labels=batch).loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_callbacks_work_in_somebody_elses_trainer(tiny_blocks, tiny_counts, tiny_language, tmp_path):
    store = RecordStore(tmp_path / "records")
    logger = pl.loggers.CSVLogger(tmp_path, name="csv", version="0")
    callbacks = [
        MeasureOnClock(tiny_blocks, tiny_counts, [0, 2], store=store),
        SaveOnClock(tmp_path / "checkpoints", [0, 2]),
        LogRecords(store),
    ]
    trainer = pl.Trainer(max_steps=2, accelerator="cpu", callbacks=callbacks, logger=logger, enable_progress_bar=False)
    trainer.fit(SomebodyElsesModule(), DataLoader(tiny_language.measured, batch_size=6))
    assert store.steps("neurons") == [0, 2]
    assert store.read("model")["tokens_seen"].to_pylist() == [None, None]
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("*.ckpt")) == ["step=00000000.ckpt", "step=00000002.ckpt"]
    assert "model/loss_nats" in (tmp_path / "csv" / "0" / "metrics.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "text"), [({"steps": []}, "no steps"), ({"steps": [0], "when": "sometimes"}, "expected one of clock")]
)
def test_arguments_that_would_never_measure_are_refused(tiny_blocks, tiny_counts, arguments, text):
    with pytest.raises(ValueError, match=text):
        MeasureOnClock(tiny_blocks, tiny_counts, **arguments)
