"""Structures that everybody knows: AFLOW prototypes by way of pymatgen, elements by way of ASE.

Prototypes are those of the AFLOW Library of Crystallographic Prototypes (Mehl et al., Comput.
Mater. Sci. 136, S1, 2017) that pymatgen ships. ASE's table of reference states has the structures
and cell edges of the elements; where it gives no positions, or another form than the stable one,
`ELEMENTS` says which prototype an element has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymatgen.core import Structure

AFLOW = ("aflow", "MIT (pymatgen); AFLOW Library of Crystallographic Prototypes")
"""Source and licence of the prototypes."""
ASE = ("ase", "LGPL-2.1-or-later (ASE); edges after Kittel, Ashcroft and Mermin")
"""Source and licence of the elements."""
COMMON_NAMES = {
    "A_cF4_225_a": "face-centred cubic",
    "A_cI2_229_a": "body-centred cubic",
    "A_hP2_194_c": "hexagonal close-packed",
    "A_hP4_194_ac": "double hexagonal close-packed",
    "A_cP1_221_a": "simple cubic",
    "A_hR3_166_ac": "samarium type",
    "A_cF8_227_a": "diamond",
    "AB_cF8_225_a_b": "rock salt",
    "AB_cF8_216_c_a": "zinc blende",
    "AB_cP2_221_b_a": "caesium chloride",
    "AB3C_cP5_221_a_c_b": "perovskite",
    "AB2_hP3_164_a_d": "cadmium iodide",
    "AB2_hP3_191_a_d": "aluminium diboride",
    "A3B_cP4_221_d_a": "rhenium trioxide",
    "A_hR2_166_c/As": "arsenic",
    "AB_hP4_194_c_a": "nickel arsenide",
    "A_tI2_139_a/In": "indium",
    "A_oC8_64_f/I": "iodine",
}
"""Names in common use, by AFLOW label, where the table has none, several, or a mineral that few
know; behind a stroke the compound where several share a label."""
ELEMENTS: dict[str, tuple[str, tuple[float, ...] | None]] = {
    "B": ("A_hR12_166_2h", None),
    "C": ("A_hP4_194_bc", None),
    "N": ("A_cP8_205_c", None),
    "O": ("A_mC4_12_i", None),
    "P": ("A_oC8_64_f/P", None),
    "S": ("A_oF128_70_4h", None),
    "Mn": ("A_cI58_217_ac2g", None),
    "Ga": ("A_oC8_64_f/Ga", None),
    "Se": ("A_hP3_152_a", None),
    "Te": ("A_hP3_152_a", (4.45, 4.45, 5.92)),
    "I": ("A_oC8_64_f/I", None),
    "La": ("A_hP4_194_ac", None),
    "Pr": ("A_hP4_194_ac", (3.67, 3.67, 11.84)),
    "Nd": ("A_hP4_194_ac", (3.66, 3.66, 11.80)),
    "Pm": ("A_hP4_194_ac", (3.65, 3.65, 11.65)),
    "Sn": ("A_tI4_141_a", None),
}
"""Prototype of an element, and edges of its conventional cell in Å where the prototype is shown by
another element: those of ASE's table, but for promethium's (Pallmer and Chikalla, J. Less-Common
Met. 24, 233, 1971). Carbon is graphite, tin is white tin; lanthanum, praseodymium and neodymium
stack four layers, which the table calls hcp."""
_MOLECULAR = {
    # Mills et al., Phys. Rev. 145, 1966, at 4 K: molecules on the sites of hcp, freely turning.
    "H": (194, (3.76, 3.76, 6.11, 90.0, 90.0, 120.0), (1 / 3, 2 / 3, 0.1894)),
    # Pauling, Keaveny and Robinson, J. Solid State Chem. 2, 225, 1970: alpha fluorine, C2/c.
    "F": (15, (5.50, 3.28, 7.28, 90.0, 102.17, 90.0), (0.1040, 0.0932, 0.0597)),
    # Powell, Heal and Torrie, Mol. Phys. 53, 929, 1984: chlorine and bromine, molecules in planes.
    "Cl": (64, (6.24, 4.48, 8.26, 90.0, 90.0, 90.0), (0.0, 0.117, 0.102)),
    "Br": (64, (6.67, 4.48, 8.72, 90.0, 90.0, 90.0), (0.0, 0.135, 0.110)),
    # Helium is hcp wherever it is solid at low pressure (Henshaw, Phys. Rev. 109, 328, 1958).
    "He": (194, (3.57, 3.57, 5.83, 90.0, 90.0, 120.0), (1 / 3, 2 / 3, 1 / 4)),
}
"""Space group, cell and site of elements of which no table has more than a molecule."""


def aflow_prototypes() -> Iterator[tuple[str, str, Structure]]:
    """Yield id, name and structure of each prototype that pymatgen ships.

    A name is the Strukturbericht designation and a mineral or compound: `B1, rock salt`.
    """
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    seen: dict[str, int] = {}
    for entry in AFLOW_PROTOTYPE_LIBRARY:
        structure = entry["snl"].structure
        formula = structure.composition.reduced_formula
        name = f"aflow-{entry['tags']['aflow']}-{formula}"
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            name += f"-{seen[name]}"
        yield name, prototype_name(entry["tags"], formula), structure


def prototype_name(tags: dict[str, str], formula: str) -> str:
    """Name a prototype by its Strukturbericht designation, and a mineral or compound."""
    given = tags["strukturbericht"].replace("_", "").replace("\\", "")
    designation = given if re.fullmatch(r"[A-L]\w*'*\d*", given) and given != "None" else ""
    label = tags["aflow"]
    symbol = re.sub(r"\d", "", formula) if len(formula) < 4 else formula
    mineral = re.sub(r"\$.*?\$|\\'\{(\w)\}|\\", r"\1", tags["mineral"])
    mineral = re.split(r",(?![^(]*\))|:", mineral)[0].strip()
    common = COMMON_NAMES.get(f"{label}/{symbol}") or COMMON_NAMES.get(label)
    if common is None:
        # Mistaken entries of the table: a space group, a surface alloy.
        no_name = not mineral or re.match(r"I4/mcm|Hg_xSn|.*Theoretical", mineral)
        common = f"{formula} type" if no_name else _decapitalised(mineral)
        if re.fullmatch(r"(high|low|alpha|beta|gamma)", common):
            common = f"{common} {formula}"
    return f"{designation}, {common}" if designation else common


def _decapitalised(mineral: str) -> str:
    """Write minerals small, and names of people and formulas as they are."""
    return re.sub(
        r"\b(?!Laves|Heusler|Frank|Kasper|Hittorf|Bergman|Zintl)[A-Z][a-z]{3,}",
        lambda word: word.group().lower(),
        mineral,
    )


def element_structures() -> Iterator[tuple[str, Structure]]:
    """Yield id and structure of each element from hydrogen to bismuth.

    It is the form that is stable at room temperature, or the ground state where that is a gas.
    """
    from ase.data import chemical_symbols

    prototypes = {
        name.removeprefix("aflow-"): structure for name, _, structure in aflow_prototypes()
    }
    for number in range(1, 84):
        symbol = chemical_symbols[number]
        yield f"ase-{symbol}", _element(symbol, number, prototypes)


def _element(symbol: str, number: int, prototypes: dict[str, Structure]) -> Structure:
    from pymatgen.core import Lattice, Structure

    if symbol in _MOLECULAR:
        group, cell, site = _MOLECULAR[symbol]
        return Structure.from_spacegroup(group, Lattice.from_parameters(*cell), [symbol], [site])
    if symbol in ELEMENTS:
        label, edges = ELEMENTS[symbol]
        return _placed(symbol, label, edges, prototypes)
    return _of_reference_state(symbol, number)


def _placed(
    symbol: str, label: str, edges: tuple[float, ...] | None, prototypes: dict[str, Structure]
) -> Structure:
    """Put an element into a prototype, with other edges of its conventional cell where given."""
    from pymatgen.core import Lattice
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    label, _, of = label.partition("/")
    found = next(
        structure
        for name, structure in prototypes.items()
        if name.startswith(f"{label}-{of}") and (not of or name.endswith(f"-{of}"))
    )
    whole = SpacegroupAnalyzer(found, 0.05).get_conventional_standard_structure()
    if edges is not None:
        whole.lattice = Lattice.from_parameters(*edges, *whole.lattice.angles)
    whole.replace_species(dict.fromkeys(whole.composition.elements, symbol))
    return whole


def _of_reference_state(symbol: str, number: int) -> Structure:
    """Build an element's crystal from ASE's table alone."""
    from ase.build import bulk
    from ase.data import reference_states
    from pymatgen.core import Lattice, Structure
    from pymatgen.io.ase import AseAtomsAdaptor

    state = reference_states[number]
    if state["symmetry"] == "rhombohedral":
        angle = state["alpha"]
        lattice = Lattice.from_parameters(*[state["a"]] * 3, *[angle] * 3)
        places = [[x] * 3 for x in state["basis_x"]]
        return Structure(lattice, [symbol] * len(places), places)
    if state["symmetry"] == "bct":  # positions are in the conventional cell, without centring
        places = [
            [(x + shift) % 1 for x in place]
            for place in state.get("basis") or [[0.0, 0.0, 0.0]]
            for shift in (0.0, 0.5)
        ]
        lattice = Lattice.tetragonal(state["a"], state["a"] * state["c/a"])
        return Structure(lattice, [symbol] * len(places), places)
    return AseAtomsAdaptor.get_structure(bulk(symbol))
