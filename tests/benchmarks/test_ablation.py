"""The ablation benchmark compares like with like; no time is judged here."""

from __future__ import annotations

import functools
import operator
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benchmarks.ablation import EQUAL_OUTPUTS, EVERYTHING, TINY, error_figure, in_float64, kernel, kernel_figure
from benchmarks.fused_exponentials import VECTORISED
from benchmarks.paper_method import NAMES, PaperMethod
from benchmarks.shaped_models import KINDS, Case, Shape, shaped_case
from benchmarks.turns import ABOUT_MEMORY, Seconds, Turns, peak_mebibytes

ROOT = Path(__file__).parents[2]
SHAPE = Shape(vocabulary=50, neurons=30, d_model=64, positions=300, layers=1)


@pytest.fixture(scope="module", params=KINDS)
def exact_case(request: pytest.FixtureRequest) -> Case:
    """In float64."""
    with torch.no_grad():
        return in_float64(shaped_case(SHAPE, request.param))


def output_of(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.ablation", "--quick", "--turns", "1", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300).stdout


@pytest.mark.parametrize("shared", [False, True])
def test_the_slow_method_and_the_kernel_have_the_same_effects_for_chunks_and_sequences_of_every_length(
    exact_case: Case, shared: bool
) -> None:
    slow = PaperMethod(exact_case.model, exact_case.frequency.log_probs, shared).changes(exact_case.tokens, exact_case.replacement)
    with torch.no_grad():
        ours = kernel(exact_case)
    assert set(NAMES) == set(EQUAL_OUTPUTS.names()) - {"kl_to_frequency"}  # which comes with the entropy
    for name in NAMES:
        torch.testing.assert_close(getattr(ours, name), slow[name], atol=1e-10, rtol=1e-10, msg=lambda text, n=name: f"{n}: {text}")


def test_fewer_neurons_of_the_slow_method_are_the_first_of_all(exact_case: Case) -> None:
    method = PaperMethod(exact_case.model, exact_case.frequency.log_probs)
    few, every = (method.changes(exact_case.tokens, exact_case.replacement, n) for n in (7, None))
    torch.testing.assert_close(few["loss"], every["loss"][:, :7], atol=1e-12, rtol=0)


def test_the_kinds_of_models_differ_in_how_far_logits_go_as_they_say() -> None:
    with torch.no_grad():
        cases = {kind: shaped_case(SHAPE, kind) for kind in KINDS}
    medians = {kind: case.largest_changes().median().item() for kind, case in cases.items()}
    assert 0.003 < medians["untrained"] < 0.03
    assert medians["trained"] == pytest.approx(0.02, rel=0.5)
    assert 5 < medians["far"] / medians["trained"] < 15
    assert all(len(case.tokens.targets) == SHAPE.positions for case in cases.values())


def test_the_largest_change_is_that_of_the_logits_through_the_model_itself() -> None:
    with torch.no_grad():
        case = in_float64(shaped_case(SHAPE, "trained"))
        found = case.largest_changes(n_pairs=3)
        generator = torch.Generator().manual_seed(0)
        position, neuron = (torch.randint(size, (3,), generator=generator) for size in case.tokens.activations.shape)
        head, norm = case.model.lm_head, case.model.transformer.ln_f
        added = (case.replacement[neuron] - case.tokens.activations[position, neuron]).unsqueeze(-1)
        residual, rows = case.tokens.residual[position], case.model.transformer.h[-1].mlp.c_proj.weight[neuron]
        before, after = head(norm(residual)), head(norm(residual + added * rows))
        moved = after - before
        expected = (moved - (before.softmax(-1) * moved).sum(-1, keepdim=True)).abs().amax(-1)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


def test_a_ratio_is_the_median_over_turns_and_not_the_ratio_of_medians() -> None:
    slow, fast = ([Seconds(wall, wall) for wall in walls] for walls in ((10.0, 2.0, 30.0), (1.0, 2.0, 10.0)))
    turns = Turns({"slow": slow, "fast": fast})
    assert turns.ratio("slow", "fast", times=2.0) == 6.0
    assert turns.median("slow", "wall") == 10.0


@pytest.mark.skipif(not ABOUT_MEMORY.exists(), reason="only Linux tells the peak of a process's memory")
def test_the_peak_of_memory_is_what_the_work_holds_and_not_what_preparing_it_did() -> None:
    held, added = 2**26, 2**27
    peak = peak_mebibytes(functools.partial, (operator.mul, b"x" * held, added // held), n_threads=1)
    assert 120 < peak < 160


def test_generated_code_counts_as_vectorised_only_with_a_vector_exponential() -> None:
    assert VECTORISED.search("at::vec::Vectorized<float>::loadu(in_ptr0 + x1, 8);\n auto tmp1 = tmp0.exp();")
    assert not VECTORISED.search("auto tmp0 = in_ptr0[x1];\n auto tmp1 = std::exp(tmp0);")


def test_a_ratio_is_printed_for_each_kind_of_model(capsys: pytest.CaptureFixture) -> None:
    with torch.no_grad():
        kernel_figure([TINY], Namespace(turns=1))
    lines = capsys.readouterr().out.splitlines()
    for kind in KINDS:
        assert any(re.search(rf"60 +40 {kind}( +\d+\.\d){{4}}( +\d+\.\d{{3}}){{3}}", line) for line in lines), kind


def test_an_error_is_printed_for_each_effect_and_small(capsys: pytest.CaptureFixture) -> None:
    with torch.no_grad():
        error_figure(TINY, Namespace())
    lines = capsys.readouterr().out.splitlines()
    errors = {line.split()[0]: float(line.split()[2]) for line in lines if re.match(r"  [a-z_]+ +\d\.\d\de", line)}
    assert set(errors) == set(EVERYTHING.names())
    assert all(error < 1e-5 for name, error in errors.items() if name not in ("argmax", "reciprocal_rank"))


@pytest.mark.heavy
def test_every_figure_can_be_drawn() -> None:
    text = output_of()
    for line in ("kernel", "measure()", "peak above the model", "limit: exponentials", "growth", "error, far", "profile"):
        assert line in text
