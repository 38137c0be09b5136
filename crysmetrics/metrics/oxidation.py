"""Charge neutrality with the Pauling test: SMACT's rule, without trying every combination."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import UserError
from crysmetrics.io.elements import MAX_ATOMIC_NUMBER, SYMBOLS

OXIDATION_STATE_SETS = (*("smact14", "icsd16", "icsd24", "icsd24-filtered", "pymatgen_sp", "wiki"),)
"""Names of the sets that SMACT carries. `smact14` made the published numbers of CDVAE and those
after it; `icsd24-filtered` is the default of SMACT 4."""


@dataclass(frozen=True)
class OxidationData:
    """Per atomic number: possible states, Pauling electronegativity, and whether it is a metal."""

    states: tuple[tuple[int, ...], ...]
    electronegativity: tuple[float | None, ...]
    is_metal: tuple[bool, ...]


@cache
def oxidation_data(name: str) -> OxidationData:
    """Read SMACT's tables under one of its sets of oxidation states.

    An element that SMACT does not know has no states and no electronegativity.

    Raises:
        UserError: if there is no such set.
    """
    if name not in OXIDATION_STATE_SETS:
        known = ", ".join(OXIDATION_STATE_SETS)
        raise UserError(f"There are no oxidation states {name!r}; known are {known}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import smact

        filtered = _filtered_states() if name == "icsd24-filtered" else {}
        states: list[tuple[int, ...]] = [()]
        electronegativity: list[float | None] = [None]
        attribute = f"oxidation_states_{'sp' if name == 'pymatgen_sp' else name}"
        for symbol in SYMBOLS[1:]:
            try:
                element = smact.Element(symbol)
            except (NameError, KeyError, ValueError):
                states.append(())
                electronegativity.append(None)
                continue
            if name == "icsd24-filtered":
                found = filtered.get(symbol)
            else:
                found = getattr(element, attribute)
            states.append(tuple(int(s) for s in found or ()))
            value = element.pauling_eneg
            electronegativity.append(None if value is None else float(value))
        metals = set(smact.metals)
    return OxidationData(
        tuple(states), tuple(electronegativity), tuple(s in metals for s in SYMBOLS)
    )


def _filtered_states() -> dict[str, list[int]]:
    """SMACT 4's default: the states that the ICSD reports often enough."""
    from smact.screening import ICSD24FilterConfig
    from smact.utils.oxidation import ICSD24OxStatesFilter

    config = ICSD24FilterConfig()
    table = ICSD24OxStatesFilter().filter(
        consensus=config.consensus,
        include_zero=config.include_zero,
        commonality=config.commonality,
    )
    return {
        row.element: [int(s) for s in str(row.oxidation_state).split()]
        for row in table.itertuples()
    }


def is_neutral(numbers: tuple[int, ...], counts: tuple[int, ...], data: OxidationData) -> bool:
    """Tell whether one state per element can be neutral and pass the Pauling test.

    The test asks that every cation be less electronegative than every anion. Such a choice is
    one where all elements up to some electronegativity carry charges >= 0 and all others <= 0,
    so it is enough to try each such split and ask which total charges can be reached.

    Args:
        numbers: atomic numbers of the elements.
        counts: atoms of each.
        data: states and electronegativities.
    """
    enegs = [data.electronegativity[z] for z in numbers]
    if any(e is None for e in enegs) or any(not data.states[z] for z in numbers):
        return False
    for limit in (-np.inf, *enegs):
        totals = {0}
        for z, n, eneg in zip(numbers, counts, enegs, strict=True):
            cation = eneg <= limit  # type: ignore[operator]
            charges = {n * s for s in data.states[z] if (s >= 0 if cation else s <= 0)}
            totals = {total + charge for total in totals for charge in charges}
            if not totals:
                break
        if 0 in totals:
            return True
    return False


def valid_compositions(element_counts: NDArray[np.int64], name: str) -> NDArray[np.bool_]:
    """Tell which compositions (B,) SMACT's rule accepts.

    Compositions of one element, and of metals alone, count as valid (CDVAE's script, and
    `smact_validity(use_pauling_test=True, include_alloys=True)`).

    Args:
        element_counts: (B, 119) atoms by atomic number.
        name: set of oxidation states.
    """
    assert element_counts.shape[1] == MAX_ATOMIC_NUMBER + 1
    data = oxidation_data(name)
    metal = np.array(data.is_metal)
    reduced = element_counts // np.gcd.reduce(element_counts, axis=1, keepdims=True)
    # Rows as single items: sorting them is many times faster than by 119 columns.
    rows = np.ascontiguousarray(reduced.astype(np.int32))
    items = rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).reshape(-1)
    _, first, index = np.unique(items, return_index=True, return_inverse=True)
    verdicts = np.zeros(len(first), dtype=bool)
    for i, row in enumerate(rows[first]):
        numbers = np.flatnonzero(row)
        verdicts[i] = (
            len(numbers) == 1
            or bool(metal[numbers].all())
            or is_neutral(tuple(numbers.tolist()), tuple(row[numbers].tolist()), data)
        )
    return verdicts[index.reshape(-1)]
