"""Energies above the hull from a table beside the structures, such as that of `stability`."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from crysmetrics.errors import UserError
from crysmetrics.io.crystals import Crystals
from crysmetrics.io.csv_files import unquoted
from crysmetrics.io.formats import without_suffix
from crysmetrics.io.parsed import one_line

ENERGY = "e_above_hull"
"""Name of the column and of the property: eV/atom above the convex hull."""
BESIDE = ("hull_energy", "competing_phases", "hull_error", "relaxation_rmsd")
"""Further columns that `crysmetrics stability` writes, read where they are there."""
_NAMES = ("id", "file")


def with_energies(crystals: Crystals, path: str | os.PathLike[str]) -> Crystals:
    """Give crystals the energies above the hull (eV/atom) of a CSV file, as properties.

    Args:
        crystals: B structures.
        path: a table with a column `id` or `file`, the names of structures, and `e_above_hull`; and
            maybe those of `BESIDE`. Cells without a number, and structures without a row, have NaN.

    Raises:
        UserError: if the table can't be read, lacks a column, names a structure twice, or names
            none of the crystals.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror or error}).") from error
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{path} is no table that can be read ({one_line(error)}).") from error
    names = next((name for name in _NAMES if name in table), None)
    if names is None or ENERGY not in table:
        raise UserError(f"{path} needs a column id or file, and a column {ENERGY}.")
    found: dict[str, int] = {}
    for row, name in enumerate(map(unquoted, table[names])):
        if name in found:
            raise UserError(f"{path} has two rows for {name!r}.")
        found[name] = row
    # Ids of folders are names of files without what they end in.
    for name in list(found):
        found.setdefault(without_suffix(name), found[name])
    if found.keys().isdisjoint(crystals.ids):
        raise UserError(
            f"{path} names none of the structures ({table[names].iloc[0]!r} and the like are none "
            f"of {crystals.ids[0]!r} and the like)."
            if len(table) and len(crystals)
            else f"{path} names none of the structures."
        )
    rows = np.array([found.get(name, len(table)) for name in crystals.ids], dtype=np.int64)
    more = {}
    for column in (ENERGY, *(name for name in BESIDE if name in table)):
        values = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64)
        values = np.append(values, np.nan)[rows]
        more[column] = np.where(np.isfinite(values), values, np.nan)
    # None of what stood there before belongs to these energies.
    kept = {k: v for k, v in crystals.properties.items() if k not in BESIDE}
    return replace(crystals, properties={**kept, **more})
