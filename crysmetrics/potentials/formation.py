"""Formation energies on the Materials Project's scale from a potential's total energies.

A total energy minus those of the elements by the same potential is a formation energy. The
elements' energies are fitted: those with which the potential comes nearest to the formation
energies of the Materials Project for some hundred stable compounds
(`benchmarks/make_element_energies.py`). So a potential's systematic errors for an element go out,
and elements need no structures of their own. To energies of potentials that learned uncorrected
ones, the corrections of the Materials Project are added first (Wang et al., Sci. Rep. 11, 15496
(2021)), by pymatgen.
"""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import UserError
from crysmetrics.io import Crystals
from crysmetrics.io.elements import ATOMIC_NUMBERS, SYMBOLS
from crysmetrics.potentials.base import Potential

FOLDER = Path(__file__).parent / "elements"
"""Where the fitted energies are, one JSON file for the weights of each potential."""
HUBBARD_U = {
    **{"Co": 3.32, "Cr": 3.7, "Fe": 5.3, "Mn": 3.9, "Mo": 4.38, "Ni": 6.2, "V": 3.25, "W": 6.2}
}
"""eV, of the Materials Project, in compounds with O or F."""


def formation_energies(
    crystals: Crystals, energies: NDArray[np.float64], potential: Potential
) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Compute formation energies (B,) in eV/atom from total energies (B,) in eV/atom.

    Returns:
        NaN, with a reason by row, where there is no total energy or no energy of an element.

    Raises:
        UserError: if no energies of elements are known for this potential.
    """
    elements = element_energies(potential)
    found = np.full(len(crystals), np.nan)
    reasons = {}
    for i, crystal in enumerate(crystals):
        unknown = [z for z in crystal.atomic_numbers.tolist() if z not in elements]
        if unknown:
            symbol = SYMBOLS[unknown[0]]
            reasons[i] = f"the energy of the element {symbol} is not known for {potential.title}"
        elif not np.isfinite(energies[i]):
            reasons[i] = "it has no energy"
        else:
            total = energies[i] if potential.corrected else energies[i] + correction(crystal)
            found[i] = total - np.mean([elements[z] for z in crystal.atomic_numbers.tolist()])
    return found, reasons


def element_energies(potential: Potential) -> dict[int, float]:
    """Read the energies of the elements in eV/atom by atomic number, for a potential.

    Raises:
        UserError: if there are none for its weights.
    """
    if potential.element_energies is not None:
        return dict(potential.element_energies)
    known = _all_elements().get(potential.identity()["sha256"])
    if known is None:
        raise UserError(
            f"There are no energies of the elements for {potential.name}; "
            "benchmarks/make_element_energies.py fits them."
        )
    return known


@cache
def _all_elements() -> dict[str, dict[int, float]]:
    found = {}
    for path in FOLDER.glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        found[content["sha256"]] = {
            ATOMIC_NUMBERS[s]: float(e) for s, e in content["energies"].items()
        }
    return found


def correction(crystal: Crystals) -> float:
    """Compute the Materials Project's corrections of a crystal's energy, in eV/atom.

    Compounds of O or F with metals that it computes with a Hubbard U count as computed so.
    """
    from pymatgen.core import Lattice, Structure
    from pymatgen.entries.compatibility import CompatibilityError
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    structure = Structure(
        Lattice(crystal.lattices[0]), crystal.atomic_numbers.tolist(), crystal.frac_coords
    )
    symbols = {site.specie.symbol for site in structure}
    with_u = sorted(symbols & HUBBARD_U.keys()) if symbols & {"O", "F"} else []
    parameters = {
        "run_type": "GGA+U" if with_u else "GGA",
        "hubbards": {symbol: HUBBARD_U[symbol] for symbol in with_u},
    }
    entry = ComputedStructureEntry(structure, 0.0, parameters=parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of electronegativities and oxidation states that miss
        try:
            adjustments = _scheme().get_adjustments(entry)
        except CompatibilityError:
            return 0.0
    return float(sum(adjustment.value for adjustment in adjustments)) / len(structure)


@cache
def _scheme() -> Any:
    from pymatgen.entries.compatibility import MaterialsProject2020Compatibility

    return MaterialsProject2020Compatibility(check_potcar=False)
