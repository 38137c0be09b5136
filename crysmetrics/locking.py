"""Files that one process changes at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from crysmetrics.errors import UserError


@contextmanager
def locked(path: Path, busy: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock that a file stands for; the system releases it when a process dies.

    Args:
        path: the lock file, in a folder that exists.
        busy: sentence for the error where another process holds the lock.
        wait: seconds to wait for that process.

    Raises:
        UserError: `busy`, or that the file can't be written.
    """
    lock = FileLock(path, timeout=wait)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(busy) from error
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror or error}).") from error
    try:
        yield
    finally:
        lock.release()
