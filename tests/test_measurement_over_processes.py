"""A measurement that several processes share: two of gloo give the rows of one, and none of them waits for one that failed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, distributed
from transformers import PreTrainedModel

from confreg import Blocks, MeasurementRequest, measure
from confreg.models.build import build_model
from confreg.processes import Processes
from confreg.settings import ModelSettings

N_VOCAB, N_TOKENS = 19, 10
COUNTS = torch.randint(0, 500, (N_VOCAB,), generator=torch.Generator().manual_seed(1))
REQUEST = MeasurementRequest(control_draws=2, batch_blocks=4, groups={"both": [1, 3]}, attributions=True)


def make_model() -> PreTrainedModel:
    model = build_model(ModelSettings(n_layer=1, d_model=16, d_mlp=12, n_head=2), N_VOCAB, N_TOKENS, seed=0)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def make_blocks() -> Blocks:
    """Twenty measured blocks of eighteen documents, one of them in two batches."""
    generator = torch.Generator().manual_seed(2)
    reference, measured = (torch.randint(0, N_VOCAB, (n, N_TOKENS), generator=generator) for n in (5, 20))
    truth = torch.randn(20, N_TOKENS, N_VOCAB, generator=generator).log_softmax(-1)
    documents = torch.tensor([30, 4, 11, 11, 30, *range(12, 27)])
    return Blocks(reference, measured, documents=documents, excluded_ids=(2, 7), bayes_log_probs=truth)


def rows_of(request: MeasurementRequest = REQUEST, **more: bool) -> dict[str, pa.Table]:
    return measure(make_model(), make_blocks(), COUNTS, request, step=3, tokens_seen=30, **more)


class TwoProcesses:
    """Stands for torch.distributed's two processes, which come one after the other: the second finds what the first brought."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rank, self.brought, self.n_met = 0, list[Tensor](), 0
        for name in ("is_initialized", "get_rank", "get_world_size", "all_reduce", "all_gather_object"):
            monkeypatch.setattr(distributed, name, getattr(self, name))

    def is_initialized(self) -> bool:
        return True

    def get_rank(self, group: None = None) -> int:
        return self.rank

    def get_world_size(self, group: None = None) -> int:
        return 2

    def all_reduce(self, state: Tensor, group: None = None) -> None:
        if self.rank == 0:
            self.brought.append(state.clone())
        else:
            state += self.brought[self.n_met]
        self.n_met += 1

    def all_gather_object(self, found: list[object], own: object) -> None:
        found[self.rank] = own

    def rows(self, request: MeasurementRequest) -> dict[str, pa.Table]:
        for self.rank in range(2):  # the first has its own part alone; the second brings both together
            self.n_met = 0
            rows = rows_of(request, over_processes=True)
        assert self.n_met == len(self.brought) > 0
        return rows


@pytest.mark.parametrize("memory_mib", [512, 16])
def test_the_rows_of_two_processes_are_those_of_one_to_the_bit(monkeypatch: pytest.MonkeyPatch, memory_mib: int) -> None:
    monkeypatch.setattr("confreg.batches.MEBIBYTE", 2**20 if memory_mib == 512 else 2**13)  # so little that the draws take two passes
    request = replace(REQUEST, memory_mib=memory_mib)
    expected = rows_of(request)
    processes = TwoProcesses(monkeypatch)
    found = processes.rows(request)
    assert processes.n_met == (6 if memory_mib == 512 else 8)  # states of a pass; the second one has those of its control draw alone
    assert found.keys() == expected.keys() == {"neurons", "model", "spectrum", "groups", "attributions"}
    for table, rows in expected.items():
        for name in rows.column_names:
            assert found[table][name].equals(rows[name]), f"{table}.{name}"


def test_with_more_processes_than_batches_each_has_its_share_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, measured = rows_of(replace(REQUEST, batch_blocks=64)), list[int]()
    processes = TwoProcesses(monkeypatch)

    def told(done: int, total: int) -> None:
        assert done <= total
        measured.append(total)

    for processes.rank in range(2):
        processes.n_met = 0
        found = measure(make_model(), make_blocks(), COUNTS, replace(REQUEST, batch_blocks=64), over_processes=True, progress=told)
    n_positions = expected["model"]["n_positions"][0].as_py()
    assert len(measured) == 2
    assert min(measured) > 0
    assert sum(measured) == n_positions
    loss, same = (rows["neurons"]["loss_effect"].to_pylist() for rows in (found, expected))
    assert loss == pytest.approx(same, rel=1e-5)


def test_where_one_process_alone_measures_nothing_is_brought_together(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, processes = rows_of(), TwoProcesses(monkeypatch)
    found = rows_of()
    assert processes.n_met == 0
    assert all(found[table].equals(rows) for table, rows in expected.items())


def test_without_processes_there_is_nothing_to_share() -> None:
    with pytest.raises(ValueError, match=r"torch.distributed has no process group; expected one.*over_processes=False"):
        rows_of(over_processes=True)


def test_what_fails_in_one_process_stops_the_others_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError), Processes(1, 0).together():
        raise ZeroDivisionError
    told: list[object] = []

    def all_gather_object(found: list[object], own: object) -> None:
        told.append(own)
        found[:] = [None, "OSError: no more memory"]

    monkeypatch.setattr(distributed, "all_gather_object", all_gather_object)
    with pytest.raises(RuntimeError, match=r"process 1 of 2 failed: OSError: no more memory"), Processes(2, 0).together():
        pass
    with pytest.raises(KeyError), Processes(2, 1).together():
        raise KeyError("here")
    assert told == [None, "KeyError: 'here'"]


PROCESS = """
import sys, torch
from torch import distributed
sys.path.insert(0, {folder!r})
import test_measurement_over_processes as shared
import pyarrow.parquet as pq
torch.set_num_threads(1)
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method={meeting!r}, rank=rank, world_size=2)
for name, rows in shared.rows_of(over_processes=True).items():
    pq.write_table(rows, f"{target}/{{name}}.{{rank}}.parquet")
if rank:
    shared.make_blocks = lambda: 1 / 0
try:
    with shared.Processes.all().together():
        shared.make_blocks()
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.heavy
def test_two_processes_of_gloo_give_the_rows_of_one_on_each_and_stop_together(tmp_path: Path) -> None:
    code = PROCESS.format(folder=str(Path(__file__).parent), meeting=f"file://{tmp_path / 'meeting'}", target=tmp_path)
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    expected = rows_of()
    said, complaints = zip(*(each.communicate(timeout=120) for each in started), strict=True)
    assert [each.returncode for each in started] == [0, 0], complaints
    for rank in range(2):
        for table, rows in expected.items():
            found = pq.read_table(tmp_path / f"{table}.{rank}.parquet")
            assert [name for name in rows.column_names if not found[name].equals(rows[name])] == [], table
    assert said[0].strip() == "RuntimeError The measurement stopped, because process 1 of 2 failed: ZeroDivisionError: division by zero"
    assert said[1].strip() == "ZeroDivisionError division by zero"
