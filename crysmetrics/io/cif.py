"""CIF reading: gemmi's C++ parser for the text, arrays for the crystal, pymatgen for the rest.

The structures are those of `pymatgen.core.Structure.from_str(text, fmt="cif")`: same cell
orientation, same rounding of 0.3333 to 1/3, same tolerance when symmetry is expanded.
"""

from __future__ import annotations

import math
import re
import warnings
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io.crystals import Failure, arrays_from_pymatgen
from crysmetrics.io.elements import ATOMIC_NUMBERS
from crysmetrics.io.parsed import Parsed, one_line

SITE_TOLERANCE = 1e-4
"""Fractional distance below which two images of a site are one atom (pymatgen's)."""
FRACTION_TOLERANCE = 1e-4
"""Relative distance to 1/3 or 2/3 below which a coordinate is taken to be it (pymatgen's)."""

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
_MAGNETIC_TAGS = ("_space_group_symop_magn_operation.xyz", "_space_group_symop_magn_operation_xyz")
_CELL_TAGS = tuple(
    f"_cell_{name}"
    for name in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
)
_IMPLICIT_HYDROGEN = re.compile(r"(?i)^(wat|oh2?$|o-h|h2o|nh[34]?$)")


class _BeyondFastPath(Exception):
    """Legal CIF that only the slower parser understands."""


def parse_cif(text: str | bytes, source: str) -> list[Parsed | Failure]:
    """All structures of a CIF text, in order; a failure stands where a block can't be read.

    Args:
        text: the file's content.
        source: the file's name, for failures.
    """
    reason = why_no_text(text)
    if reason is not None:
        return [Failure(source, reason)]
    import gemmi

    try:
        # Checks are off because repeated block names are common in concatenated files.
        document = gemmi.cif.read_string(text, 0)
    except (ValueError, RuntimeError) as error:
        return _parse_with_pymatgen(text, source, one_line(error))
    blocks = [block for block in document if _has_atoms(block)]
    if not blocks:
        return [Failure(source, "holds no atom sites with fractional coordinates")]
    results: list[Parsed | Failure] = []
    for number, block in enumerate(blocks, start=1):
        name = source if len(blocks) == 1 else f"{source} block {number} ({block.name})"
        try:
            numbers, frac, lattice = _parse_block(block)
        except _BeyondFastPath as error:
            alone = text if len(blocks) == 1 else block.as_string()
            results += _parse_with_pymatgen(alone, name, one_line(error), block.name)[:1]
        except ValueError as error:
            results.append(Failure(name, one_line(error)))
        else:
            results.append(Parsed(block.name.strip() or None, numbers, frac, lattice, name))
    return results


def why_no_text(text: str | bytes) -> str | None:
    """The reason why a file's content can't be any structure format, or None."""
    head = text[:512].lstrip()
    if not head:
        return "is empty" if not text.strip() else None
    if isinstance(head, bytes):
        head = head.decode("utf-8", errors="replace")
    if re.match(r"(?i)<(!doctype html|html|\?xml|head|body)", head):
        return "is an HTML or XML page, not a structure"
    if "\0" in head:
        return "is a binary file, not text"
    return None


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
    cos_a, cos_b, cos_g = (math.cos(math.radians(x)) for x in (alpha, beta, gamma))
    sin_a, sin_b = math.sin(math.radians(alpha)), math.sin(math.radians(beta))
    cos_gs = (cos_a * cos_b - cos_g) / (sin_a * sin_b)
    if abs(cos_gs) >= 1:
        raise ValueError(f"has cell angles that close no cell ({alpha:g}, {beta:g}, {gamma:g})")
    sin_gs = math.sqrt(1 - cos_gs * cos_gs)
    return [
        [a * sin_b, 0.0, a * cos_b],
        [-b * sin_a * cos_gs, b * sin_a * sin_gs, b * cos_a],
        [0.0, 0.0, c],
    ]


def _has_atoms(block: object) -> bool:
    return len(block.find_values("_atom_site_fract_x")) > 0  # type: ignore[attr-defined]


def _parse_block(
    block: object,
) -> tuple[NDArray[np.int64], NDArray[np.float64], list[list[float]]]:
    """Elements, positions and lattice of one gemmi block.

    Raises:
        ValueError: with the reason, if it is no ordered crystal.
        _BeyondFastPath: if pymatgen should try.
    """

    def column(tag: str) -> list[str]:
        return list(block.find_values(tag))  # type: ignore[attr-defined]

    def scalar(tag: str) -> float:
        value = block.find_value(tag)  # type: ignore[attr-defined]
        if value is None:
            raise _BeyondFastPath(f"{tag} is missing")
        return _number(value, tag)

    lattice = lattice_from_parameters(*map(scalar, _CELL_TAGS))
    symbols = column("_atom_site_type_symbol")
    numbers = [_element(s) for s in symbols] if symbols else []
    if not symbols:
        numbers = [_element_of_label(s) for s in column("_atom_site_label")]
    coords = [_numbers(column(f"_atom_site_fract_{axis}"), axis) for axis in "xyz"]
    if not len(numbers) == len(coords[0]) == len(coords[1]) == len(coords[2]):
        raise ValueError("has atom sites with missing columns")
    _refuse_disorder(column("_atom_site_occupancy"), symbols or numbers)
    if any(h not in ("0", ".", "?") for h in column("_atom_site_attached_hydrogens")):
        raise ValueError("has implicit hydrogens without positions")
    frac = np.array(coords).T
    for ideal in (1 / 3, 2 / 3):
        near = np.abs(frac / ideal - 1) < FRACTION_TOLERANCE
        if near.any():
            frac[near] = ideal
    operations = _operations(block, column)
    if operations is None:
        _refuse_truncated(block, len(numbers))
        return np.array(numbers, dtype=np.int64), frac, lattice
    return (*_expand(np.array(numbers, dtype=np.int64), frac, *operations), lattice)


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


def _numbers(values: list[str], axis: str) -> list[float]:
    try:
        return list(map(float, values))
    except ValueError:
        return [_number(v, f"fract_{axis}") for v in values]


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


def _refuse_disorder(occupancies: list[str], sites: list[str] | list[int]) -> None:
    for occupancy, site in zip(occupancies, sites, strict=False):
        if occupancy in ("1", "1.0", ".", "?"):
            continue
        value = _number(occupancy, "occupancy")
        if not abs(value - 1) < 1e-3:
            raise ValueError(f"is disordered: a site {site} has occupancy {value:g}")


def _refuse_truncated(block: object, atoms: int) -> None:
    """Raise ValueError if a P1 block lists fewer atoms than the formula it states."""
    formula = block.find_value("_chemical_formula_sum")  # type: ignore[attr-defined]
    stated = _formula_size(formula) if formula else None
    if stated is not None and atoms < stated:
        raise ValueError(f"lists {atoms} atoms where its formula has {stated}; truncated?")


@lru_cache(maxsize=4096)
def _formula_size(formula: str) -> int | None:
    parts = re.findall(r"[A-Z][a-z]?([\d.]*)", formula)
    try:
        counts = [float(n) if n else 1.0 for n in parts]
    except ValueError:
        return None
    total = sum(counts)
    return int(total) if all(n == int(n) for n in counts) else None


def _operations(
    block: object, column: object
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Rotations (m, 3, 3) and translations (m, 3) of the block, or None for P1."""
    for tag in _OPERATION_TAGS:
        triplets = column(tag)  # type: ignore[operator]
        if triplets:
            if len(triplets) == 1 and triplets[0].strip("'\"").replace(" ", "").lower() == "x,y,z":
                return None
            return _parse_operations(tuple(triplets))
    if any(column(tag) for tag in _MAGNETIC_TAGS):  # type: ignore[operator]
        raise _BeyondFastPath("magnetic symmetry operations")
    for tag in _SYMMETRY_TAGS:
        value = block.find_value(tag)  # type: ignore[attr-defined]
        if value is not None and value.strip("'\"").replace(" ", "").upper() not in (
            *("P1", "1", "?", "."),
        ):
            # Which setting a bare symbol means is a convention; leave it to pymatgen.
            raise _BeyondFastPath("space group without its operations")
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
    """All atoms of the cell: each site's images, those on top of each other counted once."""
    images = np.einsum("mij,sj->smi", rotations, frac) + translations
    images -= np.floor(images)
    kept_numbers, kept = [], []
    for number, orbit in zip(numbers, images, strict=True):
        unique = orbit[:1]
        for position in orbit[1:]:
            delta = unique - position
            if not (np.abs(delta - np.round(delta)) < SITE_TOLERANCE).all(axis=1).any():
                unique = np.vstack([unique, position])
        if kept:
            delta = np.concatenate(kept) - unique[0]
            if (np.abs(delta - np.round(delta)) < SITE_TOLERANCE).all(axis=1).any():
                raise ValueError("lists the same atom twice: two sites share a position")
        kept.append(unique)
        kept_numbers.append(np.full(len(unique), number))
    return np.concatenate(kept_numbers), np.concatenate(kept)


def _parse_with_pymatgen(
    text: str | bytes, source: str, why: str, name: str | None = None
) -> list[Parsed | Failure]:
    """Structures of a text that the fast path could not read; `why` says what stopped it."""
    from pymatgen.io.cif import CifParser

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            string = text.decode() if isinstance(text, bytes) else text
            parser = CifParser.from_str(string)
            structures = parser.parse_structures(primitive=False, on_error="raise")
    except Exception as error:  # pymatgen raises whatever its parser ran into
        return [Failure(source, f"can't be read as CIF: {why}; pymatgen: {one_line(error)}")]
    results: list[Parsed | Failure] = []
    for number, structure in enumerate(structures, start=1):
        label = source if len(structures) == 1 else f"{source} block {number}"
        try:
            results.append(Parsed(name, *arrays_from_pymatgen(structure), label))
        except ValueError as error:
            results.append(Failure(label, str(error)))
    return results or [Failure(source, f"can't be read as CIF: {why}")]
