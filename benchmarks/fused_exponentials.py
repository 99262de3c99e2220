"""The machine's own limit: exponentials in one fused pass, each row summed, as a compiler makes it of one line of PyTorch."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

ELEMENTS = 2**17  # at once: 512 KiB, in the cache of a core
VECTORISED = re.compile(r"Vectorized<float>::loadu.*?\.exp\(\)", re.DOTALL)  # in the C++ that is generated for a CPU


def sums_of_exponentials(changes: Float[Tensor, "row vocab"]) -> Float[Tensor, "row"]:
    """One exponential and one addition for each element."""
    return changes.exp().sum(-1)


@dataclass(frozen=True)
class FusedExponentials:
    """So many exponentials with one sum; ``kind`` says what the compiler made of them."""

    changes: Float[Tensor, "row vocab"]
    work: Callable[[Tensor], Tensor]
    kind: str

    @classmethod
    def of(cls, vocabulary: int) -> FusedExponentials:
        """Compiled and looked at; eager where no compiler is."""
        generator = torch.Generator().manual_seed(0)
        changes = 0.1 * torch.randn(max(1, ELEMENTS // vocabulary), vocabulary, generator=generator)
        try:
            from torch._inductor.utils import run_and_get_code

            compiled = torch.compile(sums_of_exponentials, dynamic=False)
            found, code = run_and_get_code(compiled, changes)
        except Exception as error:  # of a compiler that is missing there are as many kinds as compilers
            return cls(changes, sums_of_exponentials, f"eager, not fused: no compiler ({type(error).__name__})")
        torch.testing.assert_close(found, sums_of_exponentials(changes))
        is_vectorised = any(VECTORISED.search(each) for each in code)
        return cls(changes, compiled, "compiled, " + ("vectorised" if is_vectorised else "NOT vectorised"))

    def once(self) -> Tensor:
        """One pass."""
        return self.work(self.changes)
