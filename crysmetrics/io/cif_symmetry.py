"""Symmetry operations of a CIF and the atoms that they make of its sites."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io.cif_elements import strip_quotes
from crysmetrics.io.parsed import shorten

SITE_TOLERANCE = 1e-4
"""Fractional distance below which two images of a site are one atom (pymatgen's)."""
MAX_OPERATIONS = 1536
"""Most symmetry operations: eight times those of the largest space groups' cells."""
MAX_OPERATION = 100
"""Longest symmetry operation (characters) that is looked at."""

_LARGEST_SITE_SYMMETRY = 48
"""Operations that can leave a place where it is: those of a cubic point group."""
_CHUNK = 1 << 18
"""Images that are held at once while atoms are counted."""
_SMALL = 64
"""Number of positions up to which all pairs are compared."""
_TWICE = "lists the same atom twice: two sites share a position"


class Operations(NamedTuple):
    """Symmetry operations x -> rotation @ x + translation, in fractional coordinates."""

    rotations: NDArray[np.float64]
    """(m, 3, 3)."""
    translations: NDArray[np.float64]
    """(m, 3)."""


def parse_operations(triplets: list[str], centerings: list[str]) -> Operations | None:
    """Return the operations of triplets such as x,-y,z+1/2, or None if only the identity is there.

    Args:
        triplets: as the file has them; those of magnetic groups have a fourth part, +1 or -1.
        centerings: of a magnetic group: each operation is followed by each of these.

    Raises:
        ValueError: naming the one that is no symmetry operation.
    """
    if any(triplet.endswith(",") for triplet in triplets):
        triplets = _joined(triplets)
    distinct = tuple(dict.fromkeys(triplets))
    count = len(distinct) * max(1, len(centerings))
    if count > MAX_OPERATIONS:
        raise ValueError(f"has {count} symmetry operations, more than {MAX_OPERATIONS}")
    longest = max(map(len, (*distinct, *centerings)))
    if longest > MAX_OPERATION:
        raise ValueError(f"has a symmetry operation of {longest} characters")
    operations = _parse(distinct)
    if centerings:
        operations = _followed_by(operations, _parse(tuple(centerings)))
    if len(operations.rotations) == 1:
        return None  # it is the identity, since that must be among them
    return operations


def _joined(pieces: list[str]) -> list[str]:
    """Operations written with blanks and without quotes (x, y, z), which are values apart."""
    return re.findall(r"[^\s,]+,\s*[^\s,]+,\s*[^\s,]+|\S+", " ".join(pieces))


@lru_cache(maxsize=512)
def _parse(triplets: tuple[str, ...]) -> Operations:
    parsed = [_parse_triplet(triplet) for triplet in triplets]
    rotations = np.array([[row[:3] for row in rows] for rows in parsed])
    translations = np.array([[row[3] for row in rows] for rows in parsed])
    _check(rotations, translations)
    wrapped = np.round(translations % 1.0, 6) % 1.0
    codes = np.concatenate([rotations.reshape(-1, 9), wrapped], axis=1)
    distinct = np.sort(np.unique(codes, axis=0, return_index=True)[1])
    operations = Operations(rotations[distinct], translations[distinct])
    if not _is_closed(operations):
        raise ValueError("has symmetry operations that are no group; is one missing?")
    return operations


def _check(rotations: NDArray[np.float64], translations: NDArray[np.float64]) -> None:
    """Raise ValueError if operations can't be a crystal's, or would move a site from its place."""
    determinants = np.abs(np.linalg.det(rotations))
    if not (np.abs(determinants - 1) < 1e-6).all() or (rotations != np.round(rotations)).any():
        raise ValueError("has a symmetry operation that changes volumes or is no operation")
    remainder = np.abs(translations - np.round(translations)).max(axis=1)
    identity = (np.abs(rotations - np.eye(3)).max(axis=(1, 2)) < 1e-6) & (remainder < 1e-6)
    if not identity.any():
        raise ValueError("has symmetry operations without x,y,z, the identity")


def _is_closed(operations: Operations) -> bool:
    """Whether two operations after each other are always one of them; True if it can't be told."""
    rotations = np.round(operations.rotations).astype(np.int64)
    translations = np.round(operations.translations * 24).astype(np.int64)
    if len(rotations) > 192 or np.abs(operations.translations * 24 - translations).max() > 1e-6:
        return True  # translations of no space group: those of a supercell, or rounded
    known = set(_codes(rotations, translations).tolist())
    products = np.einsum("nij,mjk->nmik", rotations, rotations)
    moved = np.einsum("nij,mj->nmi", rotations, translations) + translations[:, None]
    return known.issuperset(np.unique(_codes(products, moved)).tolist())


def _codes(rotations: NDArray[np.int64], translations: NDArray[np.int64]) -> NDArray[np.int64]:
    """One integer for each operation, the same for translations that differ by a lattice vector."""
    entries = np.clip(rotations, -4, 4).reshape(*rotations.shape[:-2], 9) + 4
    codes = entries @ 9 ** np.arange(9) * 24**3 + translations % 24 @ [
        576,
        24,
        1,
    ]
    return np.asarray(codes, dtype=np.int64)


def _parse_triplet(triplet: str) -> list[list[float]]:
    """Rows (coefficients of x, y, z, translation) of one operation.

    Raises:
        ValueError: if it is none.
    """
    import gemmi

    bare = strip_quotes(triplet).replace("\u2212", "-")  # the sign of typography
    parts = bare.split(",")
    if len(parts) == 4 and parts[3].strip() in ("+1", "1", "-1"):  # time reversal
        bare = ",".join(parts[:3])
    try:
        operation = gemmi.Op(bare.lower())
        if not set(bare.lower()) & set("abchkl"):
            scale = float(gemmi.Op.DEN)
            return [
                [*(n / scale for n in row), t / scale]
                for row, t in zip(operation.rot, operation.tran, strict=True)
            ]
    except (ValueError, RuntimeError):
        pass  # gemmi knows translations of 24ths only
    parts = re.sub(r"\s", "", bare.lower()).split(",")
    if len(parts) != 3:
        raise ValueError(f"has {shorten(bare)!r} where a symmetry operation should stand")
    return [_parse_row(part, bare) for part in parts]


def _parse_row(expression: str, triplet: str) -> list[float]:
    row, rest = [0.0, 0.0, 0.0, 0.0], expression
    while rest:
        term = re.match(r"([+-]?)(?:([xyz])|(\d+\.?\d*|\.\d+)(?:/(\d+))?)", rest)
        if term is None or (rest is not expression and not term[1]):
            break
        sign = -1.0 if term[1] == "-" else 1.0
        if term[2]:
            row["xyz".index(term[2])] += sign
        elif term[4] is not None and int(term[4]) == 0:
            break
        else:
            row[3] += sign * float(term[3]) / float(term[4] or 1)
        rest = rest[term.end() :]
    if rest or not expression:
        raise ValueError(f"has {shorten(triplet)!r} where a symmetry operation should stand")
    return row


def _followed_by(first: Operations, then: Operations) -> Operations:
    rotations = np.einsum("nij,mjk->mnik", then.rotations, first.rotations)
    moved = np.einsum("nij,mj->mni", then.rotations, first.translations)
    translations = moved + then.translations
    return Operations(rotations.reshape(-1, 3, 3), translations.reshape(-1, 3))


def expand(
    frac: NDArray[np.float64],
    operations: Operations,
    *,
    rounding: NDArray[np.float64] | None = None,
    max_atoms: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return all atoms of the cell: each site's images, those on top of each other counted once.

    Args:
        frac: (n, 3) positions of the sites.
        operations: of the space group.
        rounding: (n,) what one unit of the coordinates' last digit is. Sites that are nearer to a
            special position than their digits tell are moved onto it.
        max_atoms: more are refused before they are made.

    Returns:
        (n,) how many atoms each site stands for, and the atoms' positions in the order of sites.

    Raises:
        ValueError: if two sites have an image in common, or if there are too many atoms.
    """
    rotations, translations = operations
    if max_atoms is not None:
        fewest = len(frac) * len(rotations) // _LARGEST_SITE_SYMMETRY
        if fewest > max_atoms:
            raise ValueError(f"has {fewest} atoms at least, more than the {max_atoms} allowed")
    if rounding is not None and (rounding > SITE_TOLERANCE / 2).any():
        frac = _on_special_positions(frac, operations, rounding)
    if max_atoms is not None and len(frac) * len(rotations) > max_atoms:
        refuse_large(_count_atoms(frac, operations), max_atoms)
    if not first_of_its_place(frac).all():
        raise ValueError(_TWICE)
    orbits = []
    for site in frac:
        images = rotations @ site + translations
        images -= np.floor(images)
        orbits.append(images[first_of_its_place(images)])
    positions = np.concatenate(orbits)
    if len(orbits) > 1 and not first_of_its_place(positions).all():
        raise ValueError(_TWICE)
    return np.array([len(orbit) for orbit in orbits]), positions


def _displacements(frac: NDArray[np.float64], operations: Operations) -> NDArray[np.float64]:
    """(n, m, 3) how far each operation moves each site, up to lattice vectors."""
    moves = np.einsum("mij,nj->nmi", operations.rotations - np.eye(3), frac)
    moves += operations.translations
    return moves - np.round(moves)


def _count_atoms(frac: NDArray[np.float64], operations: Operations) -> int:
    """Number of atoms that the operations make of the sites, without making them."""
    total, m = 0.0, len(operations.rotations)
    step = max(1, _CHUNK // m)
    for start in range(0, len(frac), step):
        moves = _displacements(frac[start : start + step], operations)
        fixing = (np.abs(moves) < SITE_TOLERANCE).all(axis=2).sum(axis=1)
        total += float((m / np.maximum(fixing, 1)).sum())
    return round(total)


def refuse_large(atoms: int, max_atoms: int | None) -> None:
    """Raise ValueError if a cell has more atoms than are allowed; None allows all."""
    if max_atoms is not None and atoms > max_atoms:
        raise ValueError(f"has {atoms} atoms, more than the {max_atoms} allowed")


def _on_special_positions(
    frac: NDArray[np.float64], operations: Operations, rounding: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sites moved onto the special positions that their rounded coordinates stand for.

    An operation belongs to a site if it moves it by no more than rounding can have done: half a
    unit in the last digit of each coordinate, times the coefficients of the operation.
    """
    frac = frac.copy()
    coefficients = np.abs(operations.rotations - np.eye(3)).sum(axis=2)
    step = max(1, _CHUNK // len(coefficients))
    for start in range(0, len(frac), step):
        part = slice(start, start + step)
        moves = _displacements(frac[part], operations)
        reach = 0.5 * rounding[part, None, None] * coefficients
        fixing = (np.abs(moves) <= reach + 1e-9).all(axis=2)
        # The mean of a site's images under its own operations is where they all leave it.
        shift = np.where(fixing[:, :, None], moves, 0.0).sum(axis=1)
        frac[part] += shift / np.maximum(fixing.sum(axis=1), 1)[:, None]
    return frac


def first_of_its_place(frac: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (n,) whether no earlier position is the same one, up to lattice vectors."""
    if len(frac) <= _SMALL:
        delta = frac[:, None] - frac
        close = (np.abs(delta - np.round(delta)) < SITE_TOLERANCE).all(axis=2)
        return np.logical_not(np.tril(close, -1).any(axis=1))
    from scipy.spatial import cKDTree

    wrapped = frac % 1.0
    wrapped[wrapped >= 1.0] = 0.0
    # One position for each small cube, all of which are the same place: thousands of atoms on top
    # of each other would otherwise be millions of pairs.
    side = round(2.0 / SITE_TOLERANCE)
    cubes = np.floor(wrapped * side).astype(np.int64) @ [side * side, side, 1]
    index = np.sort(np.unique(cubes, return_index=True)[1])
    first = np.zeros(len(frac), dtype=bool)
    first[index] = True
    tree = cKDTree(wrapped[index], boxsize=1.0)
    pairs = tree.query_pairs(SITE_TOLERANCE, p=np.inf, output_type="ndarray")
    first[index[pairs[:, 1]]] = False  # pairs are (i, j) with i < j
    return first
