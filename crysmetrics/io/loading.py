"""Files and members of archives as texts, as far as `limits` allows."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO

from crysmetrics.io import limits
from crysmetrics.io.entries import Entry
from crysmetrics.io.parsed import why_no_bytes
from crysmetrics.io.texts import decode, decode_cell, memory_of
from crysmetrics.io.unpacking import is_compressed, unpack

_HEAD = 4096


def load(entry: Entry) -> str:
    """Read the text of an entry.

    Raises:
        ValueError: with the reason, if there is no readable text.
    """
    if entry.path is not None:
        limit = limits.MAX_WHOLE_BYTES if entry.is_all else limits.MAX_PLAIN_BYTES
        return load_file(entry.path, limit)
    if isinstance(entry.content, str):
        return decode_cell(entry.content)
    return decode(unpack(entry.content, limits.MAX_FILE_BYTES))


def load_file(path: str | Path, limit: int | None = None, unpacked_limit: int | None = None) -> str:
    """Read the text of a file.

    Args:
        path: compressed or not.
        limit: of its size, in bytes; by default that of a file read alone.
        unpacked_limit: of what a compressed file unpacks to; by default `limits.MAX_FILE_BYTES`.

    Raises:
        ValueError: with the reason, if there is no readable text.
    """
    limit = limits.MAX_WHOLE_BYTES if limit is None else limit
    most = limits.MAX_FILE_BYTES if unpacked_limit is None else unpacked_limit
    data = unpack(_read(path, limit), most)
    if (memory := memory_of(data)) > limits.MAX_WHOLE_MEMORY:
        raise ValueError(f"is too large (its text takes {memory / 1e6:.0f} MB)")
    return decode(data)


def _read(path: str | Path, limit: int) -> bytes:
    try:
        with open_plain(path, limit) as file:
            return file.read()
    except OSError as error:
        raise ValueError(why_unreadable(path, error)) from error


def open_plain(path: str | Path, limit: int | None = None) -> IO[bytes]:
    """Open a file that may hold a text, compressed or not.

    Args:
        path: of the file.
        limit: of its size, in bytes; by default that of a file among many.

    Raises:
        ValueError: with the reason, if it can't.
        OSError: if it can't be opened.
    """
    limit = limits.MAX_PLAIN_BYTES if limit is None else limit
    info = os.stat(path)  # noqa: PTH116 - Path objects cost more than reading the file
    if not stat.S_ISREG(info.st_mode):  # opening a pipe would wait for ever
        raise ValueError("is not a regular file")
    if info.st_size > limit:
        sizes = f"{info.st_size / 1e6:.0f} MB, at most {limit / 1e6:.0f} MB are read"
        raise ValueError(f"is too large ({sizes})")
    file = open(path, "rb", buffering=0)  # noqa: PTH123, SIM115
    if info.st_size > _HEAD:
        # A large file that is no text is not worth its memory.
        head = file.read(_HEAD)
        if not is_compressed(head) and (reason := why_no_bytes(head)) is not None:
            file.close()
            raise ValueError(reason)
        file.seek(0)
    return file


def why_unreadable(path: str | Path, error: OSError) -> str:
    """Say why a file or folder can't be opened, as a clause."""
    if error.errno == errno.ELOOP:
        return "is a link that leads back to itself"
    if isinstance(error, FileNotFoundError):
        return "is a broken link" if Path(path).is_symlink() else "does not exist"
    return f"can't be read ({error.strerror or error})"
