"""A cache of features on disk, shared by all extractors, runs and processes.

One SQLite file: its transactions make it safe when several processes write at once and when one
is killed. A row is a structure's content hash and an extractor's name and hash, so that a new
version of an extractor, or one changed digit of a structure, is another row. Each row has a
checksum over its keys and contents: SQLite has none, and a flipped bit on disk would otherwise
change a result without a word. Damaged rows are not returned, so that they are computed anew.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import UserError
from crysmetrics.folders import cache_folder

FILE_NAME = "features-2.sqlite"
"""The number is that of the layout: files of other layouts are neither read nor changed."""
DEFAULT_MAX_BYTES = 2 * 1024**3
_KEYS_PER_QUERY = 500  # SQLite's smallest limit on variables in one statement is 999
_ONE_DAY = 86_400
_FAULTS = (sqlite3.Error, UnicodeDecodeError)
"""Messages about damaged tables quote their names, which need not be UTF-8 then."""
_LAYOUT = 2
_VALUES, _REASON = b"v", b"r"
"""First byte of a payload: float64 numbers follow, or why there are none, in UTF-8."""

Row = tuple[NDArray[np.float64] | None, str | None]
"""Features and None, or None and why they could not be computed."""

log = logging.getLogger(__name__)

_SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS features (
    extractor TEXT NOT NULL,
    key BLOB NOT NULL,
    payload BLOB NOT NULL,
    checksum BLOB NOT NULL,
    used INTEGER NOT NULL,
    PRIMARY KEY (extractor, key)
) WITHOUT ROWID
""",
    "CREATE INDEX IF NOT EXISTS features_used ON features (used)",
    f"PRAGMA user_version = {_LAYOUT}",
)


def default_folder() -> Path:
    """Return the folder of the cache: `$CRYSMETRICS_CACHE`, or the user's cache folder."""
    given = os.environ.get("CRYSMETRICS_CACHE")
    # Switched off, features are not kept, but published weights still need a place.
    return Path(given) if given and given != "off" else cache_folder("crysmetrics")


def open_cache(where: str | None = None) -> FeatureCache | None:
    """Open the cache of `--cache DIR|off`; None if it is off.

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
    """Size and contents of a cache."""

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
        self._warned = False

    def get(self, extractor: str, keys: Sequence[str], width: int) -> dict[str, Row]:
        """Read the rows that are known, as (features, None) or (None, reason of failure).

        Rows whose checksum or length is wrong count as unknown, and are reported once.

        Args:
            extractor: name and hash.
            keys: content hashes (hexadecimal).
            width: number of features in a row.
        """
        found: dict[str, Row] = {}
        if not self.path.exists():
            return found
        now = int(time.time())
        sound = True
        with self._connection() as connection:
            if connection is None:
                return found
            stale, damaged = [], 0
            for part in _parts(sorted(set(keys))):
                blobs = [bytes.fromhex(key) for key in part]
                marks = ",".join("?" * len(blobs))
                rows = connection.execute(
                    "SELECT key, payload, checksum, used FROM features "
                    f"WHERE extractor = ? AND key IN ({marks})",
                    [extractor, *blobs],
                )
                for key, payload, checksum, used in rows:
                    row = _row(extractor, key, payload, checksum, width)
                    if row is None:
                        damaged += 1
                        continue
                    found[key.hex()] = row
                    # Written at most daily: reading stays reading.
                    if not isinstance(used, int) or not now - _ONE_DAY <= used <= now + _ONE_DAY:
                        stale.append((now, extractor, key))
            if damaged:
                # Rows are written over, unless SQLite's own order of them is damaged as well.
                sound = connection.execute("PRAGMA integrity_check(1)").fetchone()[0] == b"ok"
                if not self._warned:
                    self._warned = True
                    log.warning(
                        "The cache %s holds damaged rows; they are computed anew.", self.path
                    )
            if stale:
                with connection:
                    connection.executemany(
                        "UPDATE features SET used = ? WHERE extractor = ? AND key = ?", stale
                    )
        if not sound:
            with suppress(OSError):
                self._remove()
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
        rows = []
        for i, key in enumerate(keys):
            blob = bytes.fromhex(key)
            if i in failures:
                payload = _REASON + failures[i].encode(errors="replace")
            else:
                payload = _VALUES + values[i].astype("<f8").tobytes()
            rows.append((extractor, blob, payload, _checksum(extractor, blob, payload), now))
        with self._connection() as connection:
            if connection is None:
                return
            with connection:
                connection.executemany("INSERT OR REPLACE INTO features VALUES (?,?,?,?,?)", rows)
            self._shrink(connection)

    def info(self) -> CacheInfo:
        """Return size in bytes and number of entries."""
        entries: dict[str, int] = {}
        if self.path.exists():
            with self._connection() as connection:
                if connection is not None:
                    query = "SELECT extractor, COUNT(*) FROM features GROUP BY extractor"
                    entries = {
                        name.decode(errors="replace"): count
                        for name, count in connection.execute(query)
                    }
        size = self.path.stat().st_size if self.path.exists() else 0
        return CacheInfo(self.path, size, entries)

    def clear(self) -> None:
        """Remove all entries, and files of older layouts with them."""
        self._remove()
        for path in self.path.parent.glob("features-*.sqlite*"):
            path.unlink(missing_ok=True)

    def _remove(self) -> None:
        # The database goes last: a journal that outlived it would be applied to the next one.
        for suffix in ("-journal", "-wal", "-shm", ""):
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
        """Open a connection; None if that is impossible."""
        connection = None if self._broken else self._connect()
        if connection is None:
            self._broken = True
            yield None
            return
        try:
            yield connection
        except _FAULTS as error:
            self._broken = True
            log.warning("The cache %s failed (%s); it is not used in this run.", self.path, error)
            if _is_damage(error):  # the next run starts anew, not with the same complaint
                with suppress(OSError):
                    self._remove()
        finally:
            connection.close()

    def _connect(self) -> sqlite3.Connection | None:
        for attempt in range(2):
            connection = None
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                connection = sqlite3.connect(self.path, timeout=60)
                connection.text_factory = bytes  # damaged text is no error of decoding
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                if _layout(connection) != _LAYOUT:
                    _lay_out(connection)
                return connection
            except (*_FAULTS, OSError) as error:
                if connection is not None:
                    connection.close()
                if _is_damage(error) and attempt == 0:
                    log.warning("The cache %s is damaged (%s); started anew.", self.path, error)
                    self._remove()
                    continue
                log.warning("There is no cache at %s (%s).", self.path, error)
        return None


def _layout(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _lay_out(connection: sqlite3.Connection) -> None:
    """Make the tables of a new file; of several processes that want to, one does it.

    Raises:
        sqlite3.DatabaseError: if the file holds something else.
    """
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        if _layout(connection) == _LAYOUT:
            return
        if connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            raise sqlite3.DatabaseError("its tables are not those of this version")
        for statement in _SCHEMA:
            connection.execute(statement)


def _is_damage(error: Exception) -> bool:
    """Tell whether a file is no sound database, rather than locked, full or not to be written."""
    if isinstance(error, sqlite3.OperationalError):
        return str(error).startswith("no such ")  # table or column, as their names are damaged
    return type(error) in (sqlite3.DatabaseError, UnicodeDecodeError)


def _checksum(extractor: str, key: bytes, payload: bytes) -> bytes:
    """Compute eight bytes that change with any bit of a row."""
    text = extractor.encode()
    lengths = b"%d %d " % (len(text), len(key))
    return hashlib.blake2b(lengths + text + key + payload, digest_size=8).digest()


def _row(extractor: str, key: Any, payload: Any, checksum: Any, width: int) -> Row | None:
    """Check a row and return its contents; None if it is damaged, be it in its columns' types."""
    if not isinstance(key, bytes) or not isinstance(payload, bytes):
        return None
    if checksum != _checksum(extractor, key, payload):
        return None
    if payload[:1] == _REASON:
        return None, payload[1:].decode(errors="replace")
    if payload[:1] != _VALUES or len(payload) != 1 + 8 * width:
        return None
    return np.frombuffer(payload, dtype="<f8", offset=1), None


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), _KEYS_PER_QUERY):
        yield keys[start : start + _KEYS_PER_QUERY]
