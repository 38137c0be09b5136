"""A cache of features on disk, shared by all extractors, runs and processes.

One SQLite file: its transactions make it safe when several processes write at once and when one
is killed. A row is a structure's content hash and an extractor's name and hash, so that a new
version of an extractor, or one changed digit of a structure, is another row.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import UserError
from crysmetrics.folders import cache_folder

FILE_NAME = "features-1.sqlite"
DEFAULT_MAX_BYTES = 2 * 1024**3
_KEYS_PER_QUERY = 500  # SQLite's smallest limit on variables in one statement is 999
_ONE_DAY = 86_400

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS features (
    extractor TEXT NOT NULL,
    key BLOB NOT NULL,
    value BLOB,
    reason TEXT,
    used INTEGER NOT NULL,
    PRIMARY KEY (extractor, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS features_used ON features (used);
"""


def default_folder() -> Path:
    """Where the cache is: `$CRYSMETRICS_CACHE`, or the user's cache folder."""
    given = os.environ.get("CRYSMETRICS_CACHE")
    # Switched off, features are not kept, but published weights still need a place.
    return Path(given) if given and given != "off" else cache_folder("crysmetrics")


def open_cache(where: str | None = None) -> FeatureCache | None:
    """The cache of `--cache DIR|off`; None if it is off.

    Args:
        where: a folder, `off`, or None for the default folder.

    Raises:
        UserError: if it names something that can't be a folder.
    """
    if where is None:
        where = os.environ.get("CRYSMETRICS_CACHE")
    if where == "off":
        return None
    folder = default_folder() if where is None else Path(where)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--cache takes a folder or off; {folder} is a file.")
    limit = os.environ.get("CRYSMETRICS_CACHE_BYTES")
    if limit and not limit.isdecimal():
        raise UserError(f"CRYSMETRICS_CACHE_BYTES must be a number of bytes, not {limit!r}.")
    return FeatureCache(folder, int(limit) if limit else DEFAULT_MAX_BYTES)


@dataclass(frozen=True)
class CacheInfo:
    """What is in a cache."""

    path: Path
    size: int
    """Bytes on disk."""
    entries: Mapping[str, int]
    """Structures by extractor."""


class FeatureCache:
    """Features by extractor and structure.

    A cache that can't be opened or written is a loss of time, not of results: it says so once
    and is then passed over.

    Args:
        folder: made when first written to.
        max_bytes: above it, what was not used for longest goes.
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.path = Path(folder) / FILE_NAME
        self.max_bytes = max_bytes
        self._broken = False

    def get(
        self, extractor: str, keys: Sequence[str]
    ) -> dict[str, tuple[NDArray[np.float64] | None, str | None]]:
        """(features, None) or (None, reason of failure) of those keys that are known.

        Args:
            extractor: name and hash.
            keys: content hashes (hexadecimal).
        """
        found: dict[str, tuple[NDArray[np.float64] | None, str | None]] = {}
        if not self.path.exists():
            return found
        now = int(time.time())
        with self._connection() as connection:
            if connection is None:
                return found
            stale = []
            for part in _parts(sorted(set(keys))):
                blobs = [bytes.fromhex(key) for key in part]
                marks = ",".join("?" * len(blobs))
                rows = connection.execute(
                    "SELECT key, value, reason, used FROM features "
                    f"WHERE extractor = ? AND key IN ({marks})",
                    [extractor, *blobs],
                )
                for key, value, reason, used in rows:
                    array = None if value is None else np.frombuffer(value, dtype="<f8")
                    found[key.hex()] = (array, reason)
                    if used < now - _ONE_DAY:  # written at most daily: reading stays reading
                        stale.append((now, extractor, key))
            if stale:
                with connection:
                    connection.executemany(
                        "UPDATE features SET used = ? WHERE extractor = ? AND key = ?", stale
                    )
        return found

    def put(
        self,
        extractor: str,
        keys: Sequence[str],
        values: NDArray[np.float64],
        failures: Mapping[int, str],
    ) -> None:
        """Keep rows of `values` (n, d) under `keys`; failed ones keep their reason.

        All of them are stored, or none.
        """
        now = int(time.time())
        rows = [
            (
                extractor,
                bytes.fromhex(key),
                None if i in failures else values[i].astype("<f8").tobytes(),
                failures.get(i),
                now,
            )
            for i, key in enumerate(keys)
        ]
        with self._connection() as connection:
            if connection is None:
                return
            with connection:
                connection.executemany("INSERT OR REPLACE INTO features VALUES (?,?,?,?,?)", rows)
            self._shrink(connection)

    def info(self) -> CacheInfo:
        """Size and number of entries."""
        entries: dict[str, int] = {}
        if self.path.exists():
            with self._connection() as connection:
                if connection is not None:
                    query = "SELECT extractor, COUNT(*) FROM features GROUP BY extractor"
                    entries = dict(connection.execute(query).fetchall())
        size = self.path.stat().st_size if self.path.exists() else 0
        return CacheInfo(self.path, size, entries)

    def clear(self) -> None:
        """Remove all entries."""
        for suffix in ("", "-journal", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def _shrink(self, connection: sqlite3.Connection) -> None:
        """Drop what was used longest ago until the file is at most 80 % of its bound."""
        while _used_bytes(connection) > self.max_bytes:
            total = connection.execute("SELECT COUNT(*) FROM features").fetchone()[0]
            excess = 1 - 0.8 * self.max_bytes / _used_bytes(connection)
            drop = max(1, int(total * excess))
            with connection:
                connection.execute(
                    "DELETE FROM features WHERE (extractor, key) IN "
                    "(SELECT extractor, key FROM features ORDER BY used LIMIT ?)",
                    [drop],
                )
            # executescript steps to the end; execute would free a single page.
            connection.executescript("PRAGMA incremental_vacuum")
            if drop >= total:
                return

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection | None]:
        """A connection, or None if there can be none."""
        connection = None if self._broken else self._connect()
        if connection is None:
            self._broken = True
            yield None
            return
        try:
            yield connection
        except sqlite3.Error as error:
            self._broken = True
            log.warning("The cache %s failed (%s); it is not used in this run.", self.path, error)
        finally:
            connection.close()

    def _connect(self) -> sqlite3.Connection | None:
        for attempt in range(2):
            connection = None
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                connection = sqlite3.connect(self.path, timeout=60)
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.executescript(_SCHEMA)
                return connection
            except (sqlite3.Error, OSError) as error:
                if connection is not None:
                    connection.close()
                damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(
                    error, sqlite3.OperationalError
                )
                if damaged and attempt == 0:
                    log.warning("The cache %s is damaged (%s); started anew.", self.path, error)
                    self.clear()
                    continue
                log.warning("There is no cache at %s (%s).", self.path, error)
        return None


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), _KEYS_PER_QUERY):
        yield keys[start : start + _KEYS_PER_QUERY]
