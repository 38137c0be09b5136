"""Tabulate properties of the elements, from which the networks of retrieval start."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io.elements import SYMBOLS

_PROPERTIES = (
    "X", "mendeleev_no", "atomic_radius", "average_ionic_radius", "row", "group", "is_metal",
    "is_metalloid", "is_halogen", "is_alkali", "is_alkaline", "is_rare_earth",
    "electron_affinity", "ionization_energy", "atomic_radius_calculated", "metallic_radius",
)  # fmt: skip
"""Names, in pymatgen, of the properties in the first columns of the table."""
_LAST_KNOWN = 103
"""Atomic number beyond which elements have no compounds, and pymatgen lacks their electrons."""


def element_table() -> NDArray[np.float64]:
    """Tabulate normalised properties (119, f) of elements by atomic number; 0 where unknown."""
    import warnings

    from pymatgen.core import Element

    def number(element: Element, name: str) -> float:
        try:
            return float(getattr(element, name))
        except (TypeError, ValueError, KeyError, AttributeError):
            return np.nan

    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for symbol in SYMBOLS[1 : _LAST_KNOWN + 1]:
            element = Element(symbol)
            states = element.common_oxidation_states or element.oxidation_states or (0,)
            shells = dict.fromkeys("spdf", 0.0)
            structure = element.full_electronic_structure
            last = max(shell[0] for shell in structure)
            for n, kind, electrons in structure:
                outer = {"s": n == last, "p": n == last, "d": n == last - 1, "f": n == last - 2}
                full = {"d": 10, "f": 14}.get(kind, 99)
                transition = kind == "d" and element.is_transition_metal
                if outer[kind] and (electrons < full or transition):
                    shells[kind] += electrons
            row = [number(element, name) for name in _PROPERTIES]
            row[3] = row[3] or np.nan  # 0 stands for unknown there
            row += [*shells.values(), max(states), min(states), len(states)]
            row += [element.block == block for block in "spdf"]
            row += [np.log(float(element.atomic_mass))]
            rows.append([float(value) for value in row])
    values = np.array(rows)
    values = (values - np.nanmean(values[:94], axis=0)) / np.nanstd(values[:94], axis=0)
    table = np.zeros((len(SYMBOLS), values.shape[1]))
    table[1 : _LAST_KNOWN + 1] = np.clip(np.nan_to_num(values), -5, 5)
    return table
