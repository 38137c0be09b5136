"""One data block of a CIF as elements, positions and a lattice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io.cif_elements import element_of_label, element_of_type, strip_quotes
from crysmetrics.io.cif_formula import (
    Formula,
    multiple_of,
    parse_formula_units,
    stated_formula,
    why_not,
)
from crysmetrics.io.cif_orbits import expand, refuse_large
from crysmetrics.io.cif_settings import possible_operations
from crysmetrics.io.cif_symmetry import Operations, parse_operations
from crysmetrics.io.cif_syntax import LooseBlock
from crysmetrics.io.lattice import lattice_from_parameters
from crysmetrics.io.parsed import shorten

FRACTION_TOLERANCE = 1e-4
"""Relative distance to 1/3 or 2/3 below which a coordinate is taken to be it (pymatgen's)."""
MAX_NUMBER = 100
"""Longest number (characters) that is looked at."""

_LOW, _HIGH = (1 - FRACTION_TOLERANCE) / 3, (1 + FRACTION_TOLERANCE) / 3

_OPERATION_TAGS = (
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop_operation_xyz",
    "_space_group_symop.operation_xyz",
    "_space_group_symop_magn_operation.xyz",
    "_space_group_symop_magn_operation_xyz",
)
_IDENTITY = ("'x, y, z'", "'x,y,z'", "x,y,z")
_CENTERING_TAGS = (
    "_space_group_symop_magn_centering.xyz",
    "_space_group_symop_magn_centering_xyz",
)
_MAGNETIC_GROUP_TAGS = tuple(
    f"_space_group_magn.{name}" for name in ("name_BNS", "number_BNS", "name_OG", "number_OG")
)
_SITE_TAGS = tuple(
    f"_atom_site_{name}"
    for name in (
        *("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy"),
        *("attached_hydrogens", "calc_flag", "symmetry_multiplicity", "site_symmetry_multiplicity"),
    )
)
_CELL_TAGS = tuple(
    f"_cell_{name}"
    for name in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
)
_UNITS_TAG = "_cell_formula_units_Z"
_CELL_SETTING_TAGS = ("_symmetry_cell_setting", "_space_group_crystal_system")
# Which of the six parameters each of them is, by the crystal system; numbers are angles.
_CELL_RULES: dict[str, tuple[int | float, ...]] = {
    "cubic": (0, 0, 0, 90.0, 90.0, 90.0),
    "tetragonal": (0, 0, 2, 90.0, 90.0, 90.0),
    "orthorhombic": (0, 1, 2, 90.0, 90.0, 90.0),
    "hexagonal": (0, 0, 2, 90.0, 90.0, 120.0),
    "rhombohedral": (0, 0, 0, 3, 3, 3),
    "monoclinic": (0, 1, 2, 90.0, 4, 90.0),
}
_Arrays = tuple[NDArray[np.int64], NDArray[np.float64], list[list[float]]]


def parse_block(block: Any, max_atoms: int | None) -> _Arrays:
    """Read elements, positions and lattice of one block.

    Raises:
        ValueError: with the reason, if it is no ordered crystal.
    """
    lattice = lattice_from_parameters(*_cell(block))
    sites = _site_columns(block)
    texts = [sites.get(f"_atom_site_fract_{axis}", []) for axis in "xyz"]
    refuse_large(len(texts[0]), max_atoms)
    coords = [_coordinates(values, axis) for values, axis in zip(texts, "xyz", strict=True)]
    if not coords[0]:
        raise ValueError("holds no atom sites with fractional coordinates")
    formula = stated_formula(block.find_value)
    numbers, symbols = _elements(sites, formula)
    if not len(numbers) == len(coords[0]) == len(coords[1]) == len(coords[2]):
        raise ValueError("has atom sites with missing columns")
    _refuse_disorder(sites.get("_atom_site_occupancy", []), symbols)
    if not {"0", ".", "?"}.issuperset(sites.get("_atom_site_attached_hydrogens", [])):
        raise ValueError("has implicit hydrogens without positions")
    if "dum" in sites.get("_atom_site_calc_flag", ()):
        raise ValueError("has a dummy site, which is no atom")
    frac = _with_exact_thirds(np.array(coords)).T
    candidates = _operations(block, lattice)
    if candidates == [None]:
        atoms = {z: numbers.count(z) for z in {*numbers}}
        if formula and atoms != formula.counts:
            _refuse_other(formula, parse_formula_units(block.find_value(_UNITS_TAG)), atoms)
        return np.array(numbers, dtype=np.int64), frac, lattice
    if not np.isfinite(frac).all():
        raise ValueError("has a position that is not a finite number")
    units = parse_formula_units(block.find_value(_UNITS_TAG))
    counts, frac = _expand(frac, candidates, sites, (numbers, formula, units), texts, max_atoms)
    return np.repeat(np.array(numbers, dtype=np.int64), counts), frac, lattice


def _cell(block: Any) -> list[float]:
    """Read lengths (Å) and angles (degrees); those that a crystal system fixes may be left out."""
    values = [block.find_value(tag) for tag in _CELL_TAGS]
    try:
        return list(map(float, values))
    except (TypeError, ValueError):
        pass
    if None in values or "?" in values or "." in values:
        missing = next(i for i, v in enumerate(values) if v in (None, "?", "."))
        system = next((s for tag in _CELL_SETTING_TAGS if (s := block.find_value(tag))), "")
        rule = _CELL_RULES.get(strip_quotes(system).lower())
        if rule is None:
            raise ValueError(f"has no complete cell: {_CELL_TAGS[missing]} is missing")
        for i, same in enumerate(rule):
            if values[i] in (None, "?", "."):
                values[i] = str(same) if isinstance(same, float) else values[same]
        if None in values:
            missing = values.index(None)
            raise ValueError(f"has no complete cell: {_CELL_TAGS[missing]} is missing")
    return [_number(value, tag) for value, tag in zip(values, _CELL_TAGS, strict=True)]


def _site_columns(block: Any) -> dict[str, list[str]]:
    """Find columns of the atom sites by tag in lower case."""
    found = None if isinstance(block, LooseBlock) else block.find_loop("_atom_site_fract_x")
    loop = found.get_loop() if found else None
    if loop is None:  # a single atom may be written without a loop
        return {tag: list(block.find_values(tag)) for tag in _SITE_TAGS}
    # One call for all values is several times faster than one for each column.
    tags, values = loop.tags, loop.values
    width = len(tags)
    return {tag.lower(): values[k::width] for k, tag in enumerate(tags)}


def _number(value: str, what: str) -> float:
    if len(value) > MAX_NUMBER:
        raise ValueError(f"has a number of {len(value)} characters ({what})")
    try:
        return float(value)
    except ValueError:
        # 5.043(2) carries its uncertainty in brackets.
        bare = re.sub(r"\(\d*\)?$", "", strip_quotes(value))
        try:
            return float(bare)
        except ValueError:
            raise ValueError(f"has {value!r} where a number should stand ({what})") from None


def _coordinates(values: list[str], axis: str) -> list[float]:
    try:
        return list(map(float, values))
    except ValueError:
        return [_number(v, f"fract_{axis}") for v in values]


def _with_exact_thirds(coords: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace 0.3333 by 1/3 and 0.6667 by 2/3: a threefold axis would move such coordinates."""
    near = np.abs(np.abs(coords - 0.5) - 1 / 6) < FRACTION_TOLERANCE
    if near.any():
        values = coords.reshape(-1)
        for i in near.reshape(-1).nonzero()[0].tolist():  # a few, for which this is faster
            v = values[i]
            values[i] = 1 / 3 if _LOW < v < _HIGH else 2 / 3 if _LOW < v / 2 < _HIGH else v
    return coords


def _elements(sites: dict[str, list[str]], formula: Formula | None) -> tuple[list[int], list[str]]:
    """Find the atomic number of each site, and what the file calls it."""
    symbols, labels = sites.get("_atom_site_type_symbol", []), sites.get("_atom_site_label", [])
    unknown = "?" in symbols or "." in symbols
    if symbols and not unknown:
        return list(map(element_of_type, symbols)), symbols
    if unknown and len(symbols) != len(labels):
        raise ValueError("has a site whose element is not said")
    likely = frozenset(z for r in formula.readings for z in r) if formula else frozenset()
    if not symbols:
        return [element_of_label(label, likely) for label in labels], labels
    numbers = [
        element_of_label(label, likely) if symbol in ("?", ".") else element_of_type(symbol)
        for symbol, label in zip(symbols, labels, strict=True)
    ]
    return numbers, labels


def _refuse_disorder(occupancies: list[str], sites: list[str]) -> None:
    for occupancy in {*occupancies} - {"1", "1.0", ".", "?"}:
        value = _number(occupancy, "occupancy")
        if not abs(value - 1) < 1e-3:
            site = shorten(sites[occupancies.index(occupancy)])
            raise ValueError(f"is disordered: a site {site} has occupancy {value:g}")


def _refuse_other(formula: Formula, units: int | None, atoms: Mapping[int, int]) -> None:
    """Raise ValueError if a cell's atoms are not those of the stated formula.

    A file cut off between two lines is otherwise a perfectly good one of another crystal.
    """
    reason = why_not(formula, units, atoms)
    if reason is not None:
        raise ValueError(reason)


def _operations(block: Any, lattice: list[list[float]]) -> list[Operations | None]:
    """List what the block's symmetry can be; None is P1. Several if its origin is open."""
    for tag in _OPERATION_TAGS:
        triplets = block.find_values(tag)
        if len(triplets):
            if len(triplets) == 1 and triplets[0] in _IDENTITY:  # nearly all files
                return [None]
            centerings: list[str] = []
            if "magn" in tag:
                centerings = [c for other in _CENTERING_TAGS for c in block.find_values(other)]
            return [parse_operations(list(triplets), centerings)]
    for tag in _MAGNETIC_GROUP_TAGS:
        if block.find_value(tag) is not None:
            raise ValueError("can't be expanded: its magnetic group comes without operations")
    return possible_operations(block.find_value, np.array(lattice))


def _expand(
    frac: NDArray[np.float64],
    candidates: list[Operations | None],
    sites: dict[str, list[str]],
    stated: tuple[list[int], Formula | None, int | None],
    texts: list[list[str]],
    max_atoms: int | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Expand sites by the operations meant: atoms of each site, and all positions.

    Raises:
        ValueError: if the atoms are not those of the formula, or more than one candidate's are.
    """
    numbers, formula, units = stated
    rounding = _rounding(texts)
    found, reasons = [], []
    for operations in candidates:
        try:
            if operations is None:
                counts, positions = np.ones(len(frac), dtype=np.int64), frac
            else:
                counts, positions = expand(frac, operations, rounding=rounding, max_atoms=max_atoms)
            atoms: Counter[int] = Counter()
            for z, count in zip(numbers, counts.tolist(), strict=True):
                atoms[z] += count
            if formula:
                _refuse_other(formula, units, atoms)
        except ValueError as error:
            reasons.append(error)
            continue
        is_formula = formula is not None and multiple_of(formula, units, atoms) in (1, units)
        found.append((counts, positions, is_formula))
    if not found:
        raise reasons[0]
    if len(found) > 1:  # of Si16 and Si8, the formula Si8 means the second
        found = [f for f in found if f[2]] or found
    if len(found) > 1:
        stated_counts = _multiplicities(sites)
        found = [f for f in found if f[0].tolist() == stated_counts] or found
    if len(found) > 1:
        raise ValueError("names its space group but not which of its settings or origins is meant")
    return found[0][:2]


def _multiplicities(sites: dict[str, list[str]]) -> list[int]:
    for name in ("symmetry_multiplicity", "site_symmetry_multiplicity"):
        values = sites.get(f"_atom_site_{name}", [])
        if values and all(len(v) < 5 and v.isdigit() for v in values):
            return [int(v) for v in values]
    return []


def _rounding(texts: list[list[str]]) -> NDArray[np.float64]:
    """Compute one unit (n,) of the last digit of each site's coordinates; 0 for one or none.

    Zeros at the end may be left out, so few digits count only where all sites have few.
    """
    digits = [
        max(len(v.partition(".")[2].partition("(")[0]) for v in site)
        for site in zip(*texts, strict=True)
    ]
    most = max(digits)
    return np.array([10.0**-n if n > 1 else 0.0 for n in (n if n > 2 else most for n in digits)])
