"""Crystals as models of space groups learn from them: primitive cells in standard settings.

Run as a program it packs crystals once for all trainings:
`python -m crysgen.training.site_data packed.npz -o packed_sites.npz`, where `packed.npz` is what
`crysgen.training.data` packs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from crysmetrics.io import Crystals, CrystalsBuilder, Failure
from crysmetrics.progress import task
from crysmetrics.space_groups.projection import Orbits

SPACE_GROUP = "space_group"
"""Property of such crystals: the number of the space group whose standard setting they are in."""
NUM_SITES = "num_sites"
"""Property of such crystals: the number of non-equivalent sites, which are the first atoms."""
SYMPREC = 0.01
"""Å within which the symmetry of crystals to learn from is found."""


def with_sites(crystals: Crystals, tolerance: float = SYMPREC) -> Crystals:
    """Put crystals into primitive cells of standard settings, one atom of each orbit first.

    Those that have the properties `SPACE_GROUP` and `NUM_SITES` already come back as they are.

    Args:
        crystals: any.
        tolerance: Å within which symmetry is found; what is found is made exact.

    Returns:
        Crystals with both properties; those whose symmetry is not understood are failures.
    """
    if {SPACE_GROUP, NUM_SITES} <= crystals.properties.keys():
        return crystals
    # Machines that only train, on packed crystals, have nothing that finds symmetry.
    from crysmetrics.space_groups.assignment import assign_orbits
    from crysmetrics.symmetry import cells_of

    builder, failures = CrystalsBuilder(), list(crystals.failures)
    with task("Finding space groups", len(crystals)) as advance:
        for i, cell in enumerate(cells_of(crystals)):
            name = crystals.ids[i]
            properties = {key: values[i].item() for key, values in crystals.properties.items()}
            try:
                found = assign_orbits(cell, tolerance)
            except ValueError as error:
                failures.append(Failure(name, str(error)))
            else:
                basis = found.space_group.primitive_basis
                lattice, frac, numbers = found.cell(basis)
                sites = np.unique(Orbits(found.space_group, found.positions, basis).first)
                order = np.concatenate([sites, np.setdiff1d(np.arange(len(numbers)), sites)])
                properties |= {SPACE_GROUP: found.space_group.number, NUM_SITES: len(sites)}
                builder.add(
                    name, numbers[order], frac[order], lattice, source=name, properties=properties
                )
            advance(1)
    built = builder.build()
    return built.with_failures((*failures, *built.failures))


def main() -> None:
    """Pack crystals in primitive cells of standard settings."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("packed", type=Path, help="packed crystals, with the property `split`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="an .npz")
    arguments = parser.parse_args()
    crystals = with_sites(Crystals.load(arguments.packed))
    crystals.save(arguments.output)
    print(f"{len(crystals)} crystals, {len(crystals.failures)} left out")


if __name__ == "__main__":
    main()
