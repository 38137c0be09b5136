"""Sites of a crystal that have come close to special positions, moved onto them.

Where the non-equivalent sites of a crystal are given, and not how many atoms they are, images of a
site that come together are one atom on a special position (adaptive-cell paper, Section 4.2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crysmetrics.space_groups.groups import SpaceGroup

MERGE_WITHIN = 0.7
"""Å below which images of a site are the same atom: chosen on samples and on real crystals
(benchmarks/RESULTS.md)."""
_SAME = 1e-4
"""Å within which a site stays where it is under an operation, and atoms are on an orbit."""
_ROUNDS = 8
"""Means of images after which a site has settled, or is left as it was."""


def merge_sites(
    atomic_numbers: NDArray[np.int64],
    frac_coords: NDArray[np.float64],
    lattice: NDArray[np.float64],
    group: SpaceGroup,
    within: float = MERGE_WITHIN,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Move sites whose images are close to each other onto the special position between them.

    Args:
        atomic_numbers: (n,).
        frac_coords: (n, 3) in the conventional cell of the group's standard setting, obeying it.
        lattice: (3, 3) rows in Å.
        group: the space group.
        within: Å between images that are the same atom.

    Returns:
        Atomic numbers (m,) and fractional coordinates (m, 3) in [0, 1) of fewer atoms, or as many,
        orbit after orbit. Different sites are not merged.
    """
    numbers, placed = [], []
    left = np.ones(len(atomic_numbers), dtype=bool)
    while left.any():
        first = int(left.argmax())
        own = left & (atomic_numbers == atomic_numbers[first])
        images = _images(frac_coords[first], group)
        away = _distances(frac_coords[own][:, None], images, lattice).min(axis=1)
        left[np.flatnonzero(own)[away < 10 * _SAME]] = False
        left[first] = False
        site = _settled(frac_coords[first], lattice, group, within)
        orbit = _distinct(_images(site, group), lattice)
        numbers.append(np.full(len(orbit), atomic_numbers[first]))
        placed.append(orbit)
    return np.concatenate(numbers), np.concatenate(placed)


def _settled(
    site: NDArray[np.float64], lattice: NDArray[np.float64], group: SpaceGroup, within: float
) -> NDArray[np.float64]:
    """Return the mean of the images around a site, which those operations leave where it is."""
    moved = site
    for _ in range(_ROUNDS):
        steps = _images(moved, group) - moved
        steps -= np.round(steps)
        away = np.linalg.norm(steps @ lattice, axis=1)
        near = away < within
        if away[near].max() < _SAME:
            return moved
        moved = moved + steps[near].mean(axis=0)
    return site


def _images(site: NDArray[np.float64], group: SpaceGroup) -> NDArray[np.float64]:
    found: NDArray[np.float64] = group.rotations @ site + group.translations
    return found


def _distances(
    one: NDArray[np.float64], other: NDArray[np.float64], lattice: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Measure Å between points, by the nearest copies along each axis of the cell."""
    steps = one - other
    found: NDArray[np.float64] = np.linalg.norm((steps - np.round(steps)) @ lattice, axis=-1)
    return found


def _distinct(points: NDArray[np.float64], lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drop points that are where an earlier one is; the rest come in [0, 1)."""
    same = _distances(points[:, None], points, lattice) < 10 * _SAME
    kept = points[same.argmax(axis=1) == np.arange(len(points))]
    wrapped: NDArray[np.float64] = kept - np.floor(kept)
    return wrapped
