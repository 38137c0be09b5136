"""What the benchmarks share: timing, memory, and Markdown tables."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import platform
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psutil


def seconds(function: Callable[[], Any], repeats: int = 3) -> float:
    """Shortest wall-clock time of some runs; the first, which may compile, is not counted."""
    function()
    return min(once(function) for _ in range(repeats))


def once(function: Callable[[], Any]) -> float:
    """Wall-clock time of one run."""
    gc.collect()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_memory(
    function: Callable[..., Any], *args: Any, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float]:
    """(seconds, MB by which the peak grew) of `function(*args)` in a process of its own.

    `clock` may be `time.process_time`, whose seconds depend less on what runs beside.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(sender, function, args, clock))
    process.start()
    result: tuple[float, float] = receiver.recv()
    process.join()
    return result


def _measured(
    sender: Any, function: Callable[..., Any], args: tuple[Any, ...], clock: Callable[[], float]
) -> None:
    # The peak of getrusage is inherited from the parent; that of /proc belongs to this program.
    before = _high_water_mark()
    start = clock()
    function(*args)
    elapsed = clock() - start
    sender.send((elapsed, _high_water_mark() - before))


def _high_water_mark() -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


def watch(command: Sequence[str]) -> tuple[float, float, str]:
    """(seconds, peak MB with all child processes, standard output) of a command."""
    start = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0.0
    done = threading.Event()

    def poll() -> None:
        nonlocal peak
        while not done.wait(0.05):
            with contextlib.suppress(psutil.Error):
                family = [process, *process.children(recursive=True)]
                peak = max(peak, sum(p.memory_info().rss for p in family) / 1024**2)

    thread = threading.Thread(target=poll)
    thread.start()
    output, _ = process.communicate()
    elapsed = time.perf_counter() - start
    done.set()
    thread.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return elapsed, peak, output


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table under a heading that names date, machine and commit."""
    lines = [f"### {title}", "", where(), ""]
    lines.append("| " + " | ".join(columns) + " |")
    lines.append("|" + " --- |" * len(columns))
    lines += ["| " + " | ".join(_cell(v) for v in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def where() -> str:
    """Date, machine and commit of a measurement."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    cores = multiprocessing.cpu_count()
    return (
        f"{date.today()}, {cores} cores ({_processor()}), Python {platform.python_version()}, "
        f"NumPy {np.__version__}, commit {commit}"
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
