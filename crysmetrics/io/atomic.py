"""Outputs that appear whole or not at all, and never over something else unasked.

What is not complete lies under a temporary name, locked as long as its process lives. What a killed
process left is removed by the next that writes in the same place.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crysmetrics.errors import UserError
from crysmetrics.interrupts import on_forced_exit, uninterrupted

_MARK = ".crysmetrics-"
_NAME = re.compile(r"\.crysmetrics-(file|folder|old)-([0-9a-f]{8})-(\d+)-[0-9a-f]{12}")
"""Kind, kernel and process; much shorter than the longest name that a file can have."""
_JUST_MADE = 10.0
"""Seconds in which a process may be about to lock what it has made."""
_TIDY_AFTER = 60.0
"""Seconds from one look for what is left in a folder to the next."""
_tidied: dict[Path, float] = {}
_LONG_AGO = 86400.0
"""Seconds after which what another machine has not touched counts as left."""


def refuse_existing(path: str | Path, overwrite: bool = False) -> None:
    """Raise `UserError` if `path` exists and may not be replaced; an empty folder may.

    Called before long work, so that nobody computes for an hour what can't be written.
    """
    path = Path(path)
    with _writing(path):
        if overwrite or not (path.exists() or path.is_symlink()):
            return
        if path.is_dir():
            remove_left(path, ("file", "folder"))
            if not any(path.iterdir()):
                return
    raise UserError(f"{path} exists already; choose another name or give --overwrite.")


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, moved onto it when the block ends without an error.

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
            _tidy(target.parent)
            temporary = target.with_name(_temporary_name("file"))
            with on_forced_exit(lambda: temporary.unlink(missing_ok=True)):
                try:
                    temporary.touch(exist_ok=False)
                    with _locked(temporary):
                        yield temporary
                        temporary.replace(target)
                finally:
                    temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder, which becomes `path` when the block ends without an error.

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
            remove_left(path)
            with _temporary_folder(path) as new:
                yield new
                _exchange(path, new)
            return
        target = _follow(path)
        with _parent(target):
            remove_left(target.parent, ("file", "folder"))
            with _temporary_folder(target.parent) as new:
                yield new
                new.rename(target)


def _exchange(folder: Path, new: Path) -> None:
    """Let the children of `new`, a child of `folder`, take the place of all its siblings."""
    with uninterrupted(), _temporary_folder(folder, "old") as old:
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
def _temporary_folder(parent: Path, kind: str = "folder") -> Iterator[Path]:
    folder = parent / _temporary_name(kind)
    with on_forced_exit(lambda: shutil.rmtree(folder, ignore_errors=True)):
        try:
            folder.mkdir()
            with _locked(folder):
                yield folder
        finally:
            with uninterrupted():
                shutil.rmtree(folder, ignore_errors=True)


def _tidy(folder: Path) -> None:
    """Remove what killed processes left, but not at each of thousands of files."""
    now = time.monotonic()
    if now - _tidied.get(folder, -_TIDY_AFTER) >= _TIDY_AFTER:
        _tidied[folder] = now
        remove_left(folder, ("file", "folder"))


def is_temporary(path: Path) -> bool:
    """Tell whether a file or folder is what an unfinished `atomic_file` or `atomic_folder` made."""
    return path.name.startswith(_MARK)


def remove_left(folder: Path, kinds: Collection[str] = ("file", "folder", "old")) -> None:
    """Remove what killed processes left in a folder; what living ones make stays.

    Args:
        folder: may be missing.
        kinds: `file`, `folder`, and `old` for what was to be replaced by a new folder.
    """
    with suppress(OSError):
        for path in folder.iterdir():
            found = _NAME.fullmatch(path.name)
            if found and found[1] in kinds and _is_left(path, found[2], int(found[3])):
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_left(path: Path, kernel: str, process: int) -> bool:
    """Tell whether no process is making it: its lock is free, and can be seen from here."""
    age = time.time() - path.lstat().st_mtime
    if kernel != _kernel():  # another machine's locks may not be seen, nor those before a restart
        return age > _LONG_AGO
    if age < _JUST_MADE and _is_running(process):
        return False
    try:
        with _locked(path, wait=False) as is_locked:
            return is_locked or not _is_running(process)
    except BlockingIOError:
        return False


@contextmanager
def _locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a lock on a file or folder, which the system takes away when the process ends.

    Yields:
        Whether there is one: not every file system has locks for folders.

    Raises:
        BlockingIOError: if another process has it, and it is not waited for.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield False
        return
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        is_locked = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            is_locked = False
        yield is_locked
    finally:
        os.close(handle)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _temporary_name(kind: str) -> str:
    return f"{_MARK}{kind}-{_kernel()}-{os.getpid()}-{secrets.token_hex(6)}"


@functools.cache
def _kernel() -> str:
    """Name the running system, which all its containers share and a restart changes."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        text = platform.node()
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@contextmanager
def _parent(path: Path) -> Iterator[None]:
    """Make the folders above `path`, and take those away again if the block fails."""
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
    """Raise a `UserError` for what the system says against writing `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror or error}).") from error


def _follow(path: Path) -> Path:
    """Follow links; a link that leads nowhere or round is itself replaced."""
    try:
        return Path(os.path.realpath(path, strict=False)) if path.exists() else path.absolute()
    except OSError:
        return path.absolute()
