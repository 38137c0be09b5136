"""Make the shipped library: `python -m crysgen.retrieval.library.build --data DIR -o FILE`.

First come rows marked `train`, which benchmarks and training use: whatever is measured on `val` and
`test` was never seen. Behind them comes all else that is known, for users alone: rows of `val` and
`test`, cells of more than 20 atoms, and structures that everybody knows (`named_structures`).
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
from crysgen.retrieval.library.entries import Entries, load_entries, pack, save_entries
from crysgen.retrieval.library.hull_estimates import estimated_above_hull
from crysgen.retrieval.library.named_structures import (
    AFLOW,
    ASE,
    aflow_prototypes,
    element_structures,
)
from crysgen.retrieval.library.prototypes import (
    PrimitiveCrystal,
    niggli_cells,
    primitive_crystal,
    sort_into_prototypes,
)
from crysmetrics.errors import UserError
from crysmetrics.io import Crystals, read
from crysmetrics.io.builder import from_pymatgen
from crysmetrics.parallel import in_processes
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
    "mp20_test": ("mp20/test.csv.gz", _MP),
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


Rows = tuple[Crystals, NDArray[np.uint8], NDArray[np.float64]]
"""Crystals, their databases as indices into `SOURCES`, and their e_above_hull in eV/atom."""


def train_rows(data: Path) -> Rows:
    """Read the crystals marked `train` with at most 20 atoms; see `read_rows`."""
    return read_rows(data, ("train",), MAX_ATOMS)


def read_rows(data: Path, splits: Sequence[str], most_atoms: int | None = None) -> Rows:
    """Read the crystals of some splits, their databases and e_above_hull.

    Args:
        data: the folder with `splits.csv.gz`.
        splits: `train`, `val`, `test`.
        most_atoms: of a cell; None for any number.

    Raises:
        UserError: if it has none.
    """
    import pandas as pd

    index = data / "splits.csv.gz"
    if not index.is_file():
        raise UserError(f"{data} is not the data folder: it has no {index.name}.")
    table = pd.read_csv(index, dtype={"id": str}, keep_default_na=False)
    table = table[table.split.isin(splits)]
    if most_atoms is not None:
        table = table[table.num_atoms <= most_atoms]
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
    return extended(build_benchmark(data), data)


def build_benchmark(data: Path) -> Entries:
    """Make the part of the library that benchmarks may see, sorted into prototypes."""
    crystals, source, hull = train_rows(data)
    entries = packed(crystals, source, hull, SOURCES)
    estimate = estimated_above_hull(entries, formation_energies(data))
    entries = replace(entries, hull_estimate=estimate.astype(np.float16))
    return sorted_entries(entries)


def extended(benchmark: Entries, data: Path, workers: int | None = None) -> Entries:
    """Put all that is known behind the entries that benchmarks may see.

    Args:
        benchmark: sorted into prototypes; these entries and matches stay as they are.
        data: the folder with `splits.csv.gz`.
        workers: processes.
    """
    crystals, source, hull = read_rows(data, ("train", "val", "test"))
    # What is too far above the hull, or no crystal, has been left out of the benchmark's part.
    new = [i for i, name in enumerate(crystals.ids) if name not in benchmark.position]
    named, kinds, names = named_crystals()
    whole = Crystals.concatenate([replace(crystals[new], properties={}), named])
    entries = packed(
        whole,
        np.concatenate([source[new], kinds]),
        np.concatenate([hull[new], np.where(kinds == len(SOURCES) + 1, 0.0, np.nan)]),
        (*SOURCES, AFLOW, ASE),
    )
    together = benchmark.joined(entries)
    # Crystals of other databases are no more than templates; these are answers.
    count, prototypes = len(benchmark), np.flatnonzero(together.source == len(SOURCES))
    estimate = estimated_above_hull(together, formation_energies(data), prototypes)
    estimate[:count] = benchmark.hull_estimate
    together = replace(
        together, hull_estimate=estimate.astype(np.float16), num_benchmark=count, names=names
    )
    return sort_rest(together, workers)


def named_crystals() -> tuple[Crystals, NDArray[np.uint8], dict[str, str]]:
    """Collect the structures that everybody knows.

    Returns:
        Crystals; their source, counted on behind `SOURCES`; and names of prototypes by id.
    """
    prototypes = list(aflow_prototypes())
    elements = list(element_structures())
    structures = [item[2] for item in prototypes] + [item[1] for item in elements]
    ids = [item[0] for item in prototypes] + [item[0] for item in elements]
    crystals = from_pymatgen(structures, ids)
    kinds = [len(SOURCES) + name.startswith("ase-") for name in crystals.ids]
    names = {name: label for name, label, _ in prototypes}
    return crystals, np.array(kinds, dtype=np.uint8), names


def packed(
    crystals: Crystals,
    source: NDArray[np.uint8],
    hull: NDArray[np.float64],
    sources: tuple[tuple[str, str], ...],
) -> Entries:
    """Reduce crystals to primitive cells and pack those that are real ones.

    Args:
        crystals: B.
        source: (B,) index into `sources`.
        hull: (B,) eV/atom; NaN where unknown.
        sources: databases and licences.
    """
    from crysmetrics.geometry import min_distances

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
    return pack(
        [crystals.ids[i] for i in index],
        [cells[k] for k in order],
        source[index],
        sources,
        hull[index],
    )


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


def sort_rest(entries: Entries, workers: int | None = None) -> Entries:
    """Sort the entries that are not sorted yet into prototypes, old and new.

    Args:
        entries: of which the first ones are sorted; their matches stay.
        workers: processes.
    """
    sorted_before = entries.sorted_entries
    groups = [
        (counts, members)
        for counts, members in entries.by_counts.items()
        if members[-1] >= sorted_before
    ]
    rank_of = {int(entry): k for k, entry in enumerate(entries.representatives)}
    known = [[k for k, i in enumerate(m.tolist()) if i in rank_of] for _, m in groups]
    jobs = [
        (entries.cells(members), counts, found, int((members < sorted_before).sum()))
        for (counts, members), found in zip(groups, known, strict=True)
    ]
    representatives = entries.representatives.tolist()
    parts: list[NDArray[np.int64]] = []
    with task("prototypes", len(jobs)) as advance:
        results = in_processes(_sort_group, jobs, workers)
        for (_, members), before, (found, matches) in zip(groups, known, results, strict=True):
            ranks = [rank_of[int(members[k])] for k in before]
            fresh = found[len(before) :]
            ranks += range(len(representatives), len(representatives) + len(fresh))
            representatives += members[fresh].tolist()
            rows = [members[matches.entry], np.array(ranks)[matches.representative]]
            parts.append(np.stack([*rows, np.array(matches.permutation)], axis=1))
            advance(1)
    old = np.stack(
        [entries.match_entry, entries.match_representative, entries.match_permutation], axis=1
    )
    rows_ = np.concatenate([old.astype(np.int64), *parts])
    rows_ = rows_[np.argsort(rows_[:, 0], kind="stable")]
    return replace(
        entries,
        representatives=np.array(representatives, dtype=np.int32),
        match_entry=rows_[:, 0].astype(np.int32),
        match_representative=rows_[:, 1].astype(np.int32),
        match_permutation=rows_[:, 2].astype(np.uint8),
        sorted_entries=len(entries),
    )


def _sort_group(cells: Any, counts: Counts, known: list[int], new: int) -> Any:
    return sort_into_prototypes(niggli_cells(cells), counts, known, new)


def sort_into(entries: Entries, counts: Counts, members: NDArray[np.int64]) -> Any:
    """Sort the entries of one anonymous formula into prototypes."""
    return sort_into_prototypes(entries.niggli_cells(members), counts)


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Make the library of known structures.")
    parser.add_argument("--data", type=Path, required=True, help="folder with splits.csv.gz")
    parser.add_argument(
        "--benchmark", type=Path, help="library whose benchmark part is kept as it is"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--workers", type=int)
    arguments = parser.parse_args(given)
    with show_progress():
        if arguments.benchmark is None:
            first = build_benchmark(arguments.data)
        else:
            first = load_entries(arguments.benchmark)
        entries = extended(first, arguments.data, arguments.workers)
    save_entries(entries, arguments.output)
    print(
        f"{len(entries)} crystals, {len(first)} of them for benchmarks, "
        f"{len(entries.representatives)} prototypes: {arguments.output}"
    )


if __name__ == "__main__":
    main()
