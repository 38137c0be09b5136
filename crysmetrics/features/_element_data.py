"""Element data of CrystalNN, by atomic number."""

from __future__ import annotations

import numpy as np

_NAN = float("nan")

# Pauling electronegativities as in pymatgen's ``Element.X``, from hydrogen on; none is known for
# He, Ne, Ar and the elements beyond lawrencium.
# fmt: off
_PAULING = (
    2.2, _NAN, 0.98, 1.57, 2.04, 2.55, 3.04, 3.44, 3.98, _NAN, 0.93, 1.31, 1.61, 1.9, 2.19,
    2.58, 3.16, _NAN, 0.82, 1.0, 1.36, 1.54, 1.63, 1.66, 1.55, 1.83, 1.88, 1.91, 1.9, 1.65,
    1.81, 2.01, 2.18, 2.55, 2.96, 3.0, 0.82, 0.95, 1.22, 1.33, 1.6, 2.16, 1.9, 2.2, 2.28, 2.2,
    1.93, 1.69, 1.78, 1.96, 2.05, 2.1, 2.66, 2.6, 0.79, 0.89, 1.1, 1.12, 1.13, 1.14, 1.13, 1.17,
    1.2, 1.2, 1.1, 1.22, 1.23, 1.24, 1.25, 1.1, 1.27, 1.3, 1.5, 2.36, 1.9, 2.2, 2.2, 2.28, 2.54,
    2.0, 1.62, 2.33, 2.02, 2.0, 2.2, 2.2, 0.7, 0.9, 1.1, 1.3, 1.5, 1.38, 1.36, 1.28, 1.3, 1.3,
    1.3, 1.3, 1.3, 1.3, 1.3, 1.3, 1.3,
)

# Covalent radii in Å, from hydrogen to curium: Cordero et al., Dalton Trans. 2008, 2832, as in
# pymatgen's ``CovalentRadius`` (C, Mn, Fe and Co: sp3 or high spin as chosen there).
_CORDERO = (
    0.31, 0.28, 1.28, 0.96, 0.84, 0.73, 0.71, 0.66, 0.57, 0.58, 1.66, 1.41, 1.21, 1.11, 1.07,
    1.05, 1.02, 1.06, 2.03, 1.76, 1.7, 1.6, 1.53, 1.39, 1.5, 1.42, 1.38, 1.24, 1.32, 1.22, 1.22,
    1.2, 1.19, 1.2, 1.2, 1.16, 2.2, 1.95, 1.9, 1.75, 1.64, 1.54, 1.47, 1.46, 1.42, 1.39, 1.45,
    1.44, 1.42, 1.39, 1.39, 1.38, 1.39, 1.4, 2.44, 2.15, 2.07, 2.04, 2.03, 2.01, 1.99, 1.98,
    1.98, 1.96, 1.94, 1.92, 1.92, 1.89, 1.9, 1.87, 1.87, 1.75, 1.7, 1.62, 1.51, 1.44, 1.41,
    1.36, 1.36, 1.32, 1.45, 1.46, 1.48, 1.4, 1.5, 1.5, 2.6, 2.21, 2.15, 2.06, 2.0, 1.96, 1.9,
    1.87, 1.8, 1.69,
)
# fmt: on


def _by_atomic_number(values: tuple[float, ...]) -> np.ndarray:
    """Make an array (119,) with NaN where nothing is known; entry 0 is not an element."""
    table = np.full(119, np.nan)
    table[1 : len(values) + 1] = values
    return table


ELECTRONEGATIVITY = _by_atomic_number(_PAULING)
COVALENT_RADIUS = _by_atomic_number(_CORDERO)
