"""Tables: CSV with a column of structures, as CDVAE, DiffCSP and others publish them."""

from __future__ import annotations

import csv
import io
import lzma
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from crysmetrics.errors import InputError
from crysmetrics.io import limits
from crysmetrics.io.crystals import Failure
from crysmetrics.io.entries import Columns, Entry, Source
from crysmetrics.io.formats.base import Format
from crysmetrics.io.formats.json_records import parse_record
from crysmetrics.io.parsed import (
    ID_KEYS,
    MAX_PROPERTY_TEXT,
    STRUCTURE_KEYS,
    Parsed,
    lines_of,
    one_line,
    printable,
    shorten,
    why_no_text,
)
from crysmetrics.io.texts import decode_cell, encoding_of
from crysmetrics.io.unpacking import Bounded, TooLarge, open_bounded

_ROWS = (100, 1000)
"""Fewest and most rows that are taken at once: more as long as they are short."""
_ROWS_BYTES = 4 * 1024**2
"""Bytes that rows taken at once should have."""
_MAX_ROWS_BYTES = 64 * 1024**2
"""Most bytes that so many rows may have: one unclosed quote makes a row of a whole file."""
_MAX_ROWS_FIELDS = 2_000_000
"""Most separators that so many rows may have."""
_HEAD = 1_000_000
"""Bytes within which the header ends."""
_MAX_COLUMNS = 10_000
_SEPARATORS = (",", ";", "\t")


class _Dialect(NamedTuple):
    """How a table is written."""

    separator: str = ","
    encoding: str = "utf-8-sig"
    skipped: int = 0
    """Lines before the header."""


def open_table(path: Path, columns: Columns) -> Source:
    """Read entries of a table's rows; other columns than ids and structures become properties.

    Args:
        path: separated by commas, semicolons or tabs, compressed or not.
        columns: names of columns; by default the first of `material_id`, `id`, ... for ids
            (without any, rows are numbered from 0) and of `cif`, `structure`, ... for structures.

    Raises:
        InputError: when iterated, if the table can't be parsed, or lacks a column.
    """
    return Source(_entries(path, columns), None, [])


def _entries(path: Path, columns: Columns) -> Iterator[Entry]:
    import pandas as pd

    row = 0
    try:
        with _open(path) as file:
            dialect = _dialect(path, file.read(_HEAD), columns)
        with _open(path) as file:
            paced = _Paced(file, dialect.separator)
            # Text first: an id 0012 stays 0012, and the formula NaN stays a formula.
            with pd.read_csv(
                io.BufferedReader(paced),
                dtype=str,
                keep_default_na=False,
                chunksize=_ROWS[0],
                sep=dialect.separator,
                encoding=dialect.encoding,
                encoding_errors="surrogateescape",  # one bad row is that row's failure
                skipinitialspace=True,
                skiprows=dialect.skipped,
                index_col=False,  # else rows of too many fields shift the names of all columns
            ) as frames:
                count = _ROWS[0]
                while (frame := _next(frames, count)) is not None:
                    yield from _rows(frame.fillna(""), path, columns, row)
                    row += len(frame)
                    paced.start()
                    count = min(max(_ROWS[0], row * _ROWS_BYTES // paced.total), _ROWS[1])
    except pd.errors.ParserWarning as error:
        raise InputError(f"{path} has rows with more fields than its header.") from error
    except pd.errors.EmptyDataError as error:
        raise InputError(f"{path} is empty.") from error
    except TooLarge as error:
        raise InputError(f"{path} {error}.") from error
    except (pd.errors.ParserError, ValueError) as error:
        raise InputError(f"{path} is no CSV table ({one_line(error)}).") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"{path} can't be read ({reason}).") from error


def _next(frames: Any, count: int) -> Any:
    """Read the next rows, or None; raises pandas's warning that fields would be lost."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return frames.get_chunk(count)
        except StopIteration:
            return None


def _open(path: Path) -> IO[bytes]:
    """Open the table's bytes, unpacked, as far as they may go.

    Raises:
        InputError: if an archive holds more than one table.
    """
    if path.suffix.lower() != ".zip":
        return open_bounded(path)
    archive = zipfile.ZipFile(path)
    infos = [i for i in archive.infolist() if i.filename.lower().endswith(FORMAT.suffixes)]
    if len(infos) != 1:
        raise InputError(f"{path} holds {len(infos)} CSV files instead of one.")
    limit = limits.unpacked_limit(infos[0].compress_size, limits.MAX_TOTAL_BYTES)
    return io.BufferedReader(Bounded(archive.open(infos[0]), limit))


class _Paced(io.RawIOBase):
    """A stream of rows of bounded length."""

    def __init__(self, stream: IO[bytes], separator: str) -> None:
        self._stream, self._separator = stream, separator.encode()
        self.total = 1
        """Bytes read so far; one before that, so that it can divide."""
        self.start()

    def start(self) -> None:
        """Begin with the next rows."""
        self._bytes = self._fields = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._bytes += len(data)
        self.total += len(data)
        self._fields += data.count(self._separator)
        if self._bytes > _MAX_ROWS_BYTES or self._fields > _MAX_ROWS_FIELDS:
            size = _MAX_ROWS_BYTES / 1e6
            raise TooLarge(
                f"has {_ROWS[0]} rows of more than {size:.0f} MB or {_MAX_ROWS_FIELDS:,} fields "
                "together; refused"
            )
        buffer[: len(data)] = data
        return len(data)


def _dialect(path: Path, head: bytes, columns: Columns) -> _Dialect:
    """Find the separator and encoding, by the first bytes of a table."""
    encoding = encoding_of(head) or "utf-8-sig"
    encoding = "utf-8-sig" if encoding == "utf-8" else encoding
    text = head.decode(encoding, errors="replace").removeprefix("\ufeff").lstrip("\r\n")
    stated = re.match(r'"?sep=([,;\t])"?\r?\n', text)  # as Excel writes it
    if stated:
        return _Dialect(stated[1], encoding, 1)
    wanted = {columns.structure.strip().lower()} if columns.structure else {*STRUCTURE_KEYS}
    default = "\t" if ".tsv" in path.name.lower() else ","

    headers = {separator: _header(text, separator) for separator in _SEPARATORS}

    def merit(separator: str) -> tuple[bool, int, bool]:
        names = headers[separator] or []
        found = not wanted.isdisjoint(name.strip().lower() for name in names)
        return found, len(names), separator == default

    chosen = max(_SEPARATORS, key=merit)
    names = headers[chosen]
    if (names is None and len(head) == _HEAD) or len(names or []) > _MAX_COLUMNS:
        raise TooLarge(f"has a header of more than {_HEAD:,} bytes or {_MAX_COLUMNS:,} columns")
    return _Dialect(chosen, encoding)


def _header(text: str, separator: str) -> list[str] | None:
    """Find the names of columns; None if the text ends before the header does."""
    lines = lines_of(text)
    try:
        names = next(csv.reader(lines, delimiter=separator, skipinitialspace=True))
    except (csv.Error, StopIteration):
        return None
    return names if next(lines, None) is not None else None


def _rows(frame: Any, path: Path, columns: Columns, first: int) -> Iterator[Entry]:
    names = [str(c).strip() for c in frame.columns]
    frame.columns = names
    structure = _column(names, columns.structure, STRUCTURE_KEYS)
    if structure is None:
        shown = printable(" ".join(", ".join(names[:8]).split())[:200])
        wanted = columns.structure or STRUCTURE_KEYS[0]
        hint = "" if columns.structure else "; --cif-column names another"
        raise InputError(f"{path} has no column named {wanted} (its columns: {shown}){hint}.")
    id_column = _column(names, columns.id, ID_KEYS)
    if columns.id is not None and id_column is None:
        raise InputError(f"{path} has no column named {columns.id}.")
    properties = {
        c: values
        for k, c in enumerate(names)
        if c not in (structure, id_column) and not c.startswith("Unnamed:")
        if (values := _property(frame.iloc[:, k].tolist())) is not None
    }
    texts = frame.iloc[:, names.index(structure)].tolist()
    ids = [""] * len(texts)
    if id_column is not None:
        ids = [_readable(n) for n in frame.iloc[:, names.index(id_column)]]
    is_cif = "cif" in structure.lower()
    for k, (text, name) in enumerate(zip(texts, ids, strict=True)):
        label = f"{path.name} row {first + k + 1}" + (f" ({shorten(name, 80)})" if name else "")
        found = {c: values[k] for c, values in properties.items()}
        entry_id = name or str(first + k)
        if is_cif and text.lstrip()[:1] not in ("{", "["):
            yield Entry(label, "cif", entry_id, text, properties=found)
        else:
            job = partial(_parse_cell, text, label)
            yield Entry(label, "", entry_id, job=job, properties=found)


def _parse_cell(text: str, label: str, max_atoms: int | None = None) -> list[Parsed | Failure]:
    text = decode_cell(text)
    reason = why_no_text(text)
    if reason is not None:
        return [Failure(label, reason)]
    return parse_record(text, label, None, None, max_atoms)


def _column(names: list[str], wanted: str | None, usual: tuple[str, ...]) -> str | None:
    """Find the column of a name, or the first of those usual, in any case; None without one."""
    folded = {name.lower(): name for name in reversed(names)}
    for key in usual if wanted is None else (wanted.strip(),):
        if key in names:
            return key
        if key.lower() in folded:
            return folded[key.lower()]
    return None


def _property(texts: list[str]) -> list[Any] | None:
    """Convert a column to numbers (None where empty) if all are, else to text; None if too long."""
    if max(map(len, texts)) > MAX_PROPERTY_TEXT:
        return None
    try:
        return [_number(text) if text else None for text in texts]
    except ValueError:
        return [_readable(text) for text in texts]


def _number(text: str) -> float:
    """Parse a number: whole if it is written so, else a decimal.

    Raises:
        ValueError: if it is neither; 1_000 and nan are text.
    """
    if "_" in text:
        raise ValueError
    value = float(text)
    if value != value:
        raise ValueError
    digits = text.strip().lstrip("+-")
    return int(text) if digits.isdigit() and len(digits) < 19 else value


def _readable(text: str) -> str:
    try:
        return printable(decode_cell(text))
    except ValueError:
        return printable(text)


_NAMES = (".csv", ".tsv")

FORMAT = Format(
    name="table",
    title="CSV",
    suffixes=_NAMES,
    open=open_table,
    note="with a column of CIFs or JSON",
)
