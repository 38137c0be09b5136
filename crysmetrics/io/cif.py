"""CIF reading: gemmi's C++ parser for the text, arrays for the crystal, pymatgen for the rest.

The structures are those of `pymatgen.core.Structure.from_str(text, fmt="cif")`: same cell
orientation, same rounding of 0.3333 to 1/3, same tolerance when symmetry is expanded. Two things
differ on purpose: where pymatgen drops sites or guesses P1 with a warning, there is a failure; and
a P1 crystal with two atoms on top of each other is read, since judging it is a metric's work.
"""

from __future__ import annotations

import math
import re
import warnings
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io.crystals import Failure, arrays_from_pymatgen
from crysmetrics.io.elements import ATOMIC_NUMBERS
from crysmetrics.io.parsed import Parsed, one_line, why_no_text

SITE_TOLERANCE = 1e-4
"""Fractional distance below which two images of a site are one atom (pymatgen's)."""
FRACTION_TOLERANCE = 1e-4
"""Relative distance to 1/3 or 2/3 below which a coordinate is taken to be it (pymatgen's)."""

MAX_FALLBACK_BYTES = 32 * 1024**2
"""Longest text that is handed on to pymatgen, which needs about a minute for this much."""

_LOW, _HIGH = (1 - FRACTION_TOLERANCE) / 3, (1 + FRACTION_TOLERANCE) / 3

_OPERATION_TAGS = (
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop_operation_xyz",
    "_space_group_symop.operation_xyz",
)
_SYMMETRY_TAGS = (
    "_symmetry_space_group_name_H-M",
    "_symmetry_space_group_name_H_M",
    "_space_group_name_H-M_alt",
    "_space_group_name_Hall",
    "_symmetry_space_group_name_Hall",
    "_space_group_IT_number",
    "_symmetry_Int_Tables_number",
)
_P1_NAMES = ("P1", "1", "?", ".")
_MAGNETIC_TAGS = ("_space_group_symop_magn_operation.xyz", "_space_group_symop_magn_operation_xyz")
_SITE_TAGS = tuple(
    f"_atom_site_{name}"
    for name in ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy")
)
_CELL_TAGS = tuple(
    f"_cell_{name}"
    for name in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
)
# Nh in this spelling is nihonium.
_IMPLICIT_HYDROGEN = re.compile(r"(?i:wat|o-h|h2o)|(?i:oh2?|nh[34])$|(NH|nh)$")


class _BeyondFastPath(Exception):
    """Legal CIF that only the slower parser understands."""


def parse_cif(text: str, source: str) -> list[Parsed | Failure]:
    """All structures of a CIF text, in order; a failure stands where a block can't be read.

    Blocks that describe no structure (no cell, no sites) are passed over.

    Args:
        text: the file's content.
        source: the file's name, for failures.
    """
    import gemmi

    reason = why_no_text(text)
    if reason is not None:
        return [Failure(source, reason)]
    try:
        # Checks are off because repeated block names are common in concatenated files.
        document = gemmi.cif.read_string(text, 0)
    except (ValueError, RuntimeError) as error:
        return _parse_apart(text, source, _say_syntax(error))
    blocks = [block for block in document if _is_structure(block)]
    if not blocks:
        return [Failure(source, "holds no atom sites")]
    results: list[Parsed | Failure] = []
    for number, block in enumerate(blocks, start=1):
        name = source if len(blocks) == 1 else f"{source} block {number} ({block.name})"
        try:
            numbers, frac, lattice = _parse_block(block)
        except _BeyondFastPath as error:
            alone = text if len(blocks) == 1 else block.as_string()
            results.append(_parse_with_pymatgen(alone, name, str(error), block.name))
        except ValueError as error:
            results.append(Failure(name, one_line(error)))
        else:
            results.append(Parsed(block.name.strip() or None, numbers, frac, lattice, name))
    return results


def _parse_apart(text: str, source: str, why: str) -> list[Parsed | Failure]:
    """Structures of a text with an error in it: block by block, so that only one is lost."""
    starts = [match.start() for match in re.finditer(r"(?im)^data_", text)]
    if len(starts) < 2:
        return [_parse_with_pymatgen(text, source, why)]
    results: list[Parsed | Failure] = []
    for number, (start, end) in enumerate(pairwise([*starts, len(text)]), start=1):
        block = text[start:end]
        if re.search(r"(?im)^\s*_(cell_length_a|atom_site_)", block):
            results += parse_cif(block, f"{source} block {number} ({block[5:45].split()[0]})")
    return results or [Failure(source, f"can't be read as CIF ({why})")]


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
        raise ValueError(f"has cell angles that are none ({alpha:g}, {beta:g}, {gamma:g})")
    # NumPy's functions, in pymatgen's order: fingerprints of symmetric crystals hang on the last
    # bit, and the standard library's differ from them there.
    radians = np.radians([alpha, beta, gamma])
    cos_a, cos_b, cos_g = np.cos(radians).tolist()
    sin_a, sin_b, _ = np.sin(radians).tolist()
    cosine = (cos_a * cos_b - cos_g) / (sin_a * sin_b)
    if abs(cosine) >= 1:
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


def _is_structure(block: Any) -> bool:
    """Whether a block has atoms or a cell; others hold a publication's text."""
    return bool(
        block.find_loop("_atom_site_fract_x")
        or block.find_value("_cell_length_a") is not None
        or block.find_value("_atom_site_fract_x") is not None
    )


def _parse_block(
    block: Any,
) -> tuple[NDArray[np.int64], NDArray[np.float64], list[list[float]]]:
    """Elements, positions and lattice of one gemmi block.

    Raises:
        ValueError: with the reason, if it is no ordered crystal.
        _BeyondFastPath: if pymatgen should try.
    """
    cell = [block.find_value(tag) for tag in _CELL_TAGS]
    if None in cell:
        # A cubic cell may state one length only.
        raise _BeyondFastPath(f"{_CELL_TAGS[cell.index(None)]} is missing")
    lattice = lattice_from_parameters(*map(_number, cell, _CELL_TAGS))
    sites = _site_columns(block)
    coords = [_coordinates(sites.get(f"_atom_site_fract_{axis}", []), axis) for axis in "xyz"]
    if not coords[0]:
        raise ValueError("holds no atom sites with fractional coordinates")
    symbols = sites.get("_atom_site_type_symbol", [])
    if symbols and not {"?", "."} & {*symbols}:
        numbers = [_element(s) for s in symbols]
    else:
        symbols = sites.get("_atom_site_label", [])
        numbers = [_element_of_label(s) for s in symbols]
    if not len(numbers) == len(coords[0]) == len(coords[1]) == len(coords[2]):
        raise ValueError("has atom sites with missing columns")
    _refuse_disorder(sites.get("_atom_site_occupancy", []), symbols)
    if not {"0", ".", "?"}.issuperset(sites.get("_atom_site_attached_hydrogens", [])):
        raise ValueError("has implicit hydrogens without positions")
    frac = np.array(coords).T
    found = np.array(numbers, dtype=np.int64)
    operations = _operations(block)
    if operations is not None:
        if not np.isfinite(frac).all():
            raise ValueError("has a position that is not a finite number")
        found, frac = _expand(found, frac, *operations)
    _refuse_truncated(block, len(found))
    return found, frac, lattice


def _site_columns(block: Any) -> dict[str, list[str]]:
    """Columns of the atom sites by tag in lower case."""
    loop = block.find_loop("_atom_site_fract_x").get_loop()
    if loop is None:  # a single atom may be written without a loop
        return {tag: list(block.find_values(tag)) for tag in _SITE_TAGS}
    # One call for all values is several times faster than one for each column.
    tags, values = loop.tags, loop.values
    return {tag.lower(): values[k :: len(tags)] for k, tag in enumerate(tags)}


def _number(value: str, what: str) -> float:
    try:
        return float(value)
    except ValueError:
        # 5.043(2) carries its uncertainty in brackets.
        bare = re.sub(r"\(\d*\)?$", "", value.strip("'\""))
        try:
            return float(bare)
        except ValueError:
            raise ValueError(f"has {value!r} where a number should stand ({what})") from None


def _coordinates(values: list[str], axis: str) -> list[float]:
    try:
        found = list(map(float, values))
    except ValueError:
        found = [_number(v, f"fract_{axis}") for v in values]
    # Unrounded, 0.3333 would be moved off its place by a threefold axis.
    return [1 / 3 if _LOW < v < _HIGH else 2 / 3 if _LOW < v / 2 < _HIGH else v for v in found]


@lru_cache(maxsize=4096)
def _element(symbol: str) -> int:
    """Atomic number of a type symbol such as Fe, FE, Fe3+ or O2-."""
    bare = symbol.strip("'\" ")
    if _IMPLICIT_HYDROGEN.match(bare):
        raise ValueError(f"has a site {bare!r} with implicit hydrogens")
    match = re.match(r"([A-Za-z]+)[\d.]*[+-]?\d*$", bare)
    number = ATOMIC_NUMBERS.get(match.group(1).title()) if match else None
    if number is None:
        if "+" in bare.strip("+-0123456789"):
            raise _BeyondFastPath(f"unusual type symbol {bare!r}")
        raise ValueError(f"holds an unknown element {bare!r}")
    return number


@lru_cache(maxsize=4096)
def _element_of_label(label: str) -> int:
    """Atomic number of a site label such as Fe1, O2A or OW1; two letters go before one."""
    bare = label.strip("'\" ")
    if _IMPLICIT_HYDROGEN.match(bare):
        raise ValueError(f"has a site {bare!r} with implicit hydrogens")
    letters = re.match(r"[A-Za-z]*", bare).group()  # type: ignore[union-attr]
    for candidate in (letters[:2].title(), letters[:1].upper()):
        if candidate in ATOMIC_NUMBERS:
            return ATOMIC_NUMBERS[candidate]
    raise ValueError(f"holds an unknown element {bare!r}")


def _refuse_disorder(occupancies: list[str], sites: list[str]) -> None:
    for occupancy in {*occupancies} - {"1", "1.0", ".", "?"}:
        value = _number(occupancy, "occupancy")
        if not abs(value - 1) < 1e-3:
            site = sites[occupancies.index(occupancy)]
            raise ValueError(f"is disordered: a site {site} has occupancy {value:g}")


def _refuse_truncated(block: Any, atoms: int) -> None:
    """Raise ValueError if a block has fewer atoms than the formula it states.

    A file cut off between two lines is otherwise a perfectly good one of another crystal.
    """
    formula = block.find_value("_chemical_formula_sum")
    stated = _formula_size(formula) if formula else None
    if stated is not None and atoms < stated:
        raise ValueError(f"has {atoms} atoms where its formula states {stated}; truncated?")


@lru_cache(maxsize=4096)
def _formula_size(formula: str) -> int | None:
    parts = re.findall(r"[A-Z][a-z]?([\d.]*)", formula)
    try:
        counts = [float(n) if n else 1.0 for n in parts]
    except ValueError:
        return None
    total = sum(counts)
    return int(total) if all(n == int(n) for n in counts) else None


def _operations(block: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Rotations (m, 3, 3) and translations (m, 3) of the block, or None for P1."""
    for tag in _OPERATION_TAGS:
        triplets = list(block.find_values(tag))
        if triplets:
            if len(triplets) == 1 and triplets[0].strip("'\"").replace(" ", "").lower() == "x,y,z":
                return None
            return _parse_operations(tuple(triplets))
    if any(len(block.find_values(tag)) for tag in _MAGNETIC_TAGS):
        raise _BeyondFastPath("magnetic symmetry operations")
    for tag in _SYMMETRY_TAGS:
        value = block.find_value(tag)
        if value is not None and value.strip("'\"").replace(" ", "").upper() not in _P1_NAMES:
            # Which setting a bare symbol means is a convention; leave it to pymatgen.
            raise _BeyondFastPath(f"its space group {value} comes without operations")
    return None


@lru_cache(maxsize=512)
def _parse_operations(
    triplets: tuple[str, ...],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    import gemmi

    try:
        operations = [gemmi.Op(t.strip("'\"")) for t in triplets]
    except (ValueError, RuntimeError) as error:
        raise _BeyondFastPath(f"symmetry operations ({one_line(error)})") from error
    scale = float(gemmi.Op.DEN)
    return (
        np.array([op.rot for op in operations]) / scale,
        np.array([op.tran for op in operations]) / scale,
    )


def _expand(
    numbers: NDArray[np.int64],
    frac: NDArray[np.float64],
    rotations: NDArray[np.float64],
    translations: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """All atoms of the cell: each site's images, those on top of each other counted once.

    Raises:
        ValueError: if two sites have an image in common.
    """
    images = np.einsum("mij,sj->smi", rotations, frac) + translations
    images -= np.floor(images)
    orbits = [orbit[_first_of_its_place(orbit)] for orbit in images]
    positions = np.concatenate(orbits)
    if len(orbits) > 1 and not _first_of_its_place(positions).all():
        raise ValueError("lists the same atom twice: two sites share a position")
    return np.repeat(numbers, [len(orbit) for orbit in orbits]), positions


def _first_of_its_place(frac: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) whether no earlier position is the same one, up to lattice vectors."""
    if len(frac) <= 256:
        delta = frac[:, None] - frac
        close = (np.abs(delta - np.round(delta)) < SITE_TOLERANCE).all(axis=2)
        return np.logical_not(np.tril(close, -1).any(axis=1))
    from scipy.spatial import cKDTree

    tree = cKDTree(frac % 1.0, boxsize=1.0)
    pairs = tree.query_pairs(SITE_TOLERANCE, p=np.inf, output_type="ndarray")
    first = np.ones(len(frac), dtype=bool)
    first[pairs[:, 1]] = False  # pairs are (i, j) with i < j
    return first


def _parse_with_pymatgen(
    text: str, source: str, why: str, name: str | None = None
) -> Parsed | Failure:
    """The structure of a block that the fast path could not read; `why` says what stopped it."""
    from pymatgen.io.cif import CifParser

    if len(text) > MAX_FALLBACK_BYTES:
        return Failure(source, f"can't be read as CIF ({why})")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parser = CifParser.from_str(text)
            structure = parser.parse_structures(primitive=False, on_error="raise")[0]
    except Exception:  # pymatgen raises whatever its parser ran into; `why` says it more plainly
        return Failure(source, f"can't be read as CIF ({why})")
    if any("Defaulting to P1" in warning for warning in parser.warnings):
        return Failure(source, f"can't be expanded: {why}")
    try:
        numbers, frac, lattice = arrays_from_pymatgen(structure)
    except ValueError as error:
        return Failure(source, str(error))
    return Parsed(name, numbers, frac, lattice, source)
