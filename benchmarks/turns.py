"""Timing two ways of doing the same work so that the ratio means something on a busy machine, and what memory one of them takes."""

from __future__ import annotations

import ctypes
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
ABOUT_MEMORY = Path("/proc/self/status")


class Seconds(NamedTuple):
    """Of one turn."""

    wall: float
    cpu: float  # of this process, all its threads


def seconds_of(work: Callable[[], Any]) -> Seconds:
    """Do it once."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


@dataclass(frozen=True)
class Turns:
    """Seconds of several ways, which took turns."""

    seconds: dict[str, list[Seconds]]

    @classmethod
    def of(cls, ways: dict[str, Callable[[], Any]], n_turns: int) -> Turns:
        """Each way once without a watch, for what it allocates or computes but once, then all of them in turn."""
        for work in ways.values():
            work()
        seconds: dict[str, list[Seconds]] = {name: [] for name in ways}
        for _ in range(n_turns):
            for name, work in ways.items():
                seconds[name].append(seconds_of(work))
        return cls(seconds)

    def median(self, name: str, clock: str = "cpu") -> float:
        """Seconds of one way."""
        return statistics.median(getattr(each, clock) for each in self.seconds[name])

    def ratio(self, slow: str, fast: str, times: float = 1.0, clock: str = "cpu") -> float:
        """Median over turns of the seconds of one way, so many times, over those of another."""
        pairs = zip(self.seconds[slow], self.seconds[fast], strict=True)
        return times * statistics.median(getattr(one, clock) / getattr(other, clock) for one, other in pairs)


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, so that neither side of a ratio pays for asking the kernel for the same pages again and again.

    Without this, large tensors of eager code are mapped and unmapped by every operation; on virtual machines that can be most of its time.

    Returns:
        Whether the C library could be told; only glibc can.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    tell = ctypes.CDLL(None).mallopt
    return bool(tell(M_MMAP_MAX, 0)) and bool(tell(M_TRIM_THRESHOLD, -1))


def peak_mebibytes(prepare: Callable[..., Callable[[], Any]], arguments: Sequence[Any], n_threads: int) -> float | None:
    """Most memory that some work holds above what was there before it, in a process of its own; None where the system does not say.

    Args:
        prepare: called in the new process; returns the work.
        arguments: of ``prepare``.
        n_threads: of the new process.
    """
    if not ABOUT_MEMORY.exists():
        return None
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_peak_here, prepare, arguments, n_threads).result()


def _peak_here(prepare: Callable[..., Callable[[], Any]], arguments: Sequence[Any], n_threads: int) -> float:
    import torch

    torch.set_num_threads(n_threads)
    work = prepare(*arguments)
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)  # what preparing freed would hide what the work takes
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _kibibytes("VmRSS")
    work()
    return (_kibibytes("VmHWM") - before) / 1024


def _kibibytes(name: str) -> int:
    lines = ABOUT_MEMORY.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
