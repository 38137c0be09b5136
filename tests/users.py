"""Tests of permissions that hold for root too, who may read and write everything."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read everything; an ordinary user is left as it is."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def run_as_nobody(
    command: list[str], *, cwd: Path, env: dict[str, str], timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a command as a user without a home, who may read everything and write what others may.

    Of root's rights the one to read stays, since interpreters may lie in root's home. Tests that an
    ordinary user runs take away the right to write from folders instead.
    """
    return subprocess.run(
        command,
        cwd=cwd,
        env=env,
        timeout=timeout,
        capture_output=True,
        text=True,
        preexec_fn=_become_nobody if os.geteuid() == 0 else None,
    )


def _become_nobody() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    set_keepcaps, set_ambient, raise_it, may_read, version_3 = 8, 47, 2, 2, 0x20080522
    mask = 1 << may_read  # CAP_DAC_READ_SEARCH
    libc.prctl(set_keepcaps, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    header = (ctypes.c_uint32 * 2)(version_3, 0)
    sets = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
    if libc.capset(header, sets) or libc.prctl(set_ambient, raise_it, may_read, 0, 0):
        raise OSError(ctypes.get_errno(), "the right to read can't be kept")
