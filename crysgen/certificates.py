"""What is certain of a structure that was made, checked on the structure as it is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crysgen.compositions.formulas import Formula
from crysgen.retrieval.library.names import known_entries
from crysmetrics.io import Crystals

if TYPE_CHECKING:
    import pandas as pd

    from crysgen.retrieval.library.entries import Entries

TIGHT, LOOSE = 0.001, 0.1
"""Å within which space groups are found."""


def certificate_columns(crystals: Crystals) -> dict[str, Any]:
    """Find space groups within 0.001 and 0.1 Å, and the nearest known structures, of B crystals."""
    from crysmetrics.symmetry import space_groups

    known = [nearest_known(crystal) for crystal in crystals]
    return {
        "space_group_tight": space_groups(crystals, TIGHT),
        "space_group_loose": space_groups(crystals, LOOSE),
        "nearest_known": [name for name, _ in known],
        "nearest_known_distance": np.array([distance for _, distance in known]).round(4),
    }


def nearest_known(crystal: Crystals) -> tuple[str, float]:
    """Find the known structure of a crystal's formula whose geometry is nearest.

    Where none has the formula, those of the same anonymous formula and space group are compared.
    All are taken at the volume of the crystal.

    Returns:
        Its id, and the largest difference in Å between average minimum distances (AMD); "" and NaN
        without such a structure.
    """
    entries = known_entries()
    counts = Formula.of_atoms(crystal.atomic_numbers).reduced.counts
    chosen = entries.of_formula(counts)
    if not chosen:
        chosen = _of_type(crystal, entries)
    if not chosen:
        return "", float("nan")
    length = float((crystal.volumes[0] / len(crystal.atomic_numbers)) ** (1 / 3))
    own = _amds(crystal)[0]
    others = np.stack([_amd_of_entry(i) for i in chosen])
    distances = np.abs(others - own).max(axis=1) * length
    best = int(np.nanargmin(distances)) if np.isfinite(distances).any() else 0
    return entries.ids[chosen[best]], float(distances[best])


def comments(row: Mapping[str, Any]) -> str:
    """Write the certificate of a structure as comment lines of its CIF.

    Args:
        row: of `samples.csv`.
    """
    from crysmetrics.space_group_settings import short_symbol

    found = [int(row["space_group_tight"]), int(row["space_group_loose"])]
    named = [f"{number} ({short_symbol(number)})" for number in found]
    lines = [
        "Checked on this structure as it stands:",
        f"composition {row['formula']}, {int(row['num_atoms'])} atoms in the cell",
        f"space group {named[0]} within {TIGHT} angstrom, {named[1]} within {LOOSE} angstrom",
        f"shortest distance {row['min_distance']:.4f} angstrom",
    ]
    if row["nearest_known"]:
        lines.append(
            f"nearest known structure {row['nearest_known']}, at "
            f"{row['nearest_known_distance']:.4f} angstrom between average minimum distances"
        )
    else:
        lines.append("no known structure of this formula, or of its type and space group")
    return "".join(f"# {line}\n" for line in lines)


def with_comments(
    files: Iterable[tuple[str, str]], table: pd.DataFrame
) -> Iterator[tuple[str, str]]:
    """Yield (file name, CIF text) of each structure, its certificate before the data."""
    for (name, text), row in zip(files, table.to_dict("records"), strict=True):
        yield name, comments({str(key): value for key, value in row.items()}) + text


def _of_type(crystal: Crystals, entries: Entries) -> list[int]:
    """List the entries of a crystal's anonymous formula and space group."""
    from crysmetrics.symmetry import space_groups

    number = int(space_groups(crystal, LOOSE)[0])
    counts = tuple(sorted(Formula.of_atoms(crystal.atomic_numbers).reduced.amounts))
    found: list[int] = []
    for own, members in entries.by_counts.items():
        if len(own) == len(counts) and _same_ratios(own, counts):
            found += members[entries.space_groups[members] == number].tolist()
    return found


def _same_ratios(one: Sequence[int], other: Sequence[int]) -> bool:
    ordered = sorted(one)
    return all(a * other[0] == ordered[0] * b for a, b in zip(ordered, other, strict=True))


@lru_cache(maxsize=100_000)
def _amd_of_entry(i: int) -> NDArray[np.float64]:
    entries = known_entries()
    numbers = np.repeat(entries.species(i), entries.counts(i))
    lattice = entries.lattices[i].astype(np.float64)
    crystal = Crystals(
        numbers, entries.frac(i), lattice[None], np.array([len(numbers)]), (entries.ids[i],)
    )
    found: NDArray[np.float64] = _amds(crystal)[0]
    return found


def _amds(crystals: Crystals) -> NDArray[np.float64]:
    """Compute average minimum distances (B, 100), divided by (V/N)^(1/3)."""
    from crysmetrics.features.amd import extractor
    from crysmetrics.features.extractor import Run

    values, _ = extractor("amd", Run(workers=1)).compute(crystals, 1)
    length = (crystals.volumes / crystals.num_atoms) ** (1 / 3)
    scaled: NDArray[np.float64] = values / length[:, None]
    return scaled
