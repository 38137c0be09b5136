"""CIF reading: gemmi's C++ parser for the text, arrays for the crystal.

The structures are those of `pymatgen.core.Structure.from_str(text, fmt="cif")`: same cell
orientation, same rounding of 0.3333 to 1/3, same tolerance when symmetry is expanded. What differs
does so on purpose: where pymatgen drops sites, guesses an origin or P1 with a warning, or goes on
although the stated formula says otherwise, there is a failure; and a P1 crystal with two atoms on
top of each other is read, since judging it is a metric's work.
"""

from __future__ import annotations

import math
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
from crysmetrics.io.cif_settings import possible_operations
from crysmetrics.io.cif_symmetry import Operations, expand, parse_operations, refuse_large
from crysmetrics.io.cif_syntax import (
    LooseBlock,
    loose_copy,
    parse_loosely,
    split_blocks,
    without_wrapping,
)
from crysmetrics.io.crystals import Failure
from crysmetrics.io.parsed import Parsed, one_line, printable, shorten, why_no_text

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


def parse_cif(text: str, source: str, max_atoms: int | None = None) -> list[Parsed | Failure]:
    """All structures of a CIF text, in order; a failure stands where a block can't be read.

    Blocks that describe no structure (no cell, no sites) are passed over.

    Args:
        text: the file's content.
        source: the file's name, for failures.
        max_atoms: larger cells become failures before they are expanded; None allows all.
    """
    import gemmi

    reason = why_no_text(text)
    if reason is not None:
        return [Failure(source, reason)]
    try:
        # Checks are off because repeated block names are common in concatenated files.
        document = gemmi.cif.read_string(text, 0)
    except TypeError:  # bytes that were no text, which its strings can't hold
        return parse_cif(printable(text), source, max_atoms)
    except (ValueError, RuntimeError) as error:
        return _parse_broken(text, source, _say_syntax(error), max_atoms)
    # One is asked for first, since nearly all files have one.
    blocks = _structure_blocks([document[0]] if len(document) == 1 else list(document), text)
    if len(blocks) > 1:
        blocks = _without_global(blocks)
    if not blocks:
        return [Failure(source, "holds no atom sites")]
    if len(blocks) == 1:
        return [_parse_named(blocks[0], source, max_atoms)]
    return [
        _parse_named(block, f"{source} block {number} ({shorten(block.name)})", max_atoms)
        for number, block in enumerate(blocks, start=1)
    ]


def _parse_named(block: Any, name: str, max_atoms: int | None) -> Parsed | Failure:
    try:
        numbers, frac, lattice = _parse_block(block, max_atoms)
    except ValueError as error:
        return Failure(name, one_line(error))
    return Parsed(block.name.strip() or None, numbers, frac, lattice, name)


def _parse_broken(
    text: str, source: str, why: str, max_atoms: int | None
) -> list[Parsed | Failure]:
    """Structures of a text with an error in it: block by block, so that only one is lost."""
    inside = without_wrapping(text)
    if inside is not None:
        return parse_cif(inside, source, max_atoms)
    parts = split_blocks(text)
    if len(parts) == 1:
        return [_parse_loose(text, source, why, max_atoms)]
    results: list[Parsed | Failure] = []
    for number, part in enumerate(parts, start=1):
        if re.search(r"(?im)^[ \t]*_(cell[_.]length_a|atom_site[_.])", part):
            name = shorten(part[5:60].split()[0]) if part[5:60].strip() else ""
            results += _parse_part(part, f"{source} block {number} ({name})", max_atoms)
    return results or [Failure(source, f"can't be read as CIF ({why})")]


def _parse_part(text: str, source: str, max_atoms: int | None) -> list[Parsed | Failure]:
    """The structure of one block's text, which may be the one with the error."""
    import gemmi

    try:
        blocks = _structure_blocks(list(gemmi.cif.read_string(text, 0)), text)
    except (ValueError, RuntimeError) as error:
        return [_parse_loose(text, source, _say_syntax(error), max_atoms)]
    return [_parse_named(block, source, max_atoms) for block in blocks]


def _parse_loose(text: str, source: str, why: str, max_atoms: int | None) -> Parsed | Failure:
    block = parse_loosely(text, why)
    if _structure_block(block) is None:
        return Failure(source, f"can't be read as CIF ({why})")
    return _parse_named(block, source, max_atoms)


def _say_syntax(error: Exception) -> str:
    """gemmi's message (file:line:column: expected ...) without the file, which has no name."""
    return re.sub(r"^string:(\d+):\d+(\(\d+\))?:\s*", r"line \1: ", one_line(error))


def lattice_from_parameters(
    a: float, b: float, c: float, alpha: float, beta: float, gamma: float
) -> list[list[float]]:
    """Lattice rows from lengths (Å) and angles (degrees), c along z and a in the xz plane.

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


def _structure_blocks(blocks: list[Any], text: str) -> list[Any]:
    """Blocks with atoms or a cell; others hold a publication's text."""
    found = [b for block in blocks if (b := _structure_block(block)) is not None]
    if text.count("_atom_site_fract_x") > (1 if len(found) == 1 else sum(map(_has_sites, found))):
        # Perhaps two lists of sites in one block, of which gemmi would find the first.
        copies = map(loose_copy, blocks)
        found = [copy for copy in copies if _structure_block(copy) is not None]
    return found


def _without_global(blocks: list[Any]) -> list[Any]:
    """Blocks without those called global; a cell or symmetry that only stands there holds for all.

    Some programs put the cell among what is true of all blocks, once or again.
    """
    is_global = [b.name.lower().startswith("global") and not _has_sites(b) for b in blocks]
    if not any(is_global):
        return blocks
    common = loose_copy(blocks[is_global.index(True)])
    return [
        block if block.find_value("_cell_length_a") is not None else loose_copy(block).over(common)
        for block, is_common in zip(blocks, is_global, strict=True)
        if not is_common
    ]


def _structure_block(block: Any) -> Any:
    """The block with its tags as they are looked for; None if it has neither atoms nor a cell."""
    if isinstance(block, LooseBlock):
        return block if block.has("_cell_length_a") or _has_sites(block) else None
    if block.find_value("_cell_length_a") is not None and _has_sites(block):
        return block
    # Newer dictionaries have dots in their names.
    return _structure_block(loose_copy(block))


def _has_sites(block: Any) -> bool:
    if isinstance(block, LooseBlock):
        return block.has("_atom_site_fract_x")
    return bool(
        block.find_loop("_atom_site_fract_x") or block.find_value("_atom_site_fract_x") is not None
    )


def _parse_block(block: Any, max_atoms: int | None) -> _Arrays:
    """Elements, positions and lattice of one block.

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
    """Lengths (Å) and angles (degrees); those that a crystal system fixes may be left out."""
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
    """Columns of the atom sites by tag in lower case."""
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
    """Coordinates with 0.3333 as 1/3 and 0.6667 as 2/3: a threefold axis would move them."""
    near = np.abs(np.abs(coords - 0.5) - 1 / 6) < FRACTION_TOLERANCE
    if near.any():
        values = coords.reshape(-1)
        for i in near.reshape(-1).nonzero()[0].tolist():  # a few, for which this is faster
            v = values[i]
            values[i] = 1 / 3 if _LOW < v < _HIGH else 2 / 3 if _LOW < v / 2 < _HIGH else v
    return coords


def _elements(sites: dict[str, list[str]], formula: Formula | None) -> tuple[list[int], list[str]]:
    """Atomic number of each site, and what the file calls it."""
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
    """What the block's symmetry can be; None is P1. More than one if its origin is left open."""
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
    """How many atoms each site stands for, and all positions, by the operations that are meant.

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
    """(n,) one unit of the last digit of each site's coordinates; 0 where it is one or none.

    Zeros at the end may be left out, so few digits count only where all sites have few.
    """
    digits = [
        max(len(v.partition(".")[2].partition("(")[0]) for v in site)
        for site in zip(*texts, strict=True)
    ]
    most = max(digits)
    return np.array([10.0**-n if n > 1 else 0.0 for n in (n if n > 2 else most for n in digits)])
