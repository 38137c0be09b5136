"""Twenty crystals that everybody knows, by their formula alone, from the library.

python benchmarks/csp/textbook.py

A proposal is right if its space group is the tabulated one and the edges of its conventional cell
are within 3 % (`textbook.csv`; any of the polymorphs listed counts).
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pandas as pd

from crysgen.formula_units import likelihoods
from crysgen.formulas import parse_formula
from crysgen.retrieval import Library, Proposal

TOLERANCE = 0.03
SYMPREC = 0.1
UNITS_AT_LEAST = 0.02
"""Cell sizes that fewer real compounds of the type have are not asked for."""


@click.command()
@click.option("--library", type=click.Path(path_type=Path), help="Another library file.")
@click.option("-n", "count", default=5, show_default=True, help="Proposals looked at.")
@click.option("--others", is_flag=True, help="Without entries of the very formula.")
def main(library: Path | None, count: int, others: bool) -> None:
    """Print the rank of the right crystal, or what comes first instead."""
    known = Library.load(library, extra=[])
    table = pd.read_csv(Path(__file__).with_name("textbook.csv"))
    ranks = {}
    for text, rows in table.groupby("formula", sort=False):
        formula = parse_formula(str(text)).reduced
        units = [u for u, p in likelihoods(formula).items() if p > UNITS_AT_LEAST]
        found = known.propose(formula.counts, count, units=units, exclude_formula=others)
        right = [k for k, proposal in enumerate(found) if is_right(proposal, rows)]
        ranks[text] = right[0] + 1 if right else None
        first = [describe(proposal) for proposal in found[:3]]
        print(f"{text:8} rank {ranks[text]}  units {units}  first: {', '.join(first)}")
    at = [sum(r is not None and r <= top for r in ranks.values()) for top in (1, 5)]
    print(f"right at rank 1: {at[0]} of {len(ranks)}; within 5: {at[1]}")


def conventional(proposal: Proposal) -> tuple[int, np.ndarray]:
    """Space group and edges (Å) of the conventional cell."""
    import spglib

    cell = (proposal.lattice, proposal.frac_coords, proposal.atomic_numbers)
    dataset = spglib.get_symmetry_dataset(cell, symprec=SYMPREC)
    if dataset is None:
        return 1, np.linalg.norm(proposal.lattice, axis=1)
    return int(dataset.number), np.linalg.norm(dataset.std_lattice, axis=1)


def is_right(proposal: Proposal, rows: pd.DataFrame) -> bool:
    """Whether the proposal is one of the tabulated polymorphs."""
    number, edges = conventional(proposal)
    return any(
        number == row.space_group and np.abs(edges / [row.a, row.b, row.c] - 1).max() < TOLERANCE
        for row in rows.itertuples()
    )


def describe(proposal: Proposal) -> str:
    """Space group, edges and template in a few words."""
    number, edges = conventional(proposal)
    sizes = "/".join(f"{edge:.2f}" for edge in edges)
    return f"{number} {sizes} ({proposal.template_id}, {proposal.score:.2f})"


if __name__ == "__main__":
    main()
