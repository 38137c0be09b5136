"""Work spread over processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest

from crysmetrics.errors import UserError
from crysmetrics.parallel import flushed_denormals, in_processes, process_pool, submit


def where(number: int) -> tuple[int, int, bool]:
    if number < 0:
        raise ValueError("no such thing")
    return number, os.getpid(), signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_results_come_in_order_from_workers_that_leave_interrupts_to_the_caller() -> None:
    found = list(in_processes(where, [(n,) for n in range(6)], 2))
    assert [number for number, _, _ in found] == list(range(6))
    assert all(pid != os.getpid() and deaf for _, pid, deaf in found)


def sleep_for(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_results_need_not_wait_for_those_before_them() -> None:
    jobs = [(0.5,), (0.0,), (0.01,)]
    found = list(in_processes(sleep_for, jobs, 2, in_order=False))
    assert found[-1] == 0.5
    assert sorted(found) == [0.0, 0.01, 0.5]
    assert list(in_processes(sleep_for, jobs[1:], 2)) == [0.0, 0.01]


def test_one_worker_is_this_process() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        found = list(in_processes(where, [(1,), (2,)], 1))
        assert found == [(n, os.getpid(), False) for n in (1, 2)]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_of_workers_are_raised(workers: int) -> None:
    with pytest.raises(ValueError, match="no such thing"):
        list(in_processes(where, [(1,), (-1,)], workers))


def die_in_a_pool() -> None:
    with process_pool(2) as processes:
        submit(processes, os._exit, 1).result()


def die_in_jobs() -> None:
    list(in_processes(os._exit, [(1,)] * 2, 2))


@pytest.mark.parametrize("die", [die_in_jobs, die_in_a_pool])
def test_a_worker_that_is_killed_is_a_sentence(die: Callable[[], None]) -> None:
    with pytest.raises(UserError, match="worker process was killed"):
        die()


def test_denormals_count_as_before_afterwards() -> None:
    small = np.full(1, 1e-310)
    with flushed_denormals():
        assert (small * 1.0)[0] == 0
        with flushed_denormals():
            pass
        assert (small * 1.0)[0] == 0
    assert (small * 1.0)[0] > 0
