"""Ends of processes: by Ctrl-C, by termination, by kill, by a full disk, by a closed pipe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from programs import CRYSGEN, CRYSMETRICS, PATIENCE, are_gone, program, script, start, wait_for
from sets import random_crystals

from crysmetrics.io import write
from crysmetrics.io.atomic import atomic_file, atomic_folder, remove_left

SECONDS = 2.0
"""A signal ends a process within one second; a machine that runs other tests is given two."""

# Hours in C code that Python's signal handler waits for.
STUCK = """
import sqlite3
def stuck(*args, **options):
    print("now", flush=True)
    sqlite3.connect(":memory:").execute(
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 1e12) "
        "SELECT sum(x) FROM c").fetchall()
"""
STUCK_WRITING = (
    f"{STUCK}\nimport crysmetrics.reporting.writing as w\nwrite = w._write\n"
    "w._write = lambda path, text: (write(path, text), stuck())"
)
SLOW_WRITING = (
    "import time, crysmetrics.reporting.writing as w\nwrite = w._write\n"
    "w._write = lambda path, text: (write(path, text), print('now', flush=True), time.sleep(600))"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ends")
    write(random_crystals(6), path / "set.zip")
    return path


def evaluate(output: str, *more: str) -> list[str]:
    options = ["--metrics", "struct_validity", "--workers", "1", "--cache", "off", "--quiet"]
    return ["evaluate", "set.zip", "set.zip", "-o", output, *options, *more]


def catches_signals(process: int) -> bool:
    """Whether a process of ours has come so far: Python by itself does not catch SIGTERM."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():  # no Linux
        return psutil.Process(process).cpu_times().user > 0.5
    caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def temporaries(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".crysmetrics-*")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("setup", [SLOW_WRITING, STUCK_WRITING], ids=["Python", "C"])
def test_signals_end_a_program_at_once_and_leave_nothing(
    folder: Path, number: signal.Signals, setup: str
) -> None:
    output = f"signal-{number}-{len(setup)}"
    process = start(script(setup) + evaluate(output), folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    assert temporaries(folder)
    begun = time.monotonic()
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - begun < SECONDS
    assert (process.returncode, errors) == (128 + number, "Interrupted.\n")
    assert not temporaries(folder)
    assert not (folder / output).exists()


@pytest.mark.parametrize("delay", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize(
    ("command", "written"),
    [
        ([*CRYSMETRICS, *evaluate("early")], "early/metrics.json"),
        (
            [*CRYSGEN, "sample", "--composition", "SrTiO3", "-n", "40", "-o", "sample"],
            "sample/samples.csv",
        ),
    ],
    ids=["evaluate", "sample"],
)
def test_ctrl_c_is_no_traceback_at_any_moment(
    folder: Path, command: list[str], written: str, delay: float
) -> None:
    """While packages are imported, kernels compiled, structures made."""
    process = start(command, folder)
    # Until Python itself runs nobody can answer; what follows is ours.
    assert wait_for(lambda: catches_signals(process.pid))
    time.sleep(delay)
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - begun < SECONDS
    if process.returncode == -signal.SIGINT:
        # All was done, and the interpreter about to end, which no longer asks handlers.
        assert (folder / written).exists()
    elif process.returncode:  # else it was ready before
        assert process.returncode == 130
        assert "Interrupted" in errors.splitlines()[-1]
    assert "Traceback" not in errors


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_waits_does_not_hold_up_the_end(folder: Path, stream: str) -> None:
    """As `less` does with a long table."""
    code = f"import sys\nprint('now', flush=True)\nprint('x' * 10**7, file=sys.{stream})"
    process = start(program(code), folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    time.sleep(0.5)
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=PATIENCE) == 130
    assert time.monotonic() - begun < SECONDS
    process.communicate()


def test_what_is_ignored_stays_ignored(folder: Path) -> None:
    """By nohup, and for the background jobs of scripts."""
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    show = "import crysmetrics.cli; crysmetrics.cli.main = lambda: print(signal.getsignal(1))"
    done = subprocess.run(script(f"{code}\n{show}"), capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Handlers.SIG_IGN") or done.stdout == "1\n"


def test_what_a_killed_evaluation_left_is_removed_by_the_next(folder: Path) -> None:
    command = evaluate("killed")
    subprocess.run([*CRYSMETRICS, *command], cwd=folder, check=True)
    before = (folder / "killed/metrics.csv").read_bytes()
    process = start([*script(SLOW_WRITING), *command, "--overwrite"], folder)
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    other = subprocess.run(
        [*CRYSMETRICS, *command, "--overwrite"], cwd=folder, capture_output=True, text=True
    )
    assert other.returncode == 2
    assert "Another run is writing to killed" in other.stderr
    process.kill()
    process.communicate()
    assert temporaries(folder / "killed")
    subprocess.run([*CRYSMETRICS, *command, "--overwrite"], cwd=folder, check=True)
    assert not temporaries(folder)
    assert (folder / "killed/metrics.csv").read_bytes() == before


def test_a_folder_that_a_killed_run_began_is_as_good_as_none(folder: Path) -> None:
    for name in ("first", "second"):
        process = start([*script(SLOW_WRITING), *evaluate(name)], folder)
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        assert temporaries(folder)
        process.kill()
        process.communicate()
    assert len(temporaries(folder)) == 1, "the second has removed what the first left"
    subprocess.run([*CRYSMETRICS, *evaluate("first")], cwd=folder, check=True)
    assert not temporaries(folder)


LEAVE = """
import os, sys
from crysmetrics.io.atomic import atomic_file, atomic_folder
from contextlib import ExitStack
with ExitStack() as stack:
    for number in range(2):
        stack.enter_context(atomic_file(f"file-{number}")).write_text("x")
        stack.enter_context(atomic_folder(f"folder-{number}")).joinpath("a").write_text("x")
    print("now", flush=True)
    if sys.argv[1] == "die":
        os.kill(os.getpid(), 9)
    sys.stdin.read()
"""


def test_temporaries_of_the_living_stay_and_those_of_the_dead_go(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LEAVE]
    living = start([*command, "live"], tmp_path, stdin=subprocess.PIPE)
    assert living.stdout is not None
    assert living.stdout.readline() == "now\n"
    theirs = set(temporaries(tmp_path))
    assert len(theirs) == 4
    start([*command, "die"], tmp_path).communicate()
    assert len(temporaries(tmp_path)) == 8
    (tmp_path / ".crysmetrics-of-somebody").touch()
    remove_left(tmp_path)
    assert {*theirs, ".crysmetrics-of-somebody"} == set(temporaries(tmp_path))
    living.communicate("")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name[0] != ".") == [
        *("file-0", "file-1", "folder-0", "folder-1"),
    ]


def test_temporaries_of_other_machines_stay_for_a_day(tmp_path: Path) -> None:
    theirs = tmp_path / ".crysmetrics-folder-01234567-1-0123456789ab"
    theirs.mkdir()
    remove_left(tmp_path)
    assert theirs.exists()
    old = time.time() - 2 * 86400
    os.utime(theirs, (old, old))
    with atomic_folder(tmp_path / "other") as new:
        assert new.parent == tmp_path
    assert not theirs.exists()
    with atomic_file(tmp_path / "file") as new_file:
        assert new_file.parent == tmp_path


POOLS = {
    "jobs": """
import time
from crysmetrics.parallel import in_processes
print("now", flush=True)
list(in_processes(time.sleep, [(600,)] * 4, 2))
""",
    "pool of a thread": """
import threading, time
from crysmetrics.parallel import process_pool, submit
def work():
    with process_pool(2) as pool:
        futures = [submit(pool, time.sleep, 600) for _ in range(2)]
        print("now", flush=True)
        futures[0].result()
thread = threading.Thread(target=work)
thread.start()
thread.join()
""",
}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("code", POOLS.values(), ids=POOLS.keys())
def test_workers_end_with_their_parent(tmp_path: Path, code: str, number: signal.Signals) -> None:
    process = start([sys.executable, "-c", code], tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    parent = psutil.Process(process.pid)

    def is_working(child: psutil.Process) -> bool:
        try:  # what watches the parent has begun
            return child.num_threads() > 1 and "resource_tracker" not in " ".join(child.cmdline())
        except psutil.Error:
            return False

    assert wait_for(lambda: sum(map(is_working, parent.children(recursive=True))) == 2)
    children = parent.children(recursive=True)
    os.kill(process.pid, number)
    process.wait(timeout=PATIENCE)
    assert are_gone(children, SECONDS)


def test_interrupted_workers_say_nothing(tmp_path: Path) -> None:
    """Ctrl-C reaches those that have just been started, too, before they can ignore it."""
    for delay in (0.05, 0.3, 1.0):
        process = start(program(POOLS["jobs"]), tmp_path)
        assert process.stdout is not None
        assert process.stdout.readline() == "now\n"
        time.sleep(delay)
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, errors) == (130, "Interrupted.\n")
        assert are_gone(children, SECONDS)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's device that is always full")
@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["validity", "set.zip", "--workers", "1"],
        ["validity", "set.zip", "--workers", "1", "--json", "-", "--quiet"],
        ["cache", "info"],
    ],
    ids=" ".join,
)
def test_a_full_disk_is_one_sentence(folder: Path, command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*CRYSMETRICS, *command], cwd=folder, stdout=full, stderr=subprocess.PIPE, text=True
        )
        assert done.returncode == 2
        assert done.stderr == "Error: the output can't be written (No space left on device).\n"
        both = subprocess.run([*CRYSMETRICS, *command], cwd=folder, stdout=full, stderr=full)
        assert both.returncode == 2


@pytest.mark.parametrize("options", [[], ["--json", "-", "--quiet"]], ids=["table", "json"])
def test_a_closed_pipe_is_no_news(folder: Path, options: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*CRYSMETRICS, "validity", "set.zip", "--workers", "1", *options]
    done = subprocess.run(command, cwd=folder, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (2, "")
