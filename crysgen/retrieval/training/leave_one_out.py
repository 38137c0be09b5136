"""Leave-one-out examples: proposals for crystals of a library that lacks them.

Crystals are asked for by their exact cell, as benchmarks do, or by their reduced formula, as users
do. The network of `scoring.plausibility` and the weights of `scoring.calibration` are fitted to
these examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from crysgen.compositions.formula_units import likelihoods
from crysgen.compositions.formulas import Formula
from crysgen.retrieval.library.library import Library
from crysgen.retrieval.library.prototypes import (
    PrimitiveCrystal,
    displacements,
    niggli_cells,
    primitive_crystal,
)
from crysgen.retrieval.proposals.proposal import Proposal, as_crystals, to_crystals
from crysgen.retrieval.propose import uncalibrated
from crysgen.retrieval.scoring.calibration import features
from crysgen.retrieval.scoring.plausibility import Cell
from crysmetrics.parallel import in_processes

MAX_ABOVE_HULL = 0.1
"""Distance above the hull in eV/atom beyond which crystals are no examples."""
LEAST_LIKELY_SIZE = 0.02
"""Share of real compounds of the type below which a cell size is not asked for."""
FOLDS = 10
"""Number of parts that formulas fall into, so that some can be held out."""


@dataclass(frozen=True)
class Example:
    """Proposals for one crystal, and which of them match it.

    Attributes:
        entry: index of the crystal in the library.
        by_formula: whether the reduced formula was asked for, in several cell sizes.
        fold: of its formula, 0 to FOLDS - 1.
        cells: (atomic numbers, fractional coordinates, lattice in Å) of n proposals.
        features: (n, f) of `scoring.calibration.features`, in its order.
        is_match: (n,) whether a proposal matches, by the tolerances of match rates.
        is_symmetric_match: (n,) whether it has the right space group as well.
        is_known: (n,) whether a proposal comes from entries of the very formula.
    """

    entry: int
    by_formula: bool
    fold: int
    cells: list[Cell]
    features: NDArray[np.float32]
    is_match: NDArray[np.bool_]
    is_symmetric_match: NDArray[np.bool_]
    is_known: NDArray[np.bool_]


def held_out_entries(
    library: Library, count: int | None = None, seed: int = 0
) -> NDArray[np.int64]:
    """Choose entries of the Materials Project that are near the hull, in random order."""
    entries = library.entries
    good = (entries.source == 0) & ~(entries.e_above_hull.astype(float) > MAX_ABOVE_HULL)
    rng = np.random.default_rng(seed)
    return rng.permutation(np.flatnonzero(good))[:count]


def leave_one_out_examples(
    path: Path,
    wanted: Sequence[tuple[int, bool]],
    workers: int = 1,
    *,
    whole_formula: bool = True,
) -> Iterator[Example]:
    """Make examples of entries; those without proposals are left out.

    Args:
        path: of the library.
        wanted: index of each entry, and whether it is asked for by formula.
        workers: processes.
        whole_formula: whether the library lacks the whole formula; else only what matches the
            crystal, and proposals match it as benchmarks have it.
    """
    jobs = [(str(path), int(entry), by_formula, whole_formula) for entry, by_formula in wanted]
    for found in in_processes(_example, jobs, workers):
        if found is not None:
            yield found


def _example(path: str, entry: int, by_formula: bool, whole_formula: bool) -> Example | None:
    library = _library(path)
    target = library.entries.crystal(entry)
    atoms = dict(zip(target.elements.tolist(), target.counts, strict=True))
    fold = fold_of(atoms)
    units: Sequence[int] = (1,)
    if by_formula:
        atoms, units = as_users_ask(atoms)
    proposals = uncalibrated(
        library,
        atoms,
        units=units,
        exclude_ids=() if whole_formula else equal_entries(library, target),
        exclude_formula=whole_formula,
    )
    if not proposals:
        return None
    is_match = (match_mask if whole_formula else benchmark_mask)(proposals, target)
    return Example(
        entry,
        by_formula,
        fold,
        [(p.atomic_numbers, p.frac_coords, p.lattice) for p in proposals],
        np.array([list(features(p).values()) for p in proposals], dtype=np.float32),
        is_match,
        is_match & [p.space_group == target.space_group for p in proposals],
        np.array([bool(p.known) or p.features.known_above_hull > 0 for p in proposals]),
    )


@lru_cache(maxsize=1)
def _library(path: str) -> Library:
    return Library.load(path, extra=[])


def fold_of(atoms: dict[int, int]) -> int:
    """Assign a formula to one of FOLDS parts, whatever its cell."""
    divisor = gcd(*atoms.values())
    formula = tuple(sorted((z, n // divisor) for z, n in atoms.items()))
    return crc32(str(formula).encode()) % FOLDS


def match_mask(proposals: Sequence[Proposal], target: PrimitiveCrystal) -> NDArray[np.bool_]:
    """Mark proposals (n,) that match the target, by the tolerances of match rates."""
    cells = [primitive_crystal(to_crystals([p])) for p in proposals]
    equal = np.array([cell.counts == target.counts for cell in cells], dtype=bool)
    alike = np.flatnonzero(equal)
    if len(alike):
        some = [*(cells[i] for i in alike), target]
        niggli = niggli_cells([(cell.lattice, cell.frac_coords, cell.species) for cell in some])
        pairs = [(k, len(alike)) for k in range(len(alike))]
        found = displacements(niggli, niggli, pairs, np.arange(len(target.counts))[None])
        equal[alike] = np.isfinite(found[:, 0])
    return equal


def benchmark_mask(proposals: Sequence[Proposal], target: PrimitiveCrystal) -> NDArray[np.bool_]:
    """Mark proposals (n,) that match the target by the matcher of match rates."""
    from crysmetrics.matching.distances import rms_distances

    pairs = np.column_stack([np.arange(len(proposals)), np.zeros(len(proposals), dtype=np.int64)])
    distances = rms_distances(to_crystals(proposals), as_crystals(target), pairs, workers=1)
    return np.isfinite(distances)


def equal_entries(library: Library, target: PrimitiveCrystal) -> list[str]:
    """List the ids of entries that match a crystal, by the tolerances of match rates."""
    entries = library.entries
    atoms = dict(zip(target.elements.tolist(), target.counts, strict=True))
    same = [i for i in entries.of_formula(atoms) if entries.counts(i) == target.counts]
    if not same:
        return []
    cells = [*(entries.crystal(i) for i in same), target]
    niggli = niggli_cells([(cell.lattice, cell.frac_coords, cell.species) for cell in cells])
    pairs = [(k, len(same)) for k in range(len(same))]
    found = displacements(niggli, niggli, pairs, np.arange(len(target.counts))[None])
    return [entries.ids[i] for i, one in zip(same, found[:, 0], strict=True) if np.isfinite(one)]


def as_users_ask(atoms: dict[int, int]) -> tuple[dict[int, int], list[int]]:
    """Reduce a cell to its formula, and list the cell sizes of compounds of its type."""
    formula = Formula.of_atoms([z for z, n in atoms.items() for _ in range(n)]).reduced
    units = [unit for unit, share in likelihoods(formula).items() if share > LEAST_LIKELY_SIZE]
    return formula.counts, units or [1]
