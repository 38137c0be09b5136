"""Fit the energies of the elements by which a potential's energies become formation energies.

    python benchmarks/make_element_energies.py chgnet --data ../shared/data

From compounds of the Materials Project that are not in its MP-20 or MPTS-52 test parts, at most
0.05 eV/atom above the hull and 14 atoms large, as they are: chosen so that each element is in
several. Least squares by Huber's loss, so that single large errors do not count much.
"""

from __future__ import annotations

import argparse
from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from crysmetrics.io import Crystals, read
from crysmetrics.io.elements import SYMBOLS
from crysmetrics.io.json_files import write_json
from crysmetrics.potentials.formation import FOLDER, correction
from crysmetrics.potentials.registry import load_potential
from crysmetrics.progress import show_progress, task
from crysmetrics.relaxation import batches

FILES = {
    "mp20/val": "e_above_hull",
    "mp20/extra": "e_above_hull",
    "mpts52/val": "energy_above_hull",
}
LARGEST, ABOVE_HULL = 14, 0.05
HUBER = 0.03
"""eV/atom beyond which an error counts in proportion to its size, not to its square."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("potential")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--each", type=int, default=12, help="Compounds with each element.")
    parser.add_argument("-o", "--output", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    potential = load_potential(arguments.potential)
    crystals = chosen(candidates(arguments.data), arguments.each, potential.elements)
    wanted = crystals.properties["formation_energy_per_atom"]
    energies = np.full(len(crystals), np.nan)
    with show_progress(), task("Energies", len(crystals)) as advance:
        for rows in batches(crystals.num_atoms, 64):
            energies[rows] = potential.predict(crystals[rows]).energies
            advance(len(rows))
    if not potential.corrected:
        energies += [correction(crystal) for crystal in crystals]
    numbers = sorted(set(crystals.atomic_numbers.tolist()))
    shares = np.array([[np.mean(c.atomic_numbers == z) for z in numbers] for c in crystals])
    found = fit(shares, energies - wanted)
    errors = energies - shares @ found - wanted
    write_json(
        {
            "potential": potential.name,
            "sha256": potential.sha256,
            "made": date.today().isoformat(),
            "fitted_to": "formation energies of the Materials Project, CC BY 4.0",
            "compounds": len(crystals),
            "mean_absolute_error": round(float(np.abs(errors).mean()), 4),
            "median_absolute_error": round(float(np.median(np.abs(errors))), 4),
            "energies": {
                SYMBOLS[z]: round(float(e), 4) for z, e in zip(numbers, found, strict=True)
            },
        },
        arguments.output / f"{arguments.potential}.json",
    )
    print(f"{len(crystals)} compounds, {len(numbers)} elements, MAE {np.abs(errors).mean():.4f}")


def candidates(folder: Path) -> Crystals:
    """Small compounds near the hull, with their formation energies."""
    parts = []
    for name, column in FILES.items():
        crystals = read(folder / f"{name}.csv.gz", workers=1)
        near = (crystals.properties[column] <= ABOVE_HULL) & (crystals.num_atoms <= LARGEST)
        part = crystals[np.flatnonzero(near)]
        kept = {"formation_energy_per_atom": part.properties["formation_energy_per_atom"]}
        ids = [f"{name} {i}" for i in part.ids]
        parts.append(
            Crystals(
                part.atomic_numbers, part.frac_coords, part.lattices, part.num_atoms, ids, kept
            )
        )
    return Crystals.concatenate(parts)


def chosen(crystals: Crystals, each: int, known: frozenset[int]) -> Crystals:
    """Choose compounds so that every element is in some: those with rare elements first."""
    elements = [frozenset(c.atomic_numbers.tolist()) for c in crystals]
    total = Counter(z for found in elements for z in found)
    order = np.random.default_rng(0).permutation(len(crystals)).tolist()
    order.sort(key=lambda i: min(total[z] for z in elements[i]))
    count: Counter[int] = Counter()
    rows = []
    for i in order:
        if elements[i] <= known and any(count[z] < each for z in elements[i]):
            count.update(elements[i])
            rows.append(i)
    return crystals[sorted(rows)]


def fit(shares: NDArray[np.float64], differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit energies of elements (K,) to differences (B,) by Huber's loss."""
    start = np.linalg.lstsq(shares, differences, rcond=None)[0]
    found = least_squares(lambda e: shares @ e - differences, start, loss="huber", f_scale=HUBER)
    energies: NDArray[np.float64] = found.x
    return energies


if __name__ == "__main__":
    main()
