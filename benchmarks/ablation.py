"""The ablation suite against the paper's slow method: speed, memory, growth and error.

Both sides begin with the residual, activations and targets at the scored positions of the same model and end with loss, entropy and
D(P_freq || P_model) under three variants (total, frozen norm, frozen frequency) for every neuron of the last layer. They take turns in
one process; a ratio is the median over turns, by CPU time of the process and by wall time. ``paper`` is the slow method as its authors
wrote it, ``shared`` the same with one log-softmax where they take four (see ``paper_method``). The slow side is timed on a few chunks of
neurons and counted as many times as there are chunks: they cost the same. Freed memory stays with the process, or the slow side would be
slower still.

What the suite costs depends on how far logits move, so that every ratio is printed for three kinds of model (see ``shaped_models``) with
the quantiles of the largest change of a pair.

    kernel   the kernel alone on equal outputs                                         target 30
    measure  all of measure() with every column, no control, against the three variants     15
    gpt2     at GPT-2 small's shape, and the peak of memory above the model          60; 1 GiB
    limit    time of three vectorised exponentials for each, over the suite's time         0.8
    growth   seconds when tokens, neurons or vocabulary double                          linear
    error    of every effect in fp32, against float64
    profile  where the kernel's time goes
    runs     the kernel on finished runs, given by --run

    python -m benchmarks.ablation --threads 1 --figures kernel error
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.ablation_profile import profile
from benchmarks.fused_exponentials import FusedExponentials
from benchmarks.machine import machine
from benchmarks.paper_method import NEURONS_OF_A_CHUNK, PaperMethod
from benchmarks.shaped_models import KINDS, QUANTILES, Case, Shape, shaped_case
from benchmarks.turns import Turns, keep_freed_memory, peak_mebibytes
from confreg import MeasurementRequest, measure, open_run
from confreg.neurons.ablation import EffectChanges, Wanted
from confreg.neurons.effects import effect_changes

EQUAL_OUTPUTS = Wanted(scale_only=False, ranks=False, temperature=False, every_variant=True)
EVERYTHING = Wanted(every_variant=True)
POSITIONS = 508
SHAPES = [Shape(vocabulary, neurons, 128, POSITIONS) for vocabulary in (256, 2048) for neurons in (128, 256, 512)]
LARGE = SHAPES[-1]
GPT2_SMALL = Shape(50257, 3072, 768, 128, layers=12)
GROWTH = Shape(1024, 256, 128, 256)
TINY = Shape(60, 40, 64, 20, layers=1)


def kernel(case: Case, wanted: Wanted = EQUAL_OUTPUTS) -> EffectChanges:
    """The suite from the scored tokens on."""
    writes = case.readout.writes(case.readout.w_out)
    ablation = case.readout.ablation(case.tokens, case.replacement, writes)
    return effect_changes(case.readout.baseline(case.tokens, case.frequency), ablation, wanted=wanted)


def slow_ways(case: Case, n_chunks: int) -> tuple[dict[str, Callable[[], Any]], float]:
    """The slow method on a few chunks of neurons, and by how much that is to be multiplied."""
    n_neurons = min(n_chunks * NEURONS_OF_A_CHUNK, len(case.readout.w_out))
    ways = {"paper": PaperMethod(case.model, case.frequency.log_probs), "shared": PaperMethod(case.model, case.frequency.log_probs, True)}
    return (
        {name: partial(way.changes, case.tokens, case.replacement, n_neurons) for name, way in ways.items()},
        len(case.readout.w_out) / n_neurons,
    )


def quantiles(case: Case) -> str:
    """Of the largest change of a pair; nats."""
    found = case.largest_changes().double().quantile(torch.tensor(QUANTILES, dtype=torch.float64))
    return " ".join(f"{value:.1e}" for value in found)


def ratio_line(case: Case, ours: Callable[[], Any], n_turns: int, n_chunks: int) -> str:
    """Ratios to both slow ways by both clocks, and nanoseconds of CPU time for each position, neuron and token."""
    slow, times = slow_ways(case, n_chunks)
    turns = Turns.of({**slow, "ours": ours}, n_turns)
    n_elements = case.tokens.activations.numel() * len(case.token_counts)
    cells = [f"{turns.ratio(name, 'ours', times, clock):7.1f}" for name in slow for clock in ("cpu", "wall")]
    nanoseconds = [turns.median(name) * (1 if name == "ours" else times) / n_elements * 1e9 for name in ("paper", "shared", "ours")]
    return " ".join(cells) + "  " + " ".join(f"{each:8.3f}" for each in nanoseconds) + f"   {quantiles(case)}"


def heading(name: str) -> str:
    """Of the columns of ``ratio_line``."""
    return f"{name:32} paper    wall  shared    wall     paper   shared  ours ns   quantiles of the largest change 10 50 90 99 99.9 100 %"


def kernel_figure(shapes: list[Shape], chosen: argparse.Namespace) -> None:
    """Figure 1."""
    print(heading("kernel: V, m, kind"))
    for shape in shapes:
        for kind in KINDS:
            case = shaped_case(shape, kind)
            print(
                f"{shape.vocabulary:6} {shape.neurons:5} {kind:16}   ", ratio_line(case, partial(kernel, case), chosen.turns, 2), flush=True
            )


def measure_figure(shape: Shape, chosen: argparse.Namespace) -> None:
    """Figure 2."""
    print(heading("measure(), every column: V, m"))
    request = MeasurementRequest(control_draws=0)
    for kind in KINDS[:2]:
        case = shaped_case(shape, kind)
        ours = partial(measure, case.model, case.blocks, case.token_counts, request)
        print(f"{shape.vocabulary:6} {shape.neurons:5} {kind:16}   ", ratio_line(case, ours, chosen.turns, 2), flush=True)


def gpt2_figure(shape: Shape, chosen: argparse.Namespace) -> None:
    """Figure 3; the slow side on one chunk of neurons."""
    print(heading(f"V {shape.vocabulary}, m {shape.neurons}, d {shape.d_model}"))
    for kind in KINDS[:2]:
        case = shaped_case(shape, kind)
        print(f"{shape.positions:6} positions {kind:11}   ", ratio_line(case, partial(kernel, case), min(3, chosen.turns), 1), flush=True)
        peak = peak_mebibytes(prepared_kernel, (shape, kind), torch.get_num_threads())
        print(f"{'':20} peak above the model: {'unknown here' if peak is None else f'{peak:.0f} MiB'}", flush=True)


def prepared_kernel(shape: Shape, kind: str) -> Callable[[], Any]:
    """The kernel on a model of its own, for another process."""
    return partial(kernel, shaped_case(shape, kind), EVERYTHING)


def limit_figure(shape: Shape, chosen: argparse.Namespace) -> None:
    """Figure 4."""
    exponentials = FusedExponentials.of(shape.vocabulary)
    print(f"limit: exponentials {exponentials.kind}")
    n_elements = shape.positions * shape.neurons * shape.vocabulary
    n_passes = max(1, n_elements // 50 // exponentials.changes.numel())  # a fiftieth of one variant
    for kind in KINDS:
        case = shaped_case(shape, kind)
        turns = Turns.of({"limit": lambda: [exponentials.once() for _ in range(n_passes)], "ours": partial(kernel, case)}, chosen.turns)
        times = 3 * n_elements / (n_passes * exponentials.changes.numel())
        each = turns.median("limit") * times / n_elements / 3 * 1e9
        print(
            f"  {kind:10} {turns.ratio('limit', 'ours', times):6.2f} by CPU time, "
            f"{turns.ratio('limit', 'ours', times, 'wall'):6.2f} by wall time; one exponential {each:.2f} ns",
            flush=True,
        )


def growth_figure(shape: Shape, chosen: argparse.Namespace) -> None:
    """Figure 5."""
    print("growth, kind trained:  positions  neurons  vocabulary   CPU s   ns each   times the seconds of the line before")
    for name in ("positions", "neurons", "vocabulary"):
        before = 0.0
        for factor in (1, 2, 4):
            larger = replace(shape, **{name: factor * getattr(shape, name)})
            case = shaped_case(larger, "trained")
            seconds = Turns.of({"ours": partial(kernel, case)}, chosen.turns).median("ours")
            each = seconds / (larger.positions * larger.neurons * larger.vocabulary) * 1e9
            growth = f"{seconds / before:6.2f}" if before else ""
            print(
                f"{'':20} {larger.positions:10} {larger.neurons:8} {larger.vocabulary:10} {seconds:9.3f} {each:8.3f}  {growth}", flush=True
            )
            before = seconds


def in_float64(case: Case) -> Case:
    """The same with the same tokens, all that follows in float64."""
    tokens = replace(case.tokens, residual=case.tokens.residual.double(), activations=case.tokens.activations.double())
    return replace(
        Case.of(copy.deepcopy(case.model).double(), case.blocks, case.token_counts), tokens=tokens, replacement=case.replacement.double()
    )


def error_figure(shape: Shape, chosen: argparse.Namespace) -> None:
    """Figure 6. The reference is the kernel in float64, and the slow method in float64 says how good that is."""
    for kind in KINDS:
        case = shaped_case(shape, kind)
        exact_case = in_float64(case)
        found, exact = kernel(case, EVERYTHING), kernel(exact_case, EVERYTHING)
        slow = PaperMethod(exact_case.model, exact_case.frequency.log_probs).changes(exact_case.tokens, exact_case.replacement)
        apart = max((getattr(exact, name) - values).abs().max().item() for name, values in slow.items())
        print(f"error, {kind}; quantiles {quantiles(case)}; float64 and the slow method in float64 are {apart:.1e} apart")
        print(f"  {'effect':40} {'mean |effect|':>14} {'max error':>10} {'mean error':>11} {'of the mean effect':>19}")
        for name in EVERYTHING.names():
            true = getattr(exact, name)
            error, size = (getattr(found, name).double() - true).abs(), true.abs().mean().item()
            print(f"  {name:40} {size:14.2e} {error.max():10.1e} {error.mean():11.1e} {error.mean() / max(size, 1e-300):19.1e}", flush=True)


def profile_figure(shape: Shape, chosen: argparse.Namespace) -> None:
    """Where the time goes."""
    for kind in KINDS:
        case = shaped_case(shape, kind)
        for name, wanted in (("equal outputs", EQUAL_OUTPUTS), ("all of the table", Wanted())):
            print(f"profile, V {shape.vocabulary}, m {shape.neurons}, {shape.positions} positions, {kind}, {name}")
            print(profile(partial(kernel, case, wanted)), flush=True)


def runs_figure(runs: list[Path], chosen: argparse.Namespace) -> None:
    """The kernel on the last checkpoint of finished runs."""
    print(heading("runs"))
    for run in runs:
        case = Case.of(*open_run(run), n_positions=POSITIONS)
        print(f"{str(run)[-28:]:32}", ratio_line(case, partial(kernel, case), chosen.turns, 2), flush=True)


FIGURES: dict[str, tuple[Callable[[Any, argparse.Namespace], None], Any, Any]] = {  # with what it is drawn, and with what it is tried
    "kernel": (kernel_figure, SHAPES, [TINY]),
    "measure": (measure_figure, LARGE, TINY),
    "gpt2": (gpt2_figure, GPT2_SMALL, TINY),
    "limit": (limit_figure, LARGE, TINY),
    "growth": (growth_figure, GROWTH, TINY),
    "error": (error_figure, replace(LARGE, neurons=128, positions=254), TINY),
    "profile": (profile_figure, LARGE, TINY),
}


def main() -> None:
    """Print the machine and the figures."""
    parser = argparse.ArgumentParser(description="The ablation suite against the paper's slow method.")
    parser.add_argument("--figures", nargs="*", choices=tuple(FIGURES), default=list(FIGURES), help="which; default: all")
    parser.add_argument("--run", nargs="*", type=Path, default=[], help="folders of finished runs")
    parser.add_argument("--turns", type=int, default=5, help="of each side")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--quick", action="store_true", help="tiny models, whose times mean nothing: does it run?")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.set_grad_enabled(False)
    kept = "kept by the process" if keep_freed_memory() else "given back to the system"
    print(f"{machine()}; freed memory is {kept}")
    for name in chosen.figures:
        draw, shapes, tiny = FIGURES[name]
        draw(tiny if chosen.quick else shapes, chosen)
    if chosen.run:
        runs_figure(chosen.run, chosen)


if __name__ == "__main__":
    main()
