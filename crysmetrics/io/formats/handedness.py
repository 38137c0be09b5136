"""Right-handed cells, the only kind that some formats can state."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io.crystals import Crystals, wrap


def right_handed(crystal: Crystals) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Turn a crystal into a right-handed cell: lattice and fractional coordinates.

    All three vectors of a left-handed cell change their sign, and so do the positions: written
    as they are, they would come back as the mirror image.
    """
    cell, frac = crystal.lattices[0], crystal.frac_coords
    return (cell, frac) if np.linalg.det(cell) > 0 else (-cell, wrap(-frac))
