"""How much noise refinement should take: first proposals before and after, by its strength.

    python benchmarks/csp/strength.py --data ../shared/data --limit 300

On `val`, which the shipped strength was chosen by. Entries of the asked formula are not used.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from answers import atoms_of
from retrieval import targets_of

from crysgen.checkpoints import DEFAULT_MODEL, load_model
from crysgen.models.base import Noises
from crysgen.retrieval.library.library import Library
from crysgen.retrieval.proposals.proposal import to_crystals
from crysgen.retrieval.propose import propose
from crysgen.training.batch import Batch
from crysmetrics.io import Crystals
from crysmetrics.matching.distances import rms_distances


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--limit", default=300, show_default=True)
@click.option("--model", "name", default=DEFAULT_MODEL, show_default=True)
@click.option("--strengths", default="0.1,0.2,0.3,0.4,0.5,0.6", show_default=True)
@click.option("--workers", default=2, show_default=True)
def main(data: Path, limit: int, name: str, strengths: str, workers: int) -> None:
    """Print a Markdown table."""
    torch.set_num_threads(1)  # small cells: threads only wait for each other
    targets = targets_of(data, "val")
    rows = np.random.default_rng(0).permutation(len(targets))[:limit]
    targets = targets[np.sort(rows)]
    library = Library.load(extra=[])
    found = [propose(library, atoms_of(t), 1, exclude_formula=True) for t in targets]
    kept = [i for i, proposals in enumerate(found) if proposals]
    first = to_crystals([found[i][0] for i in kept])
    model = load_model(name)
    table = [figures("proposals", first, targets, kept, workers)]
    for strength in map(float, strengths.split(",")):
        made = refined(model, first, strength)
        table.append(figures(f"strength {strength}", made, targets, kept, workers))
    print(pd.DataFrame(table).to_markdown(index=False, floatfmt=".4f"))


def refined(model: Noises, crystals: Crystals, strength: float) -> Crystals:
    """Each noised and denoised once; cells of similar sizes together."""
    order = np.argsort(crystals.num_atoms, kind="stable")
    parts = []
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        batch = Batch.from_crystals(crystals[rows], torch.float32)
        made = model.refine(batch, [int(row) for row in rows], strength)
        parts.append(made.to_crystals([crystals.ids[row] for row in rows]))
    together = Crystals.concatenate(parts)
    return together[np.argsort(order, kind="stable")]


def figures(
    title: str, made: Crystals, targets: Crystals, kept: list[int], workers: int
) -> dict[str, object]:
    """Match rate over all targets, RMSE, and errors of volumes, those of matches too."""
    pairs = np.stack([np.arange(len(kept)), np.array(kept)], 1)
    distances = np.asarray(rms_distances(made, targets, pairs, workers=workers))
    hit = np.isfinite(distances)
    rate = hit.sum() / len(targets)
    errors = np.abs(made.volumes / targets[np.array(kept)].volumes - 1)
    return {
        "": title,
        "match rate": rate,
        "±": np.sqrt(rate * (1 - rate) / len(targets)),
        "RMSE": distances[hit].mean(),
        "volume error": np.median(errors),
        "of matches": np.median(errors[hit]),
    }


if __name__ == "__main__":
    main()
