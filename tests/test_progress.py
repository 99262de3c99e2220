"""Who is told how far a measurement is, and when nobody wants to know."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from confreg import Blocks, MeasurementRequest, measure
from confreg.progress import progress_of

COUNTS = torch.ones(19, dtype=torch.int64)


def test_a_function_is_told_of_every_pass_over_the_scored_positions(
    make_of_family: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, told = torch.Generator().manual_seed(2), list[tuple[int, int]]()
    blocks = Blocks(*(torch.randint(0, 19, (n, 10), generator=generator) for n in (5, 20)))
    request = MeasurementRequest(control_draws=3, memory_mib=16, batch_blocks=8)
    monkeypatch.setattr("confreg.batches.MEBIBYTE", 2**13)  # so little that each draw takes a pass of its own
    measure(make_of_family("gpt2"), blocks, COUNTS, request, progress=lambda done, total: told.append((done, total)))
    n_positions = int(blocks.scored_positions().sum())
    assert {total for _, total in told} == {3 * n_positions}
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1][0] == 3 * n_positions


def test_nothing_is_said_where_nobody_looks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    for asked in (False, True):
        with progress_of(asked) as told:
            assert told is None


def test_on_a_terminal_there_is_one_bar_and_it_is_on_standard_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", terminal)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)
    with progress_of(True, rank=1) as told:
        assert told is None
    with progress_of(True) as told:
        assert told is not None
        told(30, 60)
    assert "measuring" in terminal.getvalue()
    assert "50%" in terminal.getvalue()
    assert capsys.readouterr().out == ""
