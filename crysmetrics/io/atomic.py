"""Outputs that appear whole or not at all, and never over something else unasked."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crysmetrics.errors import UserError


def refuse_existing(path: str | Path, overwrite: bool = False) -> None:
    """Raise `UserError` if `path` exists and may not be replaced; an empty folder may.

    Called before long work, so that nobody computes for an hour what can't be written.
    """
    path = Path(path)
    if overwrite or not (path.exists() or path.is_symlink()):
        return
    if path.is_dir() and not any(path.iterdir()):
        return
    raise UserError(f"{path} exists already; choose another name or give --overwrite.")


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`; moved onto it when the block ends without an error."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder, where a file should be written.")
    _make_parent(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path`; takes its place when the block ends without an error.

    What stood at `path` is removed only after the new folder is complete.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, where a folder should be written.")
    _make_parent(path)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            old = temporary.with_suffix(".old")
            path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent} can't be created ({error.strerror}).") from error
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path.parent} is not writable.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
