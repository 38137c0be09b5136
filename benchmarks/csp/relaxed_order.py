"""How relaxed energies should order structures, on well-known crystals (`textbook_tuning.csv`).

    python benchmarks/csp/relaxed_order.py -o energies.csv
    python benchmarks/csp/relaxed_order.py --energies energies.csv

Edges in that table are what handbooks have (CRC, Wyckoff), good enough for 3 %. Library entries
that are the right crystal are left out; others of the same formula stay, as users have them. The
first proposals are relaxed, and the right one is looked for under orders that differ in how much
energies weigh and in what counts as equal. CHGNet was trained on most of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from textbook import SYMPREC, conventional, entries_of, is_right

from crysgen.compositions.formula_units import likelihoods
from crysgen.compositions.formulas import parse_formula
from crysgen.proposers.retrieval import POOL, to_relax
from crysgen.ranking.energy import complexities, lowest, simplest_first
from crysgen.ranking.merge import same_structures
from crysgen.retrieval.library.library import Library
from crysgen.retrieval.proposals.proposal import to_crystals
from crysgen.retrieval.propose import propose
from crysmetrics.progress import show_progress, task
from crysmetrics.relaxation import ENERGY, relax_all

SCALES = (0.003, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, np.inf)
EQUAL = (0.0, 0.0005, 0.001, 0.002, 0.003)
UNITS_AT_LEAST, ASKED = 0.02, 10


@click.command()
@click.option("--energies", "known", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="CSV of what was relaxed.")
@click.option("--part", default="0/1", show_default=True, help="Every so-many-th formula: 1/2.")
@click.option("--dispersion/--no-dispersion", default=True, show_default=True)
@click.option("--device", default="auto", show_default=True)
def main(known: Path | None, output: Path | None, part: str, dispersion: bool, device: str) -> None:
    """Print how many crystals come first, and within five, by order."""
    if known is None:
        rows = list(relaxed_candidates(part, dispersion, device))
        table = pd.concat(rows, ignore_index=True)
        if output is not None:
            table.to_csv(output, index=False)
    else:
        table = pd.read_csv(known)
    formulas = [group for _, group in table.groupby("formula", sort=False)]
    print(f"{len(formulas)} crystals, {sum(g.right.any() for g in formulas)} among the candidates")
    for top in (1, 5):
        found = {
            f"equal {equal}": [
                sum(0 < rank_of(group, scale, equal) <= top for group in formulas)
                for scale in SCALES
            ]
            for equal in EQUAL
        }
        print(f"\nwithin {top}, by eV/atom of one factor e")
        print(pd.DataFrame(found, index=list(SCALES)).T.to_markdown())


def relaxed_candidates(part: str, dispersion: bool, device: str) -> Iterator[pd.DataFrame]:
    """What was proposed for one crystal after the other, relaxed."""
    number, parts = (int(text) for text in part.split("/"))
    everything = pd.read_csv(Path(__file__).with_name("textbook_tuning.csv"))
    asked = list(everything.groupby("formula", sort=False))[number::parts]
    library = Library.load(extra=[])
    with show_progress(), task("crystals", len(asked)) as advance:
        for text, rows in asked:
            formula = parse_formula(str(text)).reduced
            units = [u for u, share in likelihoods(formula).items() if share > UNITS_AT_LEAST]
            left_out = entries_of(str(text), rows)
            found = propose(library, formula.counts, POOL, units=units, exclude_ids=left_out)
            proposals = to_relax(found, ASKED)
            crystals = relax_all(to_crystals(proposals), device, dispersion)
            yield pd.DataFrame(
                {
                    "formula": text,
                    "score": [p.score for p in proposals],
                    "energy": crystals.properties[ENERGY],
                    "space_group": [conventional(crystal)[0] for crystal in crystals],
                    "complexity": complexities(crystals, SYMPREC),
                    "structure": same_structures(crystals),
                    "right": [is_right(crystal, rows) for crystal in crystals],
                }
            )
            advance(1)


def rank_of(group: pd.DataFrame, scale: float, equal: float) -> int:
    """The rank of the right crystal; 0 if there is none."""
    above = np.nan_to_num(group.energy - group.energy.min(), nan=10.0)
    weights = group.score.to_numpy() * np.exp(-above / scale)
    labels: Any = group.structure.to_numpy()
    totals = np.bincount(labels, weights=weights)
    energies, complexity = group.energy.to_numpy(), group.complexity.to_numpy()
    rows = [np.flatnonzero(labels == k) for k in range(len(totals))]
    first = np.array([lowest(energies, complexity, mine) for mine in rows])
    first = first[np.argsort(-totals, kind="stable")]
    best = group.iloc[first]
    moved = simplest_first(best.energy.to_numpy(), best.complexity.to_numpy(), within=equal)
    right = best.right.to_numpy()[moved]
    return int(right.argmax()) + 1 if right.any() else 0


if __name__ == "__main__":
    main()
