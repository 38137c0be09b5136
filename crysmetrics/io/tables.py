"""Tables: a CSV with a `cif` column, as CDVAE, DiffCSP and the MPTS-52 authors publish them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from crysmetrics.errors import InputError
from crysmetrics.io import sources
from crysmetrics.io.formats import ID_KEYS, MAX_PROPERTY_TEXT
from crysmetrics.io.parsed import one_line, printable
from crysmetrics.io.sources import Entry

_ROWS = 1000


def table_entries(path: Path, id_column: str | None = None) -> Iterator[Entry]:
    """Entries of a CSV with a `cif` column, row by row; other columns become properties.

    Args:
        path: `.csv`, compressed or not.
        id_column: by default the first of `material_id`, `id`, ... that the table has;
            without any, rows are numbered from 0.

    Raises:
        InputError: if the table can't be parsed, or lacks a column.
    """
    import pandas as pd

    row = 0
    try:
        with (
            _open(path) as file,
            # Text first: an id 0012 stays 0012, and the formula NaN stays a formula.
            pd.read_csv(
                file,
                dtype=str,
                keep_default_na=False,
                chunksize=_ROWS,
                encoding="utf-8-sig",
                encoding_errors="surrogateescape",  # one bad row is that row's failure
            ) as frames,
        ):
            for frame in frames:
                if not isinstance(frame.index, pd.RangeIndex):
                    # pandas takes the first column for row labels then, and shifts all names.
                    raise InputError(f"{path} has rows with more fields than its header.")
                yield from _rows(frame.fillna(""), path, id_column, row)
                row += len(frame)
    except pd.errors.EmptyDataError as error:
        raise InputError(f"{path} is empty.") from error
    except (pd.errors.ParserError, ValueError) as error:
        raise InputError(f"{path} is no CSV table ({one_line(error)}).") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"{path} can't be read ({reason}).") from error


def _open(path: Path) -> IO[bytes]:
    """The table's bytes, unpacked, as far as they may go.

    Raises:
        InputError: when more is read than a compressed file may unpack to.
    """
    raw: Any
    match path.suffix.lower():
        case ".gz":
            raw = gzip.open(path)  # noqa: SIM115 - closed by the caller, here as below
        case ".bz2":
            raw = bz2.open(path)  # noqa: SIM115
        case ".xz":
            raw = lzma.open(path)  # noqa: SIM115
        case ".zip":
            archive = zipfile.ZipFile(path)
            names = [name for name in archive.namelist() if name.lower().endswith(".csv")]
            if len(names) != 1:
                raise InputError(f"{path} holds {len(names)} CSV files instead of one.")
            raw = archive.open(names[0])
        case _:
            return path.open("rb")
    return io.BufferedReader(_Limited(path, raw))


class _Limited(io.RawIOBase):
    def __init__(self, path: Path, raw: IO[bytes]) -> None:
        self.path, self.raw, self.left = path, raw, sources.MAX_TOTAL_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.raw.read(len(buffer))
        self.left -= len(data)
        if self.left < 0:
            limit = sources.MAX_TOTAL_BYTES / 1e9
            raise InputError(f"{self.path} unpacks to more than {limit:.3g} GB; refused.")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.raw.close()
        super().close()


def _rows(frame: Any, path: Path, id_column: str | None, first: int) -> Iterator[Entry]:
    columns = [str(c) for c in frame.columns]
    frame.columns = columns
    cif_column = next((c for c in columns if c.lower() == "cif"), None)
    if cif_column is None:
        shown = printable(" ".join(", ".join(columns[:8]).split())[:200])
        raise InputError(f"{path} has no column named cif (its columns: {shown}).")
    if id_column is not None and id_column not in columns:
        raise InputError(f"{path} has no column named {id_column}.")
    name_column = id_column or next((k for k in ID_KEYS if k in columns), None)
    properties = {
        c: values
        for c in columns
        if c not in (cif_column, name_column) and not c.startswith("Unnamed:")
        if (values := _property(frame[c])) is not None
    }
    cifs = frame[cif_column].tolist()
    names = [printable(n) for n in frame[name_column]] if name_column else [""] * len(cifs)
    for k, (text, name) in enumerate(zip(cifs, names, strict=True)):
        label = f"{path.name} row {first + k + 1}" + (f" ({name})" if name else "")
        found = {c: values[k] for c, values in properties.items()}
        yield Entry(label, "cif", name or str(first + k), text, properties=found)


def _property(column: Any) -> list[Any] | None:
    """The column as numbers (None where empty) if all of it is, else as text; None if too long."""
    import pandas as pd

    if int(column.str.len().max()) > MAX_PROPERTY_TEXT:
        return None
    numbers = pd.to_numeric(column.where(column != ""), errors="coerce")
    if (numbers.isna() & (column != "")).any():
        return [printable(text) for text in column]
    return [None if pd.isna(v) else v for v in numbers.tolist()]
