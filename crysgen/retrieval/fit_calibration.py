"""Fits the weights of `calibration`: `python -m crysgen.retrieval.fit_calibration LIBRARY`.

Crystals of the library are asked for one after the other, with all entries of their formula taken
out: every second one by its exact cell, as benchmarks ask, the others by their reduced formula, as
users do. Proposals are right if they match, and doubly so in the right space group. Prints the
weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crysgen.formula_units import likelihoods
from crysgen.formulas import Formula
from crysgen.retrieval.calibration import features, fit
from crysgen.retrieval.library import DIRECT, Library
from crysgen.retrieval.proposals import Proposal, to_crystals
from crysgen.retrieval.prototypes import Reduced, displacements, reduced, shape_of
from crysmetrics.progress import show_progress, task

QUERIES = 1200
MAX_ABOVE_HULL = 0.1
UNITS_AT_LEAST = 0.02
"""Cell sizes that fewer real compounds of the type have are not asked for."""


def asked_for(library: Library, count: int, seed: int) -> NDArray[np.int64]:
    """Entries from the Materials Project that are not far above the hull, at random."""
    entries = library.entries
    good = (entries.source == 0) & ~(entries.e_above_hull.astype(float) > MAX_ABOVE_HULL)
    rng = np.random.default_rng(seed)
    return rng.permutation(np.flatnonzero(good))[:count]


def matches(proposals: Sequence[Proposal], target: Reduced) -> NDArray[np.bool_]:
    """(n,) which proposals are the target, by the tolerances of match rates."""
    goal = shape_of(target.lattice, target.frac_coords, target.slots)
    same = np.arange(len(target.counts))[None]
    found = []
    for p in proposals:
        cell = reduced(to_crystals([p]))
        shape = shape_of(cell.lattice, cell.frac_coords, cell.slots)
        equal = cell.counts == target.counts
        found.append(equal and bool(np.isfinite(displacements(shape, goal, same)).any()))
    return np.array(found, dtype=bool)


def as_users_ask(atoms: dict[int, int]) -> tuple[dict[int, int], list[int]]:
    """The reduced formula of a cell, and the cell sizes that compounds of its type have."""
    formula = Formula.of_atoms([z for z, n in atoms.items() for _ in range(n)]).reduced
    units = [unit for unit, share in likelihoods(formula).items() if share > UNITS_AT_LEAST]
    return formula.counts, units


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fit the order of proposals.")
    parser.add_argument("library", type=Path)
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    library = Library.load(arguments.library, extra=[])
    tables, right, names = [], [], []
    queries = asked_for(library, arguments.queries, arguments.seed)
    with show_progress(), task("queries", len(queries)) as advance:
        for k, i in enumerate(queries):
            target = library.entries.reduced(int(i))
            atoms = dict(zip(target.elements.tolist(), target.counts, strict=True))
            units: Sequence[int] = (1,)
            if k % 2:
                atoms, units = as_users_ask(atoms)
            proposals = library.uncalibrated(atoms, DIRECT, units=units, exclude_formula=True)
            advance(1)
            if not proposals:
                continue
            rows = [features(p) for p in proposals]
            names = list(rows[0])
            table = np.array([[row[name] for name in names] for row in rows])
            match = matches(proposals, target)
            symmetric = match & [p.space_group == target.space_group for p in proposals]
            tables += [table, table]
            right += [match, symmetric]
    weights = fit(tables, right)
    for name, weight in zip(names, weights, strict=True):
        print(f'    "{name}": {weight:.3f},')


if __name__ == "__main__":
    main()
