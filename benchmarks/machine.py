"""What a figure was measured on: without it, a time means nothing and a ratio little."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch


def machine() -> str:
    """One line: processor, CPUs, threads, load of the last minute, versions, date."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "lightning", "transformers"))
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    threads = f"{torch.get_num_threads()} threads" if torch.get_num_threads() > 1 else "1 thread"
    python = f"Python {platform.python_version()}"
    return f"{processor()}, {os.cpu_count()} CPUs, {threads}, {load}; {python}, {versions}; {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def processor() -> str:
    """The processor's name as Linux gives it, else the platform's word for it."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
