"""Crystals that everybody knows, by their formula alone, as `crysgen sample` gives them.

python benchmarks/csp/textbook.py --method auto

A structure is right if its space group is the tabulated one and the edges of its conventional cell
are within 3 % of handbooks' (any of the polymorphs listed counts). `--crystals textbook` are twenty
on which no number is tuned, but with some of them in view the order of known structures was chosen
(`--library known`); `tuning` are 71 others, on which rules and numbers were chosen; `more` are 161
that were listed when all of these stood, before the first answer was seen.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pandas as pd

from crysgen import generate
from crysgen.compositions.formulas import parse_formula
from crysgen.proposers.base import LIBRARIES, METHODS
from crysgen.retrieval.proposals.proposal import as_crystals
from crysgen.settings import Resources, SamplingSettings
from crysmetrics.io import Crystals
from crysmetrics.symmetry import cells_of, standard_cell

TOLERANCE, WIDE = 0.03, 0.12
"""Of edges; of library entries, whose functionals have errors of their own."""
SYMPREC = 0.1
TOPS = (1, 5)
TABLES = {"textbook": "textbook.csv", "tuning": "textbook_tuning.csv", "more": "textbook_more.csv"}


@click.command()
@click.option("--method", type=click.Choice(list(METHODS)), default="auto", show_default=True)
@click.option(
    "--library", type=click.Choice(list(LIBRARIES)), default="benchmark", show_default=True
)
@click.option("--crystals", type=click.Choice(list(TABLES)), default="textbook", show_default=True)
@click.option("-n", "count", default=16, show_default=True, help="Structures of each formula.")
@click.option("--others", is_flag=True, help="Without library entries of the very formula.")
@click.option("--energies/--no-energies", default=True, help="Ranked by predicted energies too.")
@click.option("--relax", is_flag=True, help="CHGNet relaxes and ranks; it knows these crystals.")
@click.option("--only", multiple=True, help="Formulas; all by default.")
@click.option("--workers", default=2, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="CSV with all ranks.")
def main(
    method: str,
    library: str,
    crystals: str,
    count: int,
    others: bool,
    energies: bool,
    relax: bool,
    only: tuple[str, ...],
    workers: int,
    output: Path | None,
) -> None:
    """Print the rank of the right crystal, and what comes first."""
    table = pd.read_csv(Path(__file__).with_name(TABLES[crystals]))
    ranks: dict[str, int | None] = {}
    for text, rows in table.groupby("formula", sort=False):
        if only and text not in only:
            continue
        exclude = entries_of(str(text)) if others else ()
        settings = SamplingSettings(
            method=method, exclude=exclude, energies=energies, relax=relax, library=library
        )
        made = generate([str(text)], count, settings=settings, resources=Resources(workers=workers))
        right = [k for k, crystal in enumerate(made.crystals) if is_right(crystal, rows)]
        ranks[str(text)] = right[0] + 1 if right else None
        known = made.table.prototype_id
        first = [describe(made.crystals[k], known[k]) for k in range(min(3, len(made.crystals)))]
        print(f"{text:8} rank {ranks[str(text)]}  first: {', '.join(first)}", flush=True)
    at = [sum(r is not None and r <= top for r in ranks.values()) for top in TOPS]
    print(f"right at rank 1: {at[0]} of {len(ranks)}; within 5: {at[1]}")
    if output is not None:
        pd.Series(ranks, name="rank").rename_axis("formula").to_csv(output)


def entries_of(text: str, rows: pd.DataFrame | None = None) -> tuple[str, ...]:
    """Ids of the library's entries with a formula, whatever their cell; if polymorphs are given,
    only of these."""
    from crysgen.retrieval.library.library import Library

    entries = Library.load(extra=[]).entries
    return tuple(
        entries.ids[i]
        for i in entries.of_formula(parse_formula(text).reduced.counts)
        if rows is None or is_right(as_crystals(entries.crystal(i)), rows, WIDE)
    )


def conventional(crystal: Crystals) -> tuple[int, np.ndarray]:
    """Space group and edges (Å) of the conventional cell."""
    found = standard_cell(cells_of(crystal)[0], SYMPREC)
    if found is None:
        return 1, np.linalg.norm(crystal.lattices[0], axis=1)
    return found.space_group, np.linalg.norm(found.cell.lattice, axis=1)


def is_right(crystal: Crystals, rows: pd.DataFrame, within: float = TOLERANCE) -> bool:
    """Whether a crystal is one of the tabulated polymorphs, its edges within a share of theirs."""
    number, edges = conventional(crystal)
    return any(
        number == row.space_group and np.abs(edges / [row.a, row.b, row.c] - 1).max() < within
        for row in rows.itertuples()
    )


def describe(crystal: Crystals, prototype: str) -> str:
    """Space group, edges and template in a few words."""
    number, edges = conventional(crystal)
    sizes = "/".join(f"{edge:.2f}" for edge in edges)
    return f"{number} {sizes} ({prototype or 'new'})"


if __name__ == "__main__":
    main()
