"""Speed, beside the loss."""

from __future__ import annotations

import csv
import itertools

import pytest
from lightning.pytorch.loggers import CSVLogger

from confreg.callbacks import TokenThroughput


def test_the_rates_are_those_of_the_window_and_stand_beside_the_loss(tiny_module, fit, tmp_path, monkeypatch):
    seconds = itertools.count(100, 2)  # a step every two seconds
    monkeypatch.setattr("confreg.callbacks.token_throughput.time.perf_counter", lambda: next(seconds))
    fit(tiny_module(max_steps=5), TokenThroughput(window_steps=3), logger=CSVLogger(tmp_path, name="csv", version="0"), accumulate=2)
    rows = [row for row in csv.DictReader((tmp_path / "csv" / "0" / "metrics.csv").open()) if row["train/loss"]]
    assert [row["perf/steps_per_second"] for row in rows] == ["", "", "0.5", "0.5", "0.5"]
    assert [row["perf/tokens_per_second"] for row in rows] == ["", "", "22.0", "22.0", "22.0"]  # 44 target tokens a step


def test_a_window_without_a_difference_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        TokenThroughput(window_steps=1)
