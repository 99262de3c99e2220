"""The logger of W&B by itself: its life, its secrets, its axes."""

from __future__ import annotations

import os

import pytest
import wandb

from confreg.callbacks import ClockWandbLogger
from confreg.callbacks.wandb_account import WandbError
from confreg.callbacks.wandb_logger import CLOCK_GROUPS, TRAINING_GROUPS
from confreg.settings import WandbSettings


class Run:
    """What stands for W&B's run: keeps what it is told."""

    id, step = "abc", 0

    def __init__(self, folder):
        self.dir, self.defined, self.logged, self.codes = str(folder / "files"), [], [], []

    def define_metric(self, name, **_):
        self.defined.append(name)

    def log(self, values):
        self.logged.append(values)

    def finish(self, exit_code):
        self.codes.append(exit_code)


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A logger whose W&B run was begun, and what ``wandb.init`` was told."""

    def begin(settings=None, **arguments):
        told = {}
        run = Run(tmp_path)
        monkeypatch.setattr(wandb, "init", lambda **about: told.update(about) or run)
        logger = ClockWandbLogger(tmp_path, settings or WandbSettings(), "name", {"seed": 0, "hf_token": "planted-canary"}, **arguments)
        assert logger.experiment is run
        return logger, run, told

    return begin


def test_the_run_is_told_the_settings_and_no_secret(begun):
    settings = WandbSettings(group="g", job_type="j", tags=["https://me:planted-canary@host/x"], notes="n", entity="e")
    told = begun(settings)[2]
    expected = {"group": "g", "job_type": "j", "notes": "n", "entity": "e", "mode": "offline", "project": "confreg", "name": "name"}
    assert {key: told[key] for key in expected} == expected
    assert told["config"] == {"seed": 0, "hf_token": "<redacted>"}
    assert "planted-canary" not in str(told)


def test_the_globs_are_disjoint_and_there_is_no_star(begun):
    defined = begun()[1].defined
    assert len(set(defined)) == len(defined)
    assert {name for name in defined if "*" in name} == {f"{group}/*" for group in (*TRAINING_GROUPS, *CLOCK_GROUPS)}


def test_where_the_run_lies_is_told_once_as_soon_as_it_is_begun(begun, tmp_path):
    places = []
    logger, _, _ = begun(on_begin=lambda run_id, folder: places.append((run_id, folder)))
    assert logger.experiment is logger.experiment
    assert places == [("abc", tmp_path)]


@pytest.mark.parametrize(("succeeded", "code"), [(True, 0), (False, 1)])
def test_a_run_is_finished_once_with_the_code_of_its_end(begun, tmp_path, succeeded, code):
    logger, run, _ = begun()
    assert logger.close(succeeded) == ("abc", tmp_path)
    assert logger.close(succeeded) is None
    assert run.codes == [code]


def test_a_server_that_does_not_answer_at_the_end_costs_a_warning_that_says_how_to_send_the_rest(begun, tmp_path, monkeypatch):
    logger, run, told = begun(WandbSettings(finish_timeout_s=7))

    def wait_in_vain(exit_code):
        raise TimeoutError

    monkeypatch.setattr(run, "finish", wait_in_vain)
    with pytest.warns(UserWarning, match=f"within 7 s. The rest: wandb sync {tmp_path}"):
        assert logger.close(succeeded=True) == ("abc", tmp_path)
    assert (told["settings"].finish_timeout, told["settings"].finish_timeout_raises) == (7, True)


@pytest.mark.parametrize(("status", "code"), [("success", 0), ("failed", 1)])
def test_lightnings_end_finishes_the_run_only_in_a_process_of_lightnings_own(begun, monkeypatch, status, code):
    logger, run, _ = begun()
    logger.finalize(status)
    assert run.codes == []
    monkeypatch.setattr(os, "getpid", lambda: -1)
    logger.finalize(status)
    assert run.codes == [code]


def test_a_logger_that_was_never_used_makes_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb, "init", lambda **_: pytest.fail("a run was begun"))
    logger = ClockWandbLogger(tmp_path, WandbSettings(), "name", {})
    logger.log_page(tmp_path / "report.html", 0)
    assert logger.close(succeeded=True) is None


def test_what_wandb_refuses_names_the_next_move(tmp_path, monkeypatch):
    def refuse(**_):
        raise wandb.errors.CommError("Timed out while retrying\nmore")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(WandbError, match=r"cannot be used: Timed out while retrying\nLog in with `wandb login`.*logger=offline"):
        _ = ClockWandbLogger(tmp_path, WandbSettings(mode="online"), "name", {}).experiment


def test_the_working_directory_may_change_before_the_run_begins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = {}
    monkeypatch.setattr(wandb, "init", lambda **about: told.update(about) or Run(tmp_path))
    logger = ClockWandbLogger("here", WandbSettings(), "name", {})
    monkeypatch.chdir("/")
    assert logger.experiment is not None
    assert told["dir"] == str(tmp_path / "here")


def test_the_page_is_left_out_where_the_settings_say_so(begun, tmp_path):
    logger, run, _ = begun(WandbSettings(page=False))
    logger.log_page(tmp_path / "report.html", 3)
    assert run.logged == []
