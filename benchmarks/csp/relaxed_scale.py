"""How much energies of relaxed proposals should weigh beside what the library says of them.

    python benchmarks/csp/relaxed_scale.py --data ../shared/data --limit 70

The first proposals for small cells of `val` are relaxed by CHGNet; each scale (eV/atom; a
difference of that much makes a structure e times less likely) gives another order. CHGNet was
trained on these compounds, so that the energies look better here than they are.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pandas as pd
from answers import atoms_of, distances_of
from retrieval import targets_of

from crysgen.retrieval.library.library import Library
from crysgen.retrieval.proposals.proposal import to_crystals
from crysgen.retrieval.propose import propose
from crysmetrics.progress import show_progress, task
from crysmetrics.relaxation import ENERGY, relax_all

SCALES = (0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, np.inf)


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--limit", default=70, show_default=True, help="Compositions, drawn at random.")
@click.option("--atoms", default=4, show_default=True, help="In the cell, at most.")
@click.option("-n", "count", default=6, show_default=True, help="Proposals of each.")
@click.option("--device", default="auto", show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(data: Path, limit: int, atoms: int, count: int, device: str, seed: int) -> None:
    """Print match rates of the first structure by scale."""
    targets = targets_of(data, "val")
    small = np.flatnonzero(targets.num_atoms <= atoms)
    chosen = np.random.default_rng(seed).permutation(small)[:limit]
    library = Library.load(extra=[])
    answers = []
    with show_progress(), task("compositions", len(chosen)) as advance:
        for i in chosen.tolist():
            target = targets[[i]]
            proposals = propose(library, atoms_of(target), count)
            if proposals:
                right = np.isfinite(distances_of([proposals], target, 1)[0][: len(proposals)])
                relaxed = relax_all(to_crystals(proposals), device)
                energies = relaxed.properties[ENERGY]
                answers.append((np.log([p.score for p in proposals]), energies, right))
            advance(1)
    rows = []
    for scale in SCALES:
        hits = []
        for logs, energies, right in answers:
            # What could not be relaxed comes last.
            above = np.nan_to_num(energies - np.nanmin(energies), nan=10.0)
            hits.append(right[np.argmax(logs - above / scale)])
        error = np.std(hits) / np.sqrt(len(hits))
        rows.append({"eV/atom": scale, "match 1": np.mean(hits), "±": error})
    print(f"{len(answers)} compositions")
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3f"))


if __name__ == "__main__":
    main()
