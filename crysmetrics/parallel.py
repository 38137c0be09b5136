"""Work spread over cores: threads for compiled kernels, processes for Python-bound libraries."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, TypeVar

from crysmetrics.errors import UserError
from crysmetrics.interrupts import is_ending, on_forced_exit

T = TypeVar("T")

_IDLE = 300
"""Seconds that workers wait for further jobs."""
_STARTING = threading.Lock()
_LOOK_AFTER = 0.5
"""Seconds from one look of a worker after its parent to the next."""
_THREAD_COUNTS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS"),
)
"""Variables that say how many threads a process computes with."""


def cpu_count(workers: int | None = None) -> int:
    """Return the number of workers: as given, else the cores that this process may use."""
    if workers is not None:
        return max(1, workers)
    import joblib

    return int(joblib.cpu_count())


def in_processes(
    function: Callable[..., T],
    jobs: Sequence[tuple[Any, ...]],
    workers: int | None = None,
    *,
    in_order: bool = True,
) -> Iterator[T]:
    """Yield `function(*job)` for each job; in this process if one worker is enough.

    Workers stay for a while, and a later call with as many finds what they have loaded.

    Args:
        function: that pickles.
        jobs: its arguments.
        workers: processes; None for all cores.
        in_order: whether results come in the order of the jobs, so that what follows a long job
            waits for it; otherwise each comes as soon as it is there.

    Raises:
        UserError: if a worker is killed, for lack of memory most often.
    """
    count = min(cpu_count(workers), len(jobs))
    if count <= 1:
        yield from (function(*job) for job in jobs)
        return
    from joblib.externals.loky import get_reusable_executor

    pool = get_reusable_executor(count, timeout=_IDLE, **_worker_options())
    pending: deque[Future[T]] = deque()
    try:
        with _deaths_explained(), on_forced_exit(lambda: _kill_workers(pool)):
            pending += (submit(pool, function, *job) for job in jobs)
            while pending:
                if not in_order:
                    wait(pending, return_when=FIRST_COMPLETED)
                    pending.rotate(-next(i for i, future in enumerate(pending) if future.done()))
                yield pending.popleft().result()
    except (KeyboardInterrupt, GeneratorExit):
        if is_ending():
            _kill_workers(pool)
        else:
            pool.shutdown(wait=False, kill_workers=True)
        raise
    finally:
        for future in pending:
            future.cancel()


@contextmanager
def process_pool(workers: int) -> Iterator[Executor]:
    """Start processes for this block alone; see `submit`.

    loky's need no `if __name__ == "__main__"` in the caller's script and no fork.

    Raises:
        UserError: if a worker is killed, for lack of memory most often.
    """
    from joblib.externals.loky import ProcessPoolExecutor

    pool = ProcessPoolExecutor(workers, **_worker_options())
    try:
        with _deaths_explained(), on_forced_exit(lambda: _kill_workers(pool)):
            yield pool
    finally:
        if is_ending():
            _kill_workers(pool)
        else:
            pool.shutdown()


def _kill_workers(pool: Any) -> None:
    """End workers that may not have come so far as to watch this process."""
    for process in list(pool._processes or ()):
        with suppress(OSError):
            os.kill(process, getattr(signal, "SIGKILL", signal.SIGTERM))


@contextmanager
def _deaths_explained() -> Iterator[None]:
    try:
        yield
    except BrokenExecutor as error:
        raise UserError(
            "A worker process was killed, maybe for lack of memory; fewer --workers need less."
        ) from error


def submit(pool: Executor, function: Callable[..., T], *arguments: Any) -> Future[T]:
    """Hand a job to processes that leave interrupts to this one.

    Ctrl-C reaches all processes of a terminal, and one that has just been started would answer it
    with a traceback; only this process has something to say.
    """
    if not hasattr(signal, "pthread_sigmask"):
        return pool.submit(function, *arguments)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:  # what starts here inherits the mask
        return pool.submit(function, *arguments)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _worker_options() -> dict[str, Any]:
    # Linux watches the thread that starts a process: only the main thread lives to the end.
    is_main = threading.current_thread() is threading.main_thread()
    # Each worker computes with one thread: all cores are busy with jobs already.
    variables = dict.fromkeys(_THREAD_COUNTS, "1")
    _start_trackers()
    return {"initializer": _begin_worker, "initargs": (os.getpid(), is_main), "env": variables}


def _start_trackers() -> None:
    """Start the processes that tidy up after this one; at a hasty end they say nothing.

    Started later, they would undo the mask of `submit`.
    """
    from multiprocessing import resource_tracker as standard

    from joblib.externals.loky.backend import resource_tracker

    name = "PYTHONWARNINGS"
    with _STARTING:
        before = os.environ.get(name)
        os.environ[name] = ",".join(filter(None, (before, "ignore:resource_tracker")))
        try:
            standard.ensure_running()
            resource_tracker.ensure_running()
        finally:
            os.environ.pop(name)
            if before is not None:
                os.environ[name] = before


def _begin_worker(parent: int, is_watched: bool) -> None:
    """Leave interrupts, in a worker, to the parent, and end when it ends, however that happens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if is_watched and sys.platform == "linux":
        import ctypes

        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL, 0, 0, 0)
    threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()


def _end_with(parent: int) -> None:
    """End, in a thread, with the parent: orphans have another one."""
    while os.getppid() == parent:
        time.sleep(_LOOK_AFTER)
    os._exit(1)


def in_threads(
    function: Callable[..., T], jobs: Iterable[tuple[Any, ...]], workers: int | None = None
) -> Iterator[T]:
    """Yield `function(*job)` for each job, in order; for functions that release the GIL.

    Jobs that an iterator makes are made a few ahead, so that they need not be held all at once.
    """
    known = len(jobs) if isinstance(jobs, Sized) else None
    count = cpu_count(workers) if known is None else min(cpu_count(workers), known)
    if count <= 1:
        yield from (function(*job) for job in jobs)
        return
    waiting = iter(jobs)
    pending: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(count)
    try:
        ahead = 2 * count if known is None else known
        pending += (pool.submit(function, *job) for job in islice(waiting, ahead))
        while pending:
            result = pending.popleft().result()
            pending += (pool.submit(function, *job) for job in islice(waiting, 1))
            yield result
    finally:
        # After an interrupt what has not begun need not, and at the end nothing is waited for.
        pool.shutdown(wait=not is_ending(), cancel_futures=True)


def chunks_of(sizes: Sequence[int], target: int) -> list[slice]:
    """Return consecutive slices whose sizes add up to about `target` each."""
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
    """Let PyTorch compute with this many threads within the block, in each thread that calls it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Count numbers near 0 as 0 within the block, in this thread.

    For networks whose features fade out through denormals, on which a CPU takes its time; what
    follows computes as it did.
    """
    import torch

    before = float((torch.full((1,), 1e-310, dtype=torch.float64) * 1.0)[0]) == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
