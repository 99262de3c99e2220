"""The processes of ``torch.distributed`` that share a measurement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import distributed


@dataclass(frozen=True)
class Processes:
    """How many there are, and which of them this one is."""

    number: int = 1
    rank: int = 0

    @classmethod
    def all(cls) -> Processes:
        """Those of ``torch.distributed``.

        Raises:
            ValueError: where there are none.
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            raise ValueError(
                "over_processes is true, and torch.distributed has no process group; expected one. Call "
                "torch.distributed.init_process_group first (Lightning's ddp does), or measure with over_processes=False."
            )
        return cls(distributed.get_world_size(), distributed.get_rank())

    @contextmanager
    def together(self) -> Iterator[None]:
        """What every process does by itself before they meet: where one fails, all do, and none waits for it.

        Raises:
            RuntimeError: where another process failed; what happened there is in the message. Here the error itself goes on.
        """
        if self.number == 1:
            yield
            return
        failure = None
        try:
            yield
        except Exception as error:
            failure = error
        failures: list[str | None] = [None] * self.number
        distributed.all_gather_object(failures, None if failure is None else f"{type(failure).__name__}: {failure}")
        if failure is not None:
            raise failure
        for rank, text in enumerate(failures):
            if text is not None:
                raise RuntimeError(f"The measurement stopped, because process {rank} of {self.number} failed: {text}")


ALONE = Processes()
