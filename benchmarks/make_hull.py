"""Make the shipped table of phases of the Materials Project from its entries in MP-20 and MPTS-52.

All parts, train, validation and test alike: they are reference facts here, and nothing is trained
on them. Prints how energies above hull that are recomputed from the table compare with those
published.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from crysmetrics.hull.table import SHIPPED, HullTable, amounts_of
from crysmetrics.io import read
from crysmetrics.progress import show_progress

FILES = ("mp20/test", "mp20/val", "mp20/extra", "mpts52/val", "mpts52/test")
SOURCE = (
    "Materials Project (Jain et al., APL Mater. 1, 011002 (2013)), CC BY 4.0: formation energies "
    "and energies above hull of the entries in MP-20 and MPTS-52 that are at hand"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=SHIPPED)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    found: dict[str, tuple[dict[int, int], float, float]] = {}
    for name in FILES:
        crystals = read(arguments.data / f"{name}.csv.gz")
        energies = crystals.properties["formation_energy_per_atom"]
        column = "e_above_hull" if "e_above_hull" in crystals.properties else "energy_above_hull"
        published = crystals.properties[column]
        for i, crystal in enumerate(crystals):
            # The later file, of a later release of the database, stands for an entry of both.
            found[crystals.ids[i]] = (
                amounts_of(crystal.atomic_numbers),
                float(energies[i]),
                float(published[i]),
            )
    ids = tuple(sorted(found))
    columns = zip(*(found[name] for name in ids), strict=True)
    compositions, energies, published = columns
    table = HullTable(ids, compositions, np.array(energies), np.array(published), SOURCE)
    with show_progress():
        table = table.with_errors()
    table.save(arguments.output)
    report(table)


def report(table: HullTable) -> None:
    """Compare with the published energies above hull, and print the errors."""
    print(f"{len(table):,} phases")
    for title, hull in ("phases alone", table.hull_of_phases), ("with its points", table.hull):
        differences = np.array(
            [
                table.energies[i] - hull.hull_energy(table.compositions[i]) - table.published[i]
                for i in range(len(table))
            ]
        )
        size = np.abs(differences)
        print(
            f"{title}: within 1 meV of the published {np.mean(size <= 0.001):.1%}, "
            f"within 10 meV {np.mean(size <= 0.01):.1%}, lower {np.mean(differences < -0.01):.1%}, "
            f"higher {np.mean(differences > 0.01):.1%}"
        )
    for error in table.errors:
        print(error)


if __name__ == "__main__":
    main()
