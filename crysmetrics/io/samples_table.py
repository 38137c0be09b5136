"""Read `samples.csv`, which says of generated structures how each was made, and for what."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crysmetrics.errors import UserError
from crysmetrics.io.archives import TAR_SUFFIXES
from crysmetrics.io.csv_files import unquoted
from crysmetrics.io.limits import MAX_FILE_BYTES
from crysmetrics.io.parsed import one_line
from crysmetrics.io.sources import SAMPLES_TABLE, has_suffix
from crysmetrics.io.unpacking import read_at_most as read_bytes

STEPS = "steps"
"""Column of the sampling steps that a structure took."""


def read_samples_table(path: str | os.PathLike[str]) -> dict[str, list[str]] | None:
    """Read the columns, as texts, of the `samples.csv` in a folder, zip or tar; None without one.

    Raises:
        UserError: if there is one that can't be read.
    """
    import pandas as pd

    path = Path(path)
    where = path / SAMPLES_TABLE
    try:
        data = _bytes_of(path)
        if data is None:
            return None
        table = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError:
        raise UserError(f"{where} is empty.") from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"{where} is no table that can be read ({one_line(error)}).") from error
    except (tarfile.TarError, zipfile.BadZipFile):
        return None  # whoever reads the structures has said so
    return {str(name): list(map(unquoted, table[name])) for name in table}


def steps_per_sample(path: str | os.PathLike[str]) -> float | None:
    """Average the sampling steps that `samples.csv` states for its structures; None without any.

    Raises:
        UserError: if there is a table that can't be read, or whose steps are no numbers.
    """
    texts = (read_samples_table(path) or {}).get(STEPS, [])
    try:
        steps = np.array([float(text) for text in texts])
    except ValueError:
        steps = np.array([np.nan])
    if not (steps >= 0).all() or not np.isfinite(steps).all():
        raise UserError(f"{Path(path, SAMPLES_TABLE)} has steps that are no numbers.")
    return float(steps.mean()) if steps.any() else None


def _bytes_of(path: Path) -> bytes | None:
    if path.is_dir():
        if not (path / SAMPLES_TABLE).is_file():
            return None
        with (path / SAMPLES_TABLE).open("rb") as file:
            return read_bytes(file, MAX_FILE_BYTES)
    if has_suffix(path, (".zip",)):
        with zipfile.ZipFile(path) as archive:
            name = _outermost(archive.namelist())
            if name is None:
                return None
            with archive.open(name) as member:
                return read_bytes(member, MAX_FILE_BYTES)
    if has_suffix(path, TAR_SUFFIXES):
        with tarfile.open(path) as archive:
            name = _outermost([m.name for m in archive if m.isfile()])
            opened = None if name is None else archive.extractfile(name)
            return None if opened is None else read_bytes(opened, MAX_FILE_BYTES)
    return None


def _outermost(names: Sequence[str]) -> str | None:
    found = [name for name in names if name.rpartition("/")[2] == SAMPLES_TABLE]
    return min(found, key=lambda name: (name.count("/"), name), default=None)
