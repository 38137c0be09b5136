"""Outputs that appear whole or not at all, and never over something else unasked."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crysmetrics.errors import UserError

_PREFIX = ".crysmetrics-"  # short, so that a name of the longest length still has its neighbour


def refuse_existing(path: str | Path, overwrite: bool = False) -> None:
    """Raise `UserError` if `path` exists and may not be replaced; an empty folder may.

    Called before long work, so that nobody computes for an hour what can't be written.
    """
    path = Path(path)
    with _writing(path):
        if overwrite or not (path.exists() or path.is_symlink()):
            return
        if path.is_dir() and not any(path.iterdir()):
            return
    raise UserError(f"{path} exists already; choose another name or give --overwrite.")


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`; moved onto it when the block ends without an error.

    A link is followed: what it points to is replaced, not the link.

    Raises:
        UserError: if `path` can't be written, or is a folder or device.
    """
    path = Path(path)
    with _writing(path):
        if path.is_dir():
            raise UserError(f"{path} is a folder, where a file should be written.")
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no ordinary file, so it can't be replaced.")
        target = _follow(path)
        with _parent(target):
            temporary = target.with_name(f"{_PREFIX}{secrets.token_hex(6)}")
            try:
                temporary.touch(exist_ok=False)
                yield temporary
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder; becomes `path` when the block ends without an error.

    A folder that exists stays the same folder (it may be a link, a mount point or the working
    directory): once the new content is complete it changes places with the old, which is put back
    if that fails.

    Raises:
        UserError: if `path` can't be written, or is no folder.
    """
    path = Path(path)
    with _writing(path):
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file, where a folder should be written.")
        if path.is_dir():
            with _temporary_folder(path) as new:
                yield new
                _exchange(path, new)
            return
        target = _follow(path)
        with _parent(target), _temporary_folder(target.parent) as new:
            yield new
            new.rename(target)


def _exchange(folder: Path, new: Path) -> None:
    """Let the children of `new`, a child of `folder`, take the place of all its siblings."""
    with _temporary_folder(folder) as old:
        done: list[tuple[Path, Path]] = []
        try:
            # All that is old first: names of old and new children may be the same.
            for parent, goal in ((folder, old), (new, folder)):
                for child in sorted(parent.iterdir()):
                    if child not in (new, old):
                        child.rename(goal / child.name)
                        done.append((child, goal / child.name))
        except BaseException:
            for source, moved in reversed(done):
                moved.rename(source)
            raise


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    folder = parent / f"{_PREFIX}{secrets.token_hex(6)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _parent(path: Path) -> Iterator[None]:
    """Makes the folders above `path`, and takes those away again if the block fails."""
    missing = [folder for folder in path.parents if not folder.exists()]
    if any(folder.exists() and not folder.is_dir() for folder in path.parents):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # somebody else has put something there meanwhile
            for folder in missing:
                folder.rmdir()
        raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Says in a `UserError` what the system says against writing `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror or error}).") from error


def _follow(path: Path) -> Path:
    """Where a path leads, links followed; a link that leads nowhere or round is itself replaced."""
    try:
        return Path(os.path.realpath(path, strict=False)) if path.exists() else path.absolute()
    except OSError:
        return path.absolute()
