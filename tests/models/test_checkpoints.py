"""Names and hashes of checkpoints, and of weights."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from confreg.models.checkpoints import (
    CheckpointError,
    checkpoint_name,
    checkpoint_path,
    checkpoint_steps,
    newest_resumable,
    read_manifest,
    step_of,
    weights_sha256,
)
from confreg.models.norms import FrozenNorm


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of three steps and full states of two, with a manifest."""
    (tmp_path / "resume").mkdir()
    names = [checkpoint_name(step) for step in (0, 8, 123456789)] + [f"resume/{checkpoint_name(step)}" for step in (500, 1000)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    manifest = {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return tmp_path


def test_a_checkpoint_is_named_after_its_step_with_eight_digits_and_back() -> None:
    assert checkpoint_name(512) == "step=00000512.ckpt"
    assert [step_of(Path(checkpoint_name(step))) for step in (0, 512, 123456789)] == [0, 512, 123456789]
    with pytest.raises(CheckpointError, match=r"last\.ckpt is not named like a checkpoint"):
        step_of(Path("last.ckpt"))


def test_the_steps_are_those_of_the_manifest_in_order_without_the_full_states(folder: Path) -> None:
    (folder / checkpoint_name(16)).write_bytes(b"not in the manifest")
    assert checkpoint_steps(folder) == [0, 8, 123456789]
    assert checkpoint_path(folder, 8) == folder / "step=00000008.ckpt"


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) == {}
    assert checkpoint_steps(tmp_path) == []
    assert newest_resumable(tmp_path) is None


def test_a_missing_step_is_refused_with_the_steps_there_are(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 9; it has the steps \[0, 8, 123456789\]"):
        checkpoint_path(folder, 9)


def test_a_damaged_checkpoint_is_refused_by_name(folder: Path) -> None:
    content = bytearray((folder / checkpoint_name(8)).read_bytes())
    content[3] ^= 1
    (folder / checkpoint_name(8)).write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"step=00000008\.ckpt is not what was written"):
        checkpoint_path(folder, 8)


def test_the_newest_whole_state_is_found_behind_damaged_and_unlisted_ones(folder: Path) -> None:
    assert newest_resumable(folder) == folder / "resume" / checkpoint_name(1000)
    (folder / "resume" / checkpoint_name(1500)).write_bytes(b"not in the manifest")
    (folder / "resume" / checkpoint_name(1000)).write_bytes(b"")
    assert newest_resumable(folder) == folder / "resume" / checkpoint_name(500)
    (folder / "resume" / checkpoint_name(500)).unlink()
    assert newest_resumable(folder) is None


def test_equal_weights_have_equal_hashes_and_the_last_bit_of_any_one_changes_it(make_model: Callable[..., PreTrainedModel]) -> None:
    model = make_model()
    digest = weights_sha256(model)
    assert len(digest) == 64
    assert weights_sha256(make_model()) == digest
    for parameter in model.parameters():
        first = parameter.data.flatten()[0].clone()
        parameter.data.view(-1)[0] = torch.nextafter(first, torch.tensor(float("inf")))
        assert weights_sha256(model) != digest
        parameter.data.view(-1)[0] = first
    assert weights_sha256(model) == digest


def test_the_hash_tells_dtypes_and_shapes_apart_and_ignores_the_mode() -> None:
    linear = torch.nn.Linear(2, 3, bias=False)
    torch.nn.init.zeros_(linear.weight)
    turned = torch.nn.Linear(3, 2, bias=False)
    torch.nn.init.zeros_(turned.weight)
    hashes = [weights_sha256(linear), weights_sha256(turned), weights_sha256(linear.bfloat16())]
    assert len(set(hashes)) == 3
    assert weights_sha256(linear.eval()) == hashes[2]


def test_what_a_checkpoint_keeps_beside_the_weights_counts_and_other_buffers_do_not() -> None:
    norm = FrozenNorm(4, centres=True, divisor=0.5)
    digest = weights_sha256(norm)
    norm.register_buffer("cache", torch.ones(3), persistent=False)
    assert weights_sha256(norm) == digest
    norm.divisor.fill_(0.25)
    assert weights_sha256(norm) != digest


def test_tied_weights_count_once(make_model: Callable[..., PreTrainedModel]) -> None:
    tied = make_model(tied=True)
    digest = hashlib.sha256()
    for name, parameter in sorted(dict(tied.named_parameters()).items()):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().numpy().tobytes())
    assert "lm_head.weight" not in dict(tied.named_parameters())
    assert weights_sha256(tied) == digest.hexdigest()
