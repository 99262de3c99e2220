"""Two processes of gloo on the CPU train as one with the same global batch."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from confreg.records.store import RecordStore

COMMAND = [sys.executable, "-m", "confreg.experiments.train"]
TINY = [
    *("data.vocabulary_size=24", "data.rank=3", "data.block_length=12", "data.n_reference=6", "data.n_measured=18", "model.n_layer=1"),
    *(
        "model.d_model=16",
        "model.d_mlp=8",
        "model.n_head=2",
        "optimizer.warmup_steps=2",
        "trainer.max_steps=6",
        "trainer.progress_bar=false",
    ),
    *(
        "trainer.model_summary=false",
        "measure.n_scored_per_block=5",
        "trainer.validate_every=3",
        "optimizer.epsilon=1e-3",
        "measure.request.batch_blocks=5",
    ),
]


def weights_of(run):
    return torch.load(run / "checkpoints" / "step=00000006.ckpt", weights_only=True)["state_dict"]


@pytest.mark.heavy
def test_two_processes_end_with_the_weights_of_one_and_write_one_run(tmp_path):
    for name, overrides in (("one", ["trainer=cpu", "data.batch_size=8"]), ("two", ["data.batch_size=4"])):
        debug = ["debug=limit"] if name == "one" else ["debug=cpu_ddp"]
        command = [*COMMAND, *debug, *TINY, *overrides, f"run.root={tmp_path}", f"run.name={name}"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
        assert done.returncode == 0, done.stderr
    one, two = (weights_of(tmp_path / name) for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=1e-4)
    stores = [RecordStore(tmp_path / name / "records") for name in ("one", "two")]
    assert [store.steps("neurons") for store in stores] == [[0, 6], [0, 6]]
    assert [store.read("model", 6)["tokens_seen"][0].as_py() for store in stores] == [6 * 8 * 11] * 2
    blocks = [load_file(tmp_path / name / "blocks.safetensors") for name in ("one", "two")]
    assert torch.equal(blocks[0]["token_counts"], blocks[1]["token_counts"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    alone = [*COMMAND[:-1], "confreg.experiments.measure", f"source={tmp_path / 'two'}", "progress_bar=false"]
    measured = subprocess.run(alone, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert measured.returncode == 0, measured.stderr
    assert "The rows of 2 steps equal those that the run wrote itself, to the bit." in measured.stdout  # two processes have shared those
