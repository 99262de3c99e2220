"""How far a measurement is: a bar where somebody looks on, or the caller's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Told = Callable[[int, int], None]  # how many scored positions are done, and of how many


@contextmanager
def progress_of(asked: Told | bool, rank: int = 0) -> Iterator[Told | None]:
    """What to tell how far it is; None where nobody wants to know.

    Args:
        asked: a function, or True for a bar on standard error where that is a terminal, or in a notebook.
        rank: of this process: one bar is enough for all.
    """
    if not isinstance(asked, bool):
        yield asked
        return
    console = Console(stderr=True)
    if not asked or rank or not (console.is_terminal or console.is_jupyter):
        yield None
        return
    columns = (TextColumn("measuring"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("measuring", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
