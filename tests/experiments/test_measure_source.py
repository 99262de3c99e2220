"""Saved steps measured again by the command: the rows that the run wrote, other requests, and work that is interrupted."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from confreg import MeasurementRequest, measure, open_run
from confreg.experiments.command_line import is_mendable, run_command
from confreg.experiments.composition import compose_settings
from confreg.experiments.measure_source import measure_source
from confreg.experiments.training_run import train
from confreg.models.checkpoints import CheckpointError, weights_sha256
from confreg.records import store as store_module
from confreg.records.durable import sha256_of
from confreg.records.measured_folder import MeasuredFolderError
from confreg.records.run_folder import RunFolderError, load_settings
from confreg.records.schema import TABLES
from confreg.records.store import RecordStore
from confreg.settings.measure_command import MeasureCommandSettings, RepeatedRequest

TINY = [
    "data.vocabulary_size=24",
    "data.rank=3",
    "data.block_length=12",
    "data.batch_size=4",
    "data.n_inverse_temperatures=2",
    "data.n_backoff_weights=2",
    "data.n_reference=16",
    "data.n_measured=18",
    "model.n_layer=1",
    "model.d_model=16",
    "model.d_mlp=8",
    "model.n_head=2",
    "measure.n_scored_per_block=5",
    "measure.control_draws_last=3",
    "optimizer.warmup_steps=2",
    "trainer.max_steps=3",
    "trainer.validate_every=2",
    "callbacks.log=false",
    "trainer.accelerator=cpu",
    "trainer.progress_bar=false",
    "trainer.model_summary=false",
    "logger.wandb.mode=disabled",
    "logger.csv=false",
]
STOPPING = ["callbacks=early_stopping", "+callbacks.extra.early_stopping.stopping_threshold=100.0"]  # at the first validation, step 2
KINDS = {
    "plain": [],
    "bf16_seen": ["trainer.precision=bf16-true", "model.dropout=0.1", "frequency=seen", "trainer.accumulate_batches=2"],
    "averaged_frozen": ["callbacks=ema", "model.norm=frozen", "model.output_bias=true", "seed=4"],
    "stopped": [*STOPPING, "clock.max_points=2"],
    "validation": ["callbacks=validation", "model=llama_tiny"],
}
HEAVY = ("averaged_frozen", "validation")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs by their kind, each trained when it is first asked for."""
    root = tmp_path_factory.mktemp("runs")

    def finished(kind):
        if not (root / kind).exists():
            assert train(compose_settings([*KINDS[kind], *TINY, f"run.root={root}", f"run.name={kind}"])) == 0
        return root / kind

    return finished


@pytest.fixture
def run(runs, tmp_path):
    return Path(shutil.copytree(runs("plain"), tmp_path / "plain"))


def command(*overrides):
    return run_command("measure", measure_source, ["progress_bar=false", *map(str, overrides)])


def measured(run, request=None, **settings):
    """The same without Hydra, which takes longer than a tiny measurement."""
    asked = replace(RepeatedRequest.own_of(load_settings(run)), **(request or {}))
    assert measure_source(MeasureCommandSettings(source=str(run), request=asked, progress_bar=False, **settings)) == 0


def same_rows(one, other, steps):
    stores = RecordStore(one / "records"), RecordStore(other / "records")
    return all(stores[0].read(table, step).equals(stores[1].read(table, step)) for table in TABLES for step in steps)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.heavy) if kind in HEAVY else kind for kind in KINDS])
def test_what_is_measured_again_equals_what_the_run_wrote_to_the_bit(runs, kind, tmp_path, capsys):
    source, output = runs(kind), tmp_path / "again"
    measured(source, output=str(output))
    steps = [step for step in RecordStore(output / "records").steps("model") if RecordStore(source / "records").has("model", step)]
    assert len(steps) == {"stopped": 2, "validation": 1}.get(kind, 4)
    assert same_rows(source, output, steps)
    assert f"The rows of {len(steps)} steps equal those that the run wrote itself, to the bit." in capsys.readouterr().out


def test_the_request_in_a_notebook_gives_the_rows_of_the_command(run):
    assert command(f"source={run}", "steps=last", "request.control_draws=2", "request.null_dimensions=3", "name=mine") == 0
    settings = compose_settings([*TINY])
    seed = settings.measure.request_at(3, 3, settings.seed).control_seed
    request = MeasurementRequest(control_draws=2, control_seed=seed, null_dimensions=3)
    rows = measure(*open_run(run, 3), request, step=3, tokens_seen=3 * 4 * 11)
    store = RecordStore(run / "measured" / "mine" / "records")
    assert all(store.read(table, 3).equals(rows[table]) for table in TABLES)


def test_the_tables_lie_in_the_run_and_say_what_they_are(run, capsys):
    measured(run, {"control_draws": 0}, steps=[0, 2])
    output = run / "measured" / "control_draws=0"
    assert sorted(path.name for path in output.iterdir()) == ["measured.json", "records"]
    facts = json.loads((output / "measured.json").read_text())
    assert (facts["status"], facts["request"]["control_draws"], facts["source"]["folder"]) == ("finished", 0, "../..")
    assert facts["source"]["facts"]["tokens_seen"] == 3 * 4 * 11
    said = capsys.readouterr().out
    assert "at 2 steps, step 0 to step 2: control draws: 0 at each step, on cpu." in said
    assert "8 neurons at 90 positions of 18 documents." in said
    assert f"confreg-report {output}" in said
    assert "equal those" not in said  # another request gives other rows


def test_steps_that_are_there_are_skipped_and_others_are_added(run, monkeypatch, capsys):
    measured(run, steps=[0, 2])
    before = {path: path.stat().st_mtime_ns for path in (run / "measured").rglob("*.parquet")}
    steps = []

    def watched(*arguments, **named):
        steps.append(named["step"])
        return measure(*arguments, **named)

    monkeypatch.setattr("confreg.experiments.measure_source.measure", watched)
    measured(run)
    assert steps == [1, 3]
    assert "2 of these steps are there already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in before}
    facts = (run / "measured" / "own" / "measured.json").read_text()
    measured(run)
    assert steps == [1, 3]
    assert facts == (run / "measured" / "own" / "measured.json").read_text()


@pytest.mark.parametrize("error", [KeyboardInterrupt, pytest.param(OSError, marks=pytest.mark.heavy)])
def test_interrupted_work_says_how_to_go_on_and_ends_like_work_that_was_not(run, monkeypatch, capsys, error):
    measured(run, name="whole")
    capsys.readouterr()
    write, calls = store_module.write_durably, []

    def stop_in_the_middle_of_a_step(path, fill):
        calls.append(path)
        if len(calls) == 5:
            raise error(28, "No space left on device")
        return write(path, fill)

    with monkeypatch.context() as patched:
        patched.setattr(store_module, "write_durably", stop_in_the_middle_of_a_step)
        assert command(f"source={run}", "name=broken") == (130 if error is KeyboardInterrupt else 2)
    broken = run / "measured" / "broken"
    said = capsys.readouterr()
    assert f"1 of 4 steps are complete in {broken}; the same command goes on with the others." in said.out
    assert len(said.err.splitlines()) == 1
    assert not list(broken.rglob(".*"))
    measured(run, name="broken")
    assert same_rows(run / "measured" / "whole", broken, [0, 1, 2, 3])


def test_another_request_into_the_same_output_is_refused_by_name_with_the_next_move(run, capsys):
    measured(run, steps="last", name="mine")
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert command(f"source={run}", "steps=[0]", "name=mine", "request.control_draws=5") == 2
    assert capsys.readouterr().err.splitlines() == [
        f"confreg-measure: {run / 'measured' / 'mine'} holds another measurement:",
        "  request.control_draws: there None, asked for 5",
        "Choose another name=… or output=…, or delete that folder first.",
    ]
    assert files == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_the_same_steps_of_other_weights_are_refused_with_both_fingerprints(run):
    measured(run, steps="last")
    path = run / "checkpoints" / "step=00000003.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["model.lm_head.weight"] += 1.0
    torch.save(checkpoint, path)
    manifest = run / "checkpoints" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), path.name: sha256_of(path)}))
    there, here = RecordStore(run / "records").read("model", 3)["weights_sha256"][0].as_py(), weights_sha256(open_run(run, 3)[0])
    with pytest.raises(MeasuredFolderError, match=rf"has step 3 of other weights \({there[:12]}…\) than .* \({here[:12]}…\)"):
        measured(run, steps="last")


def test_a_damaged_checkpoint_stops_the_work_and_the_steps_before_it_stay(run):
    path = run / "checkpoints" / "step=00000002.ckpt"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="is not what was written"):
        measured(run)
    assert RecordStore(run / "measured" / "own" / "records").steps("model") == [0, 1]


def test_a_run_that_stopped_before_it_began_to_train_is_refused(run):
    (run / "blocks.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"blocks\.safetensors does not exist: the run stopped before it began to train"):
        measured(run)
    assert not (run / "measured").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 5}, "steps has 5, which"),
        ({"output": "RUN"}, "exists and holds no measurement"),
        ({"output": "RUN/records"}, "exists and holds no measurement"),
        ({"output": "RUN/run.json"}, "is a file; expected a folder"),
        ({"source": ""}, "source is missing; expected a run or published weights"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line_and_makes_no_folder(run, changes, message):
    before = sorted(run.rglob("*"))
    changes = {name: each.replace("RUN", str(run)) if isinstance(each, str) else each for name, each in changes.items()}
    with pytest.raises(ValueError, match=message) as caught:
        measure_source(MeasureCommandSettings(**{"source": str(run), **changes}))
    assert is_mendable(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(run.rglob("*")) == before


def test_measuring_changes_nothing_in_the_run_and_no_random_state(run):
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    random = torch.get_rng_state()
    measured(run, steps="last")
    assert torch.equal(random, torch.get_rng_state())
    assert files == {path: path.read_bytes() for path in files}
