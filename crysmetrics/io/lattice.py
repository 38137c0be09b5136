"""Lattices from the lengths and angles that files state."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def lattice_from_parameters(
    a: float, b: float, c: float, alpha: float, beta: float, gamma: float
) -> list[list[float]]:
    """Compute lattice rows from lengths (Å) and angles (degrees), c along z, a in the xz plane.

    This is pymatgen's orientation, so that Cartesian coordinates agree too.

    Raises:
        ValueError: if no cell has these parameters.
    """
    if not all(map(math.isfinite, (a, b, c, alpha, beta, gamma))):
        raise ValueError("has a cell that is not finite")
    if min(a, b, c) <= 0:
        raise ValueError(f"has a cell length that is not positive ({min(a, b, c):g} Å)")
    if not 0 < min(alpha, beta, gamma) <= max(alpha, beta, gamma) < 180:
        raise ValueError(
            f"has cell angles that are not between 0 and 180 ({alpha:g}, {beta:g}, {gamma:g})"
        )
    # NumPy's functions, in pymatgen's order: fingerprints of symmetric crystals hang on the last
    # bit, and the standard library's differ from them there.
    radians = np.radians([alpha, beta, gamma])
    cos_a, cos_b, cos_g = np.cos(radians).tolist()
    sin_a, sin_b, _ = np.sin(radians).tolist()
    product = sin_a * sin_b
    cosine = (cos_a * cos_b - cos_g) / product if product > 1e-12 else math.inf
    if not abs(cosine) < 1:
        raise ValueError(f"has cell angles that close no cell ({alpha:g}, {beta:g}, {gamma:g})")
    gamma_star = np.arccos(cosine)
    return [
        [a * sin_b, 0.0, a * cos_b],
        [
            -b * sin_a * float(np.cos(gamma_star)),
            b * sin_a * float(np.sin(gamma_star)),
            b * cos_a,
        ],
        [0.0, 0.0, c],
    ]


def lattice_parameters(
    lattice: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the lengths (3,) in Å and angles (3,) in degrees of lattice rows (3, 3) in Å.

    Angles are NaN where a vector has no length.
    """
    lengths = np.linalg.norm(lattice, axis=1)
    pairs = ((1, 2), (0, 2), (0, 1))
    with np.errstate(all="ignore"):
        cosines = [lattice[i] @ lattice[j] / (lengths[i] * lengths[j]) for i, j in pairs]
    return lengths, np.degrees(np.arccos(np.clip(cosines, -1, 1)))
