"""Work spread over cores: threads for compiled kernels, processes for Python-bound libraries."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")


def cpu_count(workers: int | None = None) -> int:
    """`workers` if given, else the number of cores this process may use."""
    if workers is not None:
        return max(1, workers)
    import joblib

    return int(joblib.cpu_count())


def in_processes(
    function: Callable[..., T], jobs: Sequence[tuple[Any, ...]], workers: int | None = None
) -> Iterator[T]:
    """`function(*job)` for each job, in order; in this process if one worker is enough."""
    count = min(cpu_count(workers), len(jobs))
    if count <= 1:
        yield from (function(*job) for job in jobs)
        return
    import joblib

    # Each worker computes with one thread: all cores are busy with jobs already.
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        parallel = joblib.Parallel(n_jobs=count, return_as="generator")
        yield from parallel(joblib.delayed(_uninterrupted)(function, job) for job in jobs)


def _uninterrupted(function: Callable[..., T], job: tuple[Any, ...]) -> T:
    """In a worker: Ctrl-C reaches it as well, but it is this program that ends it, in silence."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return function(*job)


def in_threads(
    function: Callable[..., T], jobs: Iterable[tuple[Any, ...]], workers: int | None = None
) -> Iterator[T]:
    """`function(*job)` for each job, in order; for functions that release the GIL.

    Jobs that an iterator makes are made a few ahead, so that they need not be held all at once.
    """
    known = len(jobs) if isinstance(jobs, Sized) else None
    count = cpu_count(workers) if known is None else min(cpu_count(workers), known)
    if count <= 1:
        yield from (function(*job) for job in jobs)
        return
    from concurrent.futures import Future, ThreadPoolExecutor

    waiting = iter(jobs)
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(count) as pool:
        try:
            ahead = 2 * count if known is None else known
            pending += (pool.submit(function, *job) for job in islice(waiting, ahead))
            while pending:
                result = pending.popleft().result()
                pending += (pool.submit(function, *job) for job in islice(waiting, 1))
                yield result
        finally:
            for future in pending:  # after an interrupt, what has not begun need not
                future.cancel()


def chunks_of(sizes: Sequence[int], target: int) -> list[slice]:
    """Consecutive slices whose sizes add up to about `target` each."""
    slices, start, total = [], 0, 0
    for i, size in enumerate(sizes):
        total += int(size)
        if total >= target:
            slices.append(slice(start, i + 1))
            start, total = i + 1, 0
    if start < len(sizes):
        slices.append(slice(start, len(sizes)))
    return slices


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Within this block PyTorch computes with this many threads, in each thread that calls it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Within this block numbers near 0 count as 0 in this thread, for networks whose features fade
    out through denormals, on which a CPU takes its time; what follows computes as it did."""
    import torch

    before = float((torch.full((1,), 1e-310, dtype=torch.float64) * 1.0)[0]) == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
