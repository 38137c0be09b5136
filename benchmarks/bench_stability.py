"""How well predicted energies above the hull tell known stable compounds from others.

    python benchmarks/bench_stability.py --data ../shared/data --potential chgnet

Structures are taken as published, without relaxation. First: stable compounds of the MP-20 test
part, the same with their elements exchanged, and the same stretched by 10 % along each axis. Then
MPTS-52 (relaxed with --relax), which has stable and unstable entries: error, and area under the ROC
curve of telling those within 0.1 eV/atom from those above. The potentials were trained on these
very compounds: this is how far their energies can be trusted at best.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from common import table
from numpy.typing import NDArray

from crysmetrics.above_hull import Stability, StabilitySettings, stability
from crysmetrics.io import Crystals, read
from crysmetrics.metrics.stability import METASTABLE

STRETCH = 1.1


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--potential", default="chgnet", show_default=True)
@click.option("--count", default=200, show_default=True, help="Stable compounds of MP-20.")
@click.option("--time-ordered", default=300, show_default=True, help="Entries of MPTS-52.")
@click.option("--max-atoms", default=20, show_default=True)
@click.option("--relax", is_flag=True, help="Relax the entries of MPTS-52.")
@click.option("--workers", default=1, show_default=True)
def main(
    data: Path,
    potential: str,
    count: int,
    time_ordered: int,
    max_atoms: int,
    relax: bool,
    workers: int,
) -> None:
    """Print shares and errors as Markdown tables."""
    settings = StabilitySettings((potential,), relax=False)
    crystals = read(data / "mp20/test.csv.gz", workers=workers)
    near = (crystals.properties["e_above_hull"] <= 1e-3) & (crystals.num_atoms <= max_atoms)
    known = drawn(crystals, near, count)
    rows = []
    for title, changed in (
        ("as published", known),
        ("elements swapped", swapped(known)),
        ("stretched by 10 %", replace(known, lattices=known.lattices * STRETCH)),
    ):
        found = stability(changed, settings, workers=workers)
        rows.append([title, len(changed), *shares(found)])
    columns = ["structures", "n", "<= 0", "<= 0.1 eV/atom", "no energy"]
    print(table(f"{potential}, stable compounds of the MP-20 test part", columns, rows))
    crystals = read(data / "mpts52/test.csv.gz", workers=workers)
    published = crystals.properties["energy_above_hull"]
    small = crystals.num_atoms <= max_atoms
    rows = []
    # The unstable ones are few, so that half of those drawn are taken from there.
    half = time_ordered // 2
    chosen = Crystals.concatenate(
        [
            drawn(crystals, small & (published <= METASTABLE), half),
            drawn(crystals, small & (published > METASTABLE), half),
        ]
    )
    found = stability(chosen, replace(settings, relax=relax), workers=workers)
    truth = chosen.properties["energy_above_hull"]
    ok = np.isfinite(found.e_above_hull)
    error = np.abs(found.e_above_hull - truth)[ok]
    area = roc_area(found.e_above_hull[ok], truth[ok] <= METASTABLE)
    agreed = (found.e_above_hull[ok] <= METASTABLE) == (truth[ok] <= METASTABLE)
    rows.append([int(ok.sum()), f"{np.median(error):.3f}", f"{error.mean():.3f}", f"{area:.3f}"])
    rows[0].append(f"{agreed.mean():.1%}")
    title = (
        f"{potential}{', relaxed' if relax else ''}, MPTS-52 test part, half of them more than "
        "0.1 eV/atom above the hull"
    )
    print(table(title, ["n", "median error", "mean error", "ROC area", "right at 0.1"], rows))


def drawn(crystals: Crystals, mask: NDArray[np.bool_], count: int) -> Crystals:
    """Draw some of those that a mask allows."""
    rows = np.flatnonzero(mask)
    chosen = np.random.default_rng(0).choice(rows, min(count, len(rows)), replace=False)
    return crystals[np.sort(chosen)]


def swapped(crystals: Crystals) -> Crystals:
    """Exchange the two elements of each crystal that differ most in electronegativity."""
    from pymatgen.core import Element

    numbers = crystals.atomic_numbers.copy()
    for i in range(len(crystals)):
        atoms = slice(crystals.offsets[i], crystals.offsets[i + 1])
        here = numbers[atoms].copy()
        kinds = sorted(set(here.tolist()), key=lambda z: Element.from_Z(z).X)
        numbers[atoms] = np.select(
            [here == kinds[0], here == kinds[-1]], [kinds[-1], kinds[0]], here
        )
    return replace(crystals, atomic_numbers=numbers)


def shares(found: Stability) -> list[str]:
    """Shares on the hull and near it, of all."""
    above = found.e_above_hull
    parts = [f"{np.mean(above <= limit):.1%}" for limit in (0.0, METASTABLE)]
    return [*parts, str(int(np.isnan(above).sum()))]


def roc_area(scores: NDArray[np.float64], good: NDArray[np.bool_]) -> float:
    """Compute the share of pairs of a good and a bad one in which the good one's score is lower."""
    lower = scores[good][:, None] < scores[~good]
    equal = scores[good][:, None] == scores[~good]
    return float((lower + 0.5 * equal).mean())


if __name__ == "__main__":
    main()
