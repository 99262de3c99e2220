"""The records of a run: ``records/<table>/step=00000512.parquet``, complete or absent, with hashes in ``records/manifest.json``."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from confreg.records.durable import write_durably, write_text_durably

STEP_FILE = re.compile(r"step=(\d{8,})\.parquet")


class RecordError(ValueError):
    """Records that are missing or damaged; the message names the file and the next move."""


class RecordStore:
    """Tables below one folder. What the manifest does not list does not exist: a kill between the two writes costs one measurement."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def write(self, table: str, step: int, rows: pa.Table) -> None:
        """Write one step of one table durably.

        Raises:
            RecordError: where the step is complete already with other rows; equal rows are written again without harm.
        """
        path = self._path(table, step)
        if self.has(table, step) and not self.read(table, step).equals(rows):
            raise RecordError(f"{path} holds other rows of this step already. Measure into another folder, or delete that file first.")
        path.parent.mkdir(parents=True, exist_ok=True)
        manifest = self._manifest()
        digest = write_durably(path, lambda file: pq.write_table(rows, file))
        manifest[self._key(path)] = digest
        self._write_manifest(manifest)

    def steps(self, table: str) -> list[int]:
        """Steps of which this table is complete, in order."""
        prefix = f"{table}/"
        names = (key.removeprefix(prefix) for key in self._manifest() if key.startswith(prefix))
        matches = (STEP_FILE.fullmatch(name) for name in names)
        return sorted(int(match[1]) for match in matches if match and self._path(table, int(match[1])).exists())

    def has(self, table: str, step: int) -> bool:
        """Whether this step of this table is complete."""
        return step in self.steps(table)

    def remove(self, step: int) -> None:
        """Forget every table's rows of a step; the manifest goes first, so that a kill in between leaves none of them half there."""
        manifest = self._manifest()
        keys = [key for key in manifest if key.endswith(f"/step={step:08d}.parquet")]
        self._write_manifest({key: digest for key, digest in manifest.items() if key not in keys})
        for key in keys:
            (self.folder / key).unlink(missing_ok=True)

    def read(self, table: str, step: int | None = None) -> pa.Table:
        """Rows of one step, or of all steps in their order.

        Raises:
            RecordError: where there is no such step, or a file is not the one that was written.
        """
        steps = self.steps(table)
        if not steps or (step is not None and step not in steps):
            wanted = "a step" if step is None else f"step {step}"
            raise RecordError(f"{self.folder} has no {table!r} rows of {wanted}; it has the steps {steps}. Measure that step first.")
        manifest = self._manifest()
        return pa.concat_tables([self._read_file(self._path(table, each), manifest) for each in (steps if step is None else [step])])

    def _read_file(self, path: Path, manifest: dict[str, str]) -> pa.Table:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != manifest[self._key(path)]:
            raise RecordError(
                f"{path} is not what was written (its SHA-256 differs from the manifest). Restore it from a copy, or measure the step anew "
                "with confreg-measure."
            )
        return pq.read_table(pa.BufferReader(content))

    @property
    def _manifest_path(self) -> Path:
        return self.folder / "manifest.json"

    def _manifest(self) -> dict[str, str]:
        try:
            return dict(json.loads(self._manifest_path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except json.JSONDecodeError as error:
            raise RecordError(
                f"{self._manifest_path} is no JSON ({error}). Restore it from a copy, or measure anew with confreg-measure."
            ) from error

    def _write_manifest(self, manifest: dict[str, str]) -> None:
        write_text_durably(self._manifest_path, json.dumps(manifest, indent=0, sort_keys=True) + "\n")

    def _path(self, table: str, step: int) -> Path:
        return self.folder / table / f"step={step:08d}.parquet"

    def _key(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()
