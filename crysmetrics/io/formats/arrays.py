"""Structures in flat arrays, as generative models save them.

CDVAE, DiffCSP and their descendants keep `frac_coords`, `atom_types`, `num_atoms`, `lengths` and
`angles` of all structures one after another, often with a leading dimension: one for each time
that the set was generated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io.cif_orbits import refuse_large
from crysmetrics.io.entries import Entry
from crysmetrics.io.lattice import lattice_from_parameters
from crysmetrics.io.parsed import Parsed

KEYS = ("frac_coords", "atom_types", "num_atoms")
"""Arrays that such a set has, beside `lengths` and `angles` or one of `LATTICE_KEYS`."""
LATTICE_KEYS = ("lattices", "lattice", "cells", "cell")
"""Names under which (B, 3, 3) lattices are found, where there are any; rows in Å."""
_LARGEST = 10**12
"""Largest number of atoms that is looked at."""


class _Set(NamedTuple):
    """One evaluation: N atoms in B structures."""

    frac_coords: NDArray[np.float64]
    """(N, 3)"""
    atom_types: NDArray[np.int64]
    """(N,)"""
    num_atoms: NDArray[np.int64]
    """(B,)"""
    cells: NDArray[np.float64]
    """(B, 6) lengths in Å and angles in degrees, or (B, 3, 3) rows in Å."""


def has_arrays(data: Mapping[str, Any]) -> bool:
    """Tell whether a mapping holds such arrays."""
    return all(key in data for key in KEYS) and (
        ("lengths" in data and "angles" in data) or any(key in data for key in LATTICE_KEYS)
    )


def array_entries(data: Mapping[str, Any], source: str, stem: str = "") -> Iterator[Entry]:
    """Read entries of a set's structures; ids are their positions, after that of the evaluation.

    Args:
        data: `frac_coords` ([E,] N, 3), `atom_types` ([E,] N) or ([E,] N, K) with a score for
            each of the elements 1 to K, `num_atoms` ([E,] B), and `lengths` (Å) and `angles`
            (degrees), each ([E,] B, 3), or `lattices` ([E,] B, 3, 3).
        source: for failures.
        stem: goes before ids.

    Raises:
        ValueError: with the reason, if the arrays do not fit together.
    """
    sets = _evaluations(data)
    for e, one in enumerate(sets):
        prefix = stem if len(sets) == 1 else f"{stem}{e}/"
        ends = np.cumsum(one.num_atoms)
        for k, (start, end) in enumerate(zip(ends - one.num_atoms, ends, strict=True)):
            what = f"structure {k}" if len(sets) == 1 else f"evaluation {e} structure {k}"
            name = source if len(sets) == 1 and len(ends) == 1 else f"{source} {what}"
            atoms = slice(int(start), int(end))
            job = partial(
                _structure, one.atom_types[atoms], one.frac_coords[atoms], one.cells[k], name
            )
            yield Entry(name, "", f"{prefix}{k}", job=job)


def _structure(
    numbers: NDArray[np.int64],
    frac_coords: NDArray[np.float64],
    cell: NDArray[np.float64],
    source: str,
    max_atoms: int | None = None,
) -> list[Parsed]:
    refuse_large(len(numbers), max_atoms)
    lattice = cell if cell.ndim == 2 else lattice_from_parameters(*cell.tolist())
    return [Parsed(None, numbers, frac_coords, lattice, source)]


def _evaluations(data: Mapping[str, Any]) -> list[_Set]:
    row: tuple[int, ...]
    counts = _array(data, "num_atoms")
    if counts.ndim > 2:
        raise ValueError(f"has num_atoms of shape {counts.shape}, not (structures,)")
    frac = _array(data, "frac_coords")
    types = _array(data, "atom_types")
    key = next((k for k in LATTICE_KEYS if k in data), None)
    if "lengths" in data and "angles" in data:
        lengths, angles = _array(data, "lengths"), _array(data, "angles")
        if lengths.shape != angles.shape or lengths.shape[-1:] != (3,):
            raise ValueError(
                f"has lengths of shape {lengths.shape} and angles of shape {angles.shape}"
            )
        cells, row = np.concatenate([lengths, angles], axis=-1), (6,)
    else:
        cells = _array(data, key or LATTICE_KEYS[0])
        if cells.shape[-2:] != (3, 3):
            raise ValueError(f"has {key} of shape {cells.shape}, not (structures, 3, 3)")
        row = (3, 3)
    if frac.ndim not in (2, 3) or frac.shape[-1] != 3:
        raise ValueError(f"has frac_coords of shape {frac.shape}, not (atoms, 3)")
    if frac.ndim == 2:  # one evaluation
        counts, frac, types = counts.reshape(1, -1), frac[None], types[None]
        cells = cells.reshape(1, -1, *row)
    if types.ndim == 3:  # a score for each element
        types = types.argmax(axis=-1) + 1
    total = counts.sum(axis=-1) if counts.ndim == 2 else np.zeros(0)
    if (
        not (len(counts) == len(frac) == len(types) == len(cells))
        or types.shape != frac.shape[:2]
        or counts.shape != cells.shape[:2]
        or (counts < 0).any()
        or not (total == frac.shape[1]).all()
    ):
        shapes = ", ".join(f"{k} {_array(data, k).shape}" for k in KEYS)
        raise ValueError(f"holds arrays that do not fit together ({shapes}, cells {cells.shape})")
    types, counts = _whole(types, "atom_types"), _whole(counts, "num_atoms")
    return [_Set(*one) for one in zip(frac, types, counts, cells, strict=True)]


def _whole(values: NDArray[Any], key: str) -> NDArray[np.int64]:
    if (np.abs(values) > _LARGEST).any() or (values != np.round(values)).any():
        raise ValueError(f"has {key} that are not all whole numbers, or too large")
    return values.astype(np.int64)


def _array(data: Mapping[str, Any], key: str) -> NDArray[Any]:
    """Convert the numbers of a field to float64, which holds every count and atomic number exactly.

    Raises:
        ValueError: if it holds no numbers.
    """
    try:
        found = np.asarray(data[key], dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"has {key} that are no array of numbers") from error
    if key in ("num_atoms", "atom_types") and not (np.isfinite(found).all()):
        raise ValueError(f"has {key} that are not all numbers")
    return found
