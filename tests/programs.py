"""Real processes of both programs, for tests of what happens around them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

CRYSMETRICS = [sys.executable, "-c", "from crysmetrics.entry import main; main()"]
CRYSGEN = [sys.executable, "-c", "from crysgen.entry import main; main()"]
PATIENCE = 120.0
"""Seconds that a test waits for what comes at once on an idle machine."""


def script(setup: str, program: str = "crysmetrics") -> list[str]:
    """A command that runs some Python and then the program, with further arguments as its own."""
    return [sys.executable, "-c", f"{setup}\nfrom {program}.entry import main\nmain()"]


def program(code: str) -> list[str]:
    """A command that runs some Python as the programs run their commands."""
    lines = (
        "import sys, types",
        "from crysmetrics import entry",
        "module = sys.modules['made'] = types.ModuleType('made')",
        f"module.main = lambda: exec({code!r}, {{}})",
        "entry.run('made')",
    )
    return [sys.executable, "-c", "\n".join(lines)]


def start(command: list[str], cwd: Path, **options: object) -> subprocess.Popen[str]:
    """Start a process in a group of its own, as a terminal does."""
    return subprocess.Popen(  # type: ignore[call-overload]
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Whether something becomes true within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


def are_gone(processes: list[psutil.Process], seconds: float) -> bool:
    """Whether all of them end within some seconds; the dead may wait for a parent to notice."""

    def is_alive(process: psutil.Process) -> bool:
        try:
            return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        except psutil.Error:
            return False

    return wait_for(lambda: not any(map(is_alive, processes)), seconds)
