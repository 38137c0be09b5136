"""Make the shipped library: `python -m crysgen.retrieval.library.build --data DIR -o FILE`.

Only rows marked `train` enter, so that whatever is measured on `val` and `test` was never seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.library.anonymous import Counts
from crysgen.retrieval.library.entries import Entries, pack, save_entries
from crysgen.retrieval.library.hull_estimates import estimated_above_hull
from crysgen.retrieval.library.prototypes import (
    PrimitiveCrystal,
    primitive_crystal,
    sort_into_prototypes,
)
from crysmetrics.errors import UserError
from crysmetrics.io import Crystals, read
from crysmetrics.progress import show_progress, task

MAX_ATOMS = 20
"""Number of atoms of a primitive cell beyond which crystals are left out."""
MAX_ABOVE_HULL = 0.5
"""Distance above the hull in eV/atom, where known, beyond which calculations have failed."""
LEAST_DISTANCE = 0.55
"""Shortest distance in Å below which atoms lie on top of each other."""
LARGEST_VOLUME = 150.0
"""Volume an atom in Å³ beyond which molecules lie in a box."""

_CC = "CC BY 4.0"
_MP, _OQMD = ("Materials Project", _CC), ("OQMD", _CC)
_ALEXANDRIA, _JARVIS = ("Alexandria", _CC), ("JARVIS", "public domain (NIST)")
TABLES = {
    "mp20_val": ("mp20/val.csv.gz", _MP),
    "mp20_extra": ("mp20/extra.csv.gz", _MP),
    "mp": ("cif_folders/mp.zip", _MP),
    "mpts52_val": ("mpts52/val.csv.gz", _MP),
    "mpts52_test": ("mpts52/test.csv.gz", _MP),
    "jarvis": ("cif_folders/jarvis.zip", _JARVIS),
    "oqmd": ("cif_folders/oqmd.zip", _OQMD),
    "alexandria": ("cif_folders/alexandria.zip", _ALEXANDRIA),
}
"""Files by name of source, the ones whose crystals shall represent prototypes first."""
SOURCES = (_MP, _JARVIS, _OQMD, _ALEXANDRIA)
"""Databases and their licences, in the order of the index of entries."""
_ENERGY = "formation_energy_per_atom"
_HULL = ("e_above_hull", "energy_above_hull")


def train_rows(data: Path) -> tuple[Crystals, NDArray[np.uint8], NDArray[np.float64]]:
    """Read the crystals marked `train` with at most 20 atoms, their databases and e_above_hull.

    Args:
        data: the folder with `splits.csv.gz`.

    Raises:
        UserError: if it has none.
    """
    import pandas as pd

    splits = data / "splits.csv.gz"
    if not splits.is_file():
        raise UserError(f"{data} is not the data folder: it has no {splits.name}.")
    table = pd.read_csv(splits, dtype={"id": str}, keep_default_na=False)
    table = table[(table.split == "train") & (table.num_atoms <= MAX_ATOMS)]
    parts, sources, hulls = [], [], []
    for name, (file, database) in TABLES.items():
        rows = table[table.source == name]
        in_zip = file.endswith(".zip")
        keys = rows.cif_file.map(lambda f: Path(f).stem) if in_zip else rows.id
        names = dict(zip(keys, rows.id, strict=True))
        crystals = read(data / file)
        chosen = crystals[[i for i, key in enumerate(crystals.ids) if key in names]]
        hull = np.full(len(chosen), np.nan)
        for column in _HULL:
            if column in chosen.properties:
                hull = np.asarray(chosen.properties[column], dtype=float)
        parts.append(replace(chosen.with_ids([names[key] for key in chosen.ids]), properties={}))
        sources.append(np.full(len(chosen), SOURCES.index(database), dtype=np.uint8))
        hulls.append(hull)
    # An id may stand in two tables; the first one counts.
    ids = [i for part in parts for i in part.ids]
    first = {name: k for k, name in reversed(list(enumerate(ids)))}
    keep = np.array(sorted(first.values()))
    whole = _concatenated(parts, keep)
    return whole, np.concatenate(sources)[keep], np.concatenate(hulls)[keep]


def formation_energies(data: Path) -> dict[str, float]:
    """Read formation energies in eV/atom by id, of the rows that have one."""
    import pandas as pd

    found: dict[str, float] = {}
    for file, _ in TABLES.values():
        if file.endswith(".csv.gz"):
            columns = ["material_id", _ENERGY]
            table = pd.read_csv(data / file, usecols=columns, dtype={"material_id": str})
            found |= dict(zip(table.material_id, table[_ENERGY], strict=True))
    return found


def _concatenated(parts: list[Crystals], keep: NDArray[np.int64]) -> Crystals:
    named = [p.with_ids([f"{k}:{i}" for i in p.ids]) for k, p in enumerate(parts)]
    chosen = Crystals.concatenate(named)[keep]
    return chosen.with_ids([i.partition(":")[2] for i in chosen.ids])


def build(data: Path) -> Entries:
    """Make the library of a data folder, sorted into prototypes."""
    from crysmetrics.geometry import min_distances

    crystals, source, hull = train_rows(data)
    volumes = crystals.volumes / crystals.num_atoms
    good = (
        (min_distances(crystals) > LEAST_DISTANCE)
        & (volumes < LARGEST_VOLUME)
        & ~(hull > MAX_ABOVE_HULL)
    )
    chosen = np.flatnonzero(good)
    cells: list[PrimitiveCrystal] = []
    with task("primitive cells", len(chosen)) as advance:
        for i in chosen:
            cells.append(primitive_crystal(crystals[int(i)]))
            advance(1)
    # Together by anonymous counts; in a group those first whose positions are most reliable and
    # most symmetric, so that they become representatives.
    order = sorted(
        range(len(chosen)),
        key=lambda k: (cells[k].counts, k_rank(int(source[chosen[k]])), -cells[k].space_group, k),
    )
    index = chosen[order]
    entries = pack(
        [crystals.ids[i] for i in index],
        [cells[k] for k in order],
        source[index],
        SOURCES,
        hull[index],
    )
    estimate = estimated_above_hull(entries, formation_energies(data))
    entries = replace(entries, hull_estimate=estimate.astype(np.float16))
    return sorted_entries(entries)


def k_rank(source: int) -> int:
    """Rank sources: the Materials Project before the rest."""
    return min(source, 1)


def sorted_entries(entries: Entries) -> Entries:
    """Sort entries into prototypes."""
    representatives: list[int] = []
    entry: list[int] = []
    representative: list[int] = []
    permutation: list[int] = []
    with task("prototypes", len(entries)) as advance:
        for counts, members in entries.by_counts.items():
            found, matches = sort_into(entries, counts, members)
            entry += members[matches.entry].tolist()
            representative += [len(representatives) + i for i in matches.representative]
            permutation += matches.permutation
            representatives += members[found].tolist()
            advance(len(members))
    order = np.argsort(entry, kind="stable")
    return replace(
        entries,
        representatives=np.array(representatives, dtype=np.int32),
        match_entry=np.array(entry, dtype=np.int32)[order],
        match_representative=np.array(representative, dtype=np.int32)[order],
        match_permutation=np.array(permutation, dtype=np.uint8)[order],
        sorted_entries=len(entries),
    )


def sort_into(entries: Entries, counts: Counts, members: NDArray[np.int64]) -> Any:
    """Sort the entries of one anonymous formula into prototypes."""
    return sort_into_prototypes(entries.niggli_cells(members), counts)


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Make the library of known structures.")
    parser.add_argument("--data", type=Path, required=True, help="folder with splits.csv.gz")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args(given)
    with show_progress():
        entries = build(arguments.data)
    save_entries(entries, arguments.output)
    print(f"{len(entries)} crystals, {len(entries.representatives)} prototypes: {arguments.output}")


if __name__ == "__main__":
    main()
