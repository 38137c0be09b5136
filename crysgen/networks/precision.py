"""Where 16-bit autocast may compute: networks alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_SAMPLES_IN_16_BITS: ContextVar[bool] = ContextVar("samples_in_16_bits", default=False)


def full_precision(like: Tensor) -> torch.autocast:
    """Switch off 16-bit autocast, in which only the networks may compute."""
    return torch.autocast(like.device.type, enabled=False)


def full(values: Tensor) -> Tensor:
    """Widen numbers of 16 bits to 32; others stay as they are."""
    return values.float() if values.element_size() < 4 else values


@contextmanager
def sampling_in_16_bits() -> Iterator[None]:
    """Let networks of 32 bits that know `network_precision` compute in 16 while they sample.

    For GPUs, where nearly all the time goes into moving pairs of atoms through memory.
    `gemsdiff-mp-v3` matches as many crystals either way (benchmarks/RESULTS.md).
    """
    token = _SAMPLES_IN_16_BITS.set(True)
    try:
        yield
    finally:
        _SAMPLES_IN_16_BITS.reset(token)


@contextmanager
def network_precision(like: Tensor) -> Iterator[None]:
    """Compute in 16 bits within `sampling_in_16_bits`; elsewhere as is set already.

    Args:
        like: what enters the network.
    """
    if not _SAMPLES_IN_16_BITS.get() or like.dtype != torch.float32:
        yield
        return
    # Without a cache of rounded weights, which would outlive the graph that it was recorded in.
    with torch.autocast(like.device.type, torch.bfloat16, cache_enabled=False):
        yield
