"""Observing a model: what has to hold while it is looked at, and to be afterwards as it was before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, plain calls and products in full fp32 within; every module's own mode, what ``module.compile()`` put in place of its
    calls, the precision of products and the random state are as before afterwards, also after an error."""
    modes = {module: module.training for module in model.modules()}
    compiled = {module: module._compiled_call_impl for module in model.modules() if module._compiled_call_impl is not None}
    devices = sorted({each.device.index for each in model.parameters() if each.is_cuda})
    with torch.random.fork_rng(devices=devices), full_precision_products():
        try:
            model.eval()
            for module in compiled:
                module._compiled_call_impl = None
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            for module, call in compiled.items():
                module._compiled_call_impl = call


@contextmanager
def full_precision_products() -> Iterator[None]:
    """Within, no product is rounded to TF32 or bfloat16; what was allowed before is allowed again afterwards, also after an error.

    ``torch.set_float32_matmul_precision("medium")`` is good advice for training, and would cost small effects all of their digits.
    """
    products: list[Any] = [getattr(each, "matmul", None) for each in (torch.backends.cuda, torch.backends.mkldnn)]
    backends = [each for each in products if hasattr(each, "fp32_precision")]  # those of older versions have one switch for all
    allowed, of_backends = _allowed(), [each.fp32_precision for each in backends]
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(allowed)
        for backend, precision in zip(backends, of_backends, strict=True):
            backend.fp32_precision = precision


def _allowed() -> str:
    """What all backends are allowed; torch refuses to say so where a single one was told otherwise, and that one is put back by itself."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "highest"
