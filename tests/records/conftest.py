"""Settings of a small run below a folder of the test's own, outside any distributed run."""

import pytest

from confreg.records.launch import HANDED_ON, RANKS, SIZES
from confreg.records.run_folder import RunFolder
from confreg.records.run_lock import NAME
from confreg.settings import RunSettings, Settings


@pytest.fixture(autouse=True)
def without_ranks(monkeypatch):
    for name in (*RANKS, *SIZES, HANDED_ON):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def settings(tmp_path):
    return lambda name="one", replace=False, **others: Settings(
        run=RunSettings(root=str(tmp_path / "runs"), name=name, replace=replace), **others
    )


@pytest.fixture
def complete():
    """Make a finished run with these settings."""

    def complete_run(settings):
        with RunFolder.prepare(settings) as folder:
            (folder.path / "records").mkdir()
        return folder

    return complete_run


@pytest.fixture
def visible():
    """Names in a folder, hidden runs included, the lock left out."""
    return lambda folder: sorted(path.name for path in folder.iterdir() if path.name != NAME)
