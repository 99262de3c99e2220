import json
import shutil

import pytest

from confreg.figures.run_records import ReportError, number_setting_of, read_run, setting_of
from confreg.records.schema import table_of
from confreg.records.store import RecordStore

IDENTITY = {"step": 0, "tokens_seen": 0, "weights_sha256": "0"}


def test_a_run_is_read_in_the_order_of_its_steps(make_run):
    records = read_run(make_run(steps=(8, 0, 2), n_neurons=16))
    assert records.steps == [0, 2, 8]
    assert records.model["step"].tolist() == [0, 2, 8]
    assert records.name == "made-up/seed=0"
    assert records.model_at_last()["tokens_seen"] == 8 * 4096


def test_a_missing_folder_is_named_with_the_next_move(tmp_path):
    with pytest.raises(ReportError, match=r"nowhere is not a folder.*confreg-train"):
        read_run(tmp_path / "nowhere")


def test_missing_and_empty_records_are_named_with_the_next_move(tmp_path):
    with pytest.raises(ReportError, match=r"neurons holds no measured step.*callbacks.measure=false"):
        read_run(tmp_path)
    (tmp_path / "records" / "neurons").mkdir(parents=True)
    with pytest.raises(ReportError, match="neurons holds no measured step"):
        read_run(tmp_path)


def test_a_damaged_file_is_named(make_run):
    run = make_run(steps=(0, 1), n_neurons=16)
    (run / "records" / "neurons" / "step=00000001.parquet").write_bytes(b"PAR1 but nothing else")
    with pytest.raises(ReportError, match=r"step=00000001\.parquet"):
        read_run(run)


def test_a_run_killed_between_two_tables_shows_what_is_complete(make_run):
    run = make_run(steps=(0, 1, 2), n_neurons=16)
    (run / "records" / "model" / "step=00000002.parquet").unlink()
    (run / "records" / "neurons" / ".step=00000003.parquet.77.part").write_bytes(b"half")
    shutil.rmtree(run / "records" / "spectrum")
    records = read_run(run)
    assert records.steps == [0, 1, 2]
    assert records.model["step"].tolist() == [0, 1]
    assert records.model_at_last() == {}
    assert records.spectrum.empty


def test_columns_that_are_null_or_absent_become_nan_and_flags_become_false(tmp_path):
    store = RecordStore(tmp_path / "records")
    rows = table_of("neurons", {"layer": 1, "neuron": [0, 1]}, 2, IDENTITY)
    store.write("neurons", 0, rows.drop_columns(["entropy_effect"]))
    records = read_run(tmp_path)
    assert records.neurons["entropy_effect"].isna().all()
    assert records.neurons["w_out_norm"].dtype == "float64"
    assert records.neurons["is_entropy_neuron"].tolist() == [False, False]
    assert records.name == "/".join(tmp_path.parts[-2:])


def test_rows_without_a_step_take_the_place_under_which_they_are_filed(tmp_path):
    rows = table_of("neurons", {"layer": 1, "neuron": [0]}, 1, {**IDENTITY, "step": None})
    RecordStore(tmp_path / "records").write("neurons", 3, rows)
    records = read_run(tmp_path)
    assert records.steps == [3]
    assert not records.knows_steps


@pytest.mark.parametrize(("name", "content"), [("config.yaml", "a: [1"), ("run.json", "{")])
def test_an_unreadable_configuration_or_run_file_is_named(make_run, name, content):
    run = make_run(steps=(0,), n_neurons=16)
    (run / name).write_text(content, encoding="utf-8")
    with pytest.raises(ReportError, match=name):
        read_run(run)


@pytest.fixture
def measured_again(make_run):
    """A made-up run whose first steps were measured again with another request, into a folder of the run."""
    run = make_run(steps=(0, 1, 256), n_neurons=16)
    shutil.copytree(run / "records", run / "measured" / "strict" / "records")
    source = {"kind": "run", "folder": "../..", "config": read_run(run).config, "facts": {**read_run(run).facts, "status": "running"}}
    request = {"control_draws": None, "control_seed": 3, "null_dimensions": None, "rules": {"n_stderr": 9.0}}
    facts = {"status": "finished", "versions": {"confreg": "9"}, "request": request, "source": source}
    (run / "measured" / "strict" / "measured.json").write_text(json.dumps(facts), encoding="utf-8")
    return run


def test_saved_steps_that_were_measured_again_are_read_with_their_own_request_and_the_facts_of_their_run(measured_again):
    run, again = read_run(measured_again), read_run(measured_again / "measured" / "strict")
    assert again.name == "made-up/seed=0/measured/strict"
    assert again.config["measure"]["request"] == {
        "control_draws": None,
        "control_seed": 3,
        "null_dimensions": None,
        "rules": {"n_stderr": 9.0},
    }
    assert again.config["model"] == run.config["model"]
    assert (again.facts["status"], again.facts["versions"], again.facts["measured_again"]) == (
        "finished",
        {"confreg": "9"},
        {"kind": "run", "folder": "../.."},
    )
    assert {name: again.facts[name] for name in set(run.facts) - {"status", "versions"}} == {
        name: value for name, value in run.facts.items() if name not in ("status", "versions")
    }


def test_the_control_of_a_measurement_that_says_nothing_of_it_is_that_of_its_run(measured_again):
    path = measured_again / "measured" / "strict" / "measured.json"
    facts = json.loads(path.read_text())
    facts["source"]["config"]["measure"]["request"]["control_draws"] = 5
    path.write_text(json.dumps(facts))
    assert read_run(path.parent).config["measure"]["request"]["control_draws"] == 5


def test_a_damaged_file_about_a_measurement_is_named_and_an_emptied_one_counts_as_nothing(measured_again):
    path = measured_again / "measured" / "strict" / "measured.json"
    path.write_text('{"source": 3, "request": [], "status": "finished"}')
    assert read_run(path.parent).config["measure"] == {"request": {}}
    path.write_text("{")
    with pytest.raises(ReportError, match=r"measured\.json cannot be read"):
        read_run(path.parent)


def test_a_setting_is_found_by_its_dotted_key_or_defaults():
    config = {"model": {"n_layer": 2, "name": None}}
    assert setting_of(config, "model.n_layer") == 2
    assert setting_of(config, "model.name", "none") == "none"
    assert setting_of(config, "model.n_layer.deeper") is None


@pytest.mark.parametrize(
    ("value", "number"), [(0.5, 0.5), (16, 16), ("0.5", None), (True, None), (float("nan"), None), ([1], None), (None, None)]
)
def test_a_number_is_read_from_a_configuration_only_where_one_stands(value, number):
    assert number_setting_of({"rules": {"floor": value}}, "rules.floor") == number
