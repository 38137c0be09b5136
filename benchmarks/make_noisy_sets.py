"""Sets of increasing noise, for FAD against noise (GemsDiff's Figure 3) until `crysgen noise`.

    python benchmarks/make_noisy_sets.py ../shared/data/mp20/test.csv.gz -o noisy/
    crysmetrics fad noisy/ mp20-test-bt --by-folder fad-by-noise

At level s, every position gets Gaussian noise of s Å along each axis and every cell a symmetric
Gaussian strain of s / 5 Å⁻¹ (0.2 at 1 Å); volumes change with it.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from crysmetrics.io import Crystals, read, write

LEVELS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


@click.command()
@click.argument("source")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--limit", default=1000, show_default=True, help="Structures, the first ones.")
@click.option("--seed", default=0, show_default=True)
def main(source: str, output: Path, limit: int, seed: int) -> None:
    """Write one packed set for each level."""
    crystals = read(source)[:limit]
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=crystals.frac_coords.shape)
    strain = rng.normal(size=(len(crystals), 3, 3))
    for level in LEVELS:
        write(perturb(crystals, level, noise, strain), output / f"{level}.npz")


def perturb(crystals: Crystals, level: float, noise: np.ndarray, strain: np.ndarray) -> Crystals:
    """The crystals at one level of noise; the directions are the same at all levels."""
    symmetric = (strain + strain.transpose(0, 2, 1)) / 2
    lattices = crystals.lattices @ (np.eye(3) + level / 5 * symmetric)
    inverse = np.linalg.inv(lattices)[crystals.structure_index]
    frac = crystals.frac_coords + level * np.einsum("ni,nij->nj", noise, inverse)
    return Crystals(crystals.atomic_numbers, frac, lattices, crystals.num_atoms, crystals.ids)


if __name__ == "__main__":
    main()
