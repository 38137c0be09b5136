"""Spill to disk what grows with a set: a dictionary, a sorted list and columns for `--stream`.

All of it lies in temporary files without names (in `$TMPDIR`, else in `/tmp` and `/var/tmp`), gone
with the process, however that ends. A million structures take some 300 MB there. Where there is no
room for them, a `UserError` says so.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import UserError

_CACHE_KIB = 16_000
"""Memory of a database in KiB; the rest is on disk."""


class Names:
    """A dictionary of strings on disk, as far as `get` and item assignment go."""

    def __init__(self) -> None:
        self._database = _database("CREATE TABLE t (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID")

    def get(self, name: str) -> str | None:
        """Return the value of a name; None if it has none."""
        row = self._database.execute("SELECT v FROM t WHERE k = ?", (_bytes(name),)).fetchone()
        return None if row is None else _text(row[0])

    def __setitem__(self, name: str, use: str) -> None:
        with _room():
            self._database.execute("INSERT INTO t VALUES (?, ?)", (_bytes(name), _bytes(use)))


class Entries:
    """A list on disk of pairs of a name and some bytes, given back in the order of `sorted`."""

    def __init__(self) -> None:
        self._database = _database("CREATE TABLE t (k BLOB, v BLOB)")

    def add(self, entries: Iterable[tuple[str, bytes]]) -> None:
        """Append pairs."""
        rows = ((_bytes(name), value) for name, value in entries)
        with _room():
            self._database.executemany("INSERT INTO t VALUES (?, ?)", rows)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        # The order of UTF-8 is that of code points, which is that of Python's strings.
        with _room():
            found = self._database.execute("SELECT k, v FROM t ORDER BY k, v")
        for name, value in found:
            yield _text(name), value


class Columns:
    """Columns on disk, numbers of every structure by name, given back as read-only arrays.

    The arrays are mapped: what is read of them is in memory only as long as there is room.
    """

    def __init__(self) -> None:
        self._files: dict[str, tuple[IO[bytes], np.dtype[Any]]] = {}

    def add(self, name: str, values: NDArray[Any]) -> None:
        """Append values to a column; the first decide its type."""
        with _room():
            if name not in self._files:
                # Open as long as this lives.
                self._files[name] = (tempfile.TemporaryFile(), values.dtype)  # noqa: SIM115
            file, kind = self._files[name]
            file.write(np.ascontiguousarray(values, dtype=kind).data)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> NDArray[Any]:
        file, kind = self._files[name]
        with _room():
            file.flush()
        if not file.tell():  # nothing can't be mapped
            return np.zeros(0, dtype=kind)
        return np.memmap(file, dtype=kind, mode="r")


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        raise UserError(
            f"Temporary files can't be written ({error}); set TMPDIR to a folder with room."
        ) from error


def _database(table: str) -> sqlite3.Connection:
    database = sqlite3.connect("")  # a file of its own without a name
    # It need not outlive a crash.
    for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
        database.execute(f"PRAGMA {setting}")
    database.execute(table)
    return database


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")
