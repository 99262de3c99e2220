"""A step of a table is complete or absent, and what is read is what was written."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from confreg.records import store as store_module
from confreg.records.schema import table_of
from confreg.records.store import RecordError, RecordStore


def rows_of(step: int, value: float = 1.0) -> pa.Table:
    return table_of("spectrum", {"index": range(3), "singular_value": [value, value / 2, value / 3]}, 3, {"step": step})


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    """Steps of one table, written out of order."""
    store = RecordStore(tmp_path / "records")
    for step in (512, 0, 123456789, 8):
        store.write("spectrum", step, rows_of(step))
    return store


def files_of(store: RecordStore) -> set[str]:
    return {path.relative_to(store.folder).as_posix() for path in store.folder.rglob("*") if path.is_file()}


def test_what_is_read_is_what_was_written_with_its_types(store: RecordStore) -> None:
    assert store.read("spectrum", 512).equals(rows_of(512))


def test_files_are_named_after_table_and_step_and_nothing_else_stays(store: RecordStore) -> None:
    names = {f"spectrum/step={step}.parquet" for step in ("00000000", "00000008", "00000512", "123456789")}
    assert files_of(store) == {"manifest.json", *names}


def test_steps_come_in_their_order_however_they_were_written(store: RecordStore) -> None:
    assert store.steps("spectrum") == [0, 8, 512, 123456789]
    steps = store.read("spectrum")["step"].to_pylist()
    assert steps == [0] * 3 + [8] * 3 + [512] * 3 + [123456789] * 3


def test_tables_do_not_mix(store: RecordStore) -> None:
    store.write("model", 16, table_of("model", {"loss_nats": 2.0}, 1, {"step": 16}))
    assert store.steps("model") == [16]
    assert not store.has("spectrum", 16)
    assert store.has("model", 16)


def test_a_store_that_was_never_written_to_has_no_steps_and_says_what_to_do(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "nowhere")
    assert store.steps("model") == []
    assert not store.has("model", 0)
    with pytest.raises(RecordError, match=r"nowhere has no 'model' rows of a step; it has the steps \[\].*Measure"):
        store.read("model")


def test_a_missing_step_is_refused_with_the_steps_there_are(store: RecordStore) -> None:
    with pytest.raises(RecordError, match=r"no 'spectrum' rows of step 9; it has the steps \[0, 8, 512, 123456789\]"):
        store.read("spectrum", 9)


def test_a_file_that_the_manifest_does_not_list_does_not_exist(store: RecordStore) -> None:
    pq.write_table(rows_of(16), store.folder / "spectrum" / "step=00000016.parquet")
    assert not store.has("spectrum", 16)
    assert 16 not in store.read("spectrum")["step"].to_pylist()


def test_a_kill_between_the_file_and_the_manifest_costs_that_step_alone(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store_module, "write_text_durably", killed)
        with pytest.raises(KeyboardInterrupt):
            store.write("spectrum", 16, rows_of(16))
    assert store.steps("spectrum") == [0, 8, 512, 123456789]
    store.write("spectrum", 16, rows_of(16))
    assert store.read("spectrum", 16).equals(rows_of(16))


def test_a_file_that_was_deleted_does_not_exist(store: RecordStore) -> None:
    (store.folder / "spectrum" / "step=00000008.parquet").unlink()
    assert store.steps("spectrum") == [0, 512, 123456789]
    assert store.read("spectrum").num_rows == 9


@pytest.mark.parametrize("damage", ["one bit", "cut", "empty", "another step's"])
def test_a_damaged_file_is_refused_by_name_and_the_others_stay_readable(store: RecordStore, damage: str) -> None:
    path = store.folder / "spectrum" / "step=00000008.parquet"
    content = bytearray(path.read_bytes())
    flipped = content.copy()
    flipped[len(content) // 2] ^= 1
    other = (store.folder / "spectrum" / "step=00000512.parquet").read_bytes()
    path.write_bytes({"one bit": bytes(flipped), "cut": bytes(content[:-10]), "empty": b"", "another step's": other}[damage])
    with pytest.raises(RecordError, match=r"step=00000008\.parquet is not what was written.*measure the step anew"):
        store.read("spectrum", 8)
    assert store.read("spectrum", 512).equals(rows_of(512))


def test_writing_equal_rows_again_changes_no_byte(store: RecordStore) -> None:
    before = {name: (store.folder / name).read_bytes() for name in files_of(store)}
    store.write("spectrum", 8, rows_of(8))
    assert {name: (store.folder / name).read_bytes() for name in files_of(store)} == before


def test_other_rows_of_a_complete_step_are_refused_and_the_first_ones_stay(store: RecordStore) -> None:
    before = store.read("spectrum", 8)
    with pytest.raises(RecordError, match=r"step=00000008\.parquet holds other rows"):
        store.write("spectrum", 8, rows_of(8, value=2.0))
    assert store.read("spectrum", 8).equals(before)
    assert store.steps("spectrum") == [0, 8, 512, 123456789]


def test_the_manifest_holds_the_hash_of_every_file(store: RecordStore) -> None:
    manifest = json.loads((store.folder / "manifest.json").read_text(encoding="utf-8"))
    assert set(manifest) == files_of(store) - {"manifest.json"}
    assert {len(digest) for digest in manifest.values()} == {64}


def test_a_damaged_manifest_is_refused_by_name(store: RecordStore) -> None:
    (store.folder / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(RecordError, match=r"manifest\.json is no JSON"):
        store.steps("spectrum")
