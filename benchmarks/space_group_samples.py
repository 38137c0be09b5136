"""Samples with the compositions and space groups of test crystals, as in the adaptive-cell paper.

    python benchmarks/space_group_samples.py ../shared/data/mp20/test.csv.gz -o samples/ --steps 50
    crysmetrics evaluate samples/samples.npz mp20-test-bt --protocol adaptive-cell

Section 5.2 of the paper: 1,000 samples, each with the atoms and the space group of a crystal of the
test set, of orthorhombic to cubic groups alone. Parts are kept, so that a run goes on where it
ended.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np
import torch
from space_group_study import maker

from crysgen.training.site_data import SPACE_GROUP, with_sites
from crysmetrics.io import Crystals, read

PART = 50
"""Samples that are made together."""
FIRST_GROUP = 16
"""The lowest orthorhombic space group."""


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--model", default="adaptive-cell", show_default=True)
@click.option("--count", default=1000, show_default=True)
@click.option("--steps", default=50, show_default=True)
@click.option("--minutes", default=1e9, help="After which no more part is begun.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="A folder.")
def main(data: Path, model: str, count: int, steps: int, minutes: float, output: Path) -> None:
    """Draw compositions with their groups, and sample each once."""
    torch.set_num_threads(1)
    end = time.time() + 60 * minutes
    output.mkdir(parents=True, exist_ok=True)
    targets = drawn(data, count, output)
    make, done = maker("model", model, steps), []
    for begin in range(0, len(targets), PART):
        path = output / f"part{begin:05d}.npz"
        if not path.exists():
            if time.time() > end:
                break
            part = targets[np.arange(begin, min(begin + PART, len(targets)))]
            made = make(part, [int(n) for n in part.properties[SPACE_GROUP]], 1)
            names = [f"{begin + int(name)}" for name in made.ids]
            made.with_ids(names).with_failures(()).save(path)
        done.append(Crystals.load(path))
    whole = Crystals.concatenate(done)
    whole.save(output / "samples.npz")
    print(f"{len(whole)} samples of {len(targets)} compositions")


def drawn(data: Path, count: int, output: Path) -> Crystals:
    """Draw crystals with seed 0, in primitive cells with their groups."""
    path = output / "targets.npz"
    if not path.exists():
        crystals = read(data, workers=1)
        order = np.random.default_rng(0).permutation(len(crystals))
        # A third of the crystals are monoclinic or triclinic.
        found = with_sites(crystals[np.sort(order[: 2 * count])])
        kept = np.flatnonzero(found.properties[SPACE_GROUP] >= FIRST_GROUP)[:count]
        found[kept].with_failures(()).save(path)
    return Crystals.load(path)


if __name__ == "__main__":
    main()
