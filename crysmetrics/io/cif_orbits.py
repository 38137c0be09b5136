"""Atoms that a space group's operations make of the sites of a CIF."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io.cif_symmetry import Operations

SITE_TOLERANCE = 1e-4
"""Fractional distance below which two images of a site are one atom (pymatgen's)."""

_LARGEST_SITE_SYMMETRY = 48
"""Operations that can leave a place where it is: those of a cubic point group."""
_CHUNK = 1 << 18
"""Images that are held at once."""
_SMALL = 64
"""Number of positions up to which all pairs are compared."""
_MARGIN = 1e-6
"""What floating-point numbers can do to a position, and more."""
_CUBES = 1000
"""Cubes along an axis by which neighbours are looked for."""
_CORNERS = np.array(list(product((-1.0, 1.0), repeat=3)))
_SITES = 1 << 20
"""Most sites that can be told apart in a number with their cube's."""
_FEW = 8
"""Number of sites up to which each is compared with all atoms."""
_REMEMBERED = 64
"""Most sets of operations for which their first images are remembered."""
_TWICE = "lists the same atom twice: two sites share a position"


@np.errstate(all="ignore")  # absurd positions are refused with the finished cell
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
    if max_atoms is not None:
        fewest = len(frac) * len(operations) // _LARGEST_SITE_SYMMETRY
        if fewest > max_atoms:
            raise ValueError(f"has {fewest} atoms at least, more than the {max_atoms} allowed")
    known = None
    if rounding is not None and (rounding > SITE_TOLERANCE / 2).any():
        frac, known = _on_special_positions(frac, operations, rounding)
    if max_atoms is not None and len(frac) * len(operations) > max_atoms:
        refuse_large(_count_atoms(frac, operations), max_atoms)
    if not first_of_its_place(frac).all():
        raise ValueError(_TWICE)
    orbits: list[NDArray[np.float64]] = []
    is_clear = True
    step = max(1, _CHUNK // len(operations))
    for start in range(0, len(frac), step):
        found, are_clear = _orbits(frac[start : start + step], operations, known)
        orbits += found
        is_clear = is_clear and are_clear
    counts = np.array([len(orbit) for orbit in orbits])
    positions = np.concatenate(orbits)
    if len(orbits) > 1:
        share = _share(frac, positions, counts, operations) if is_clear else None
        if share or (share is None and not first_of_its_place(positions).all()):
            raise ValueError(_TWICE)
    return counts, positions


_Images = tuple[NDArray[np.float64], NDArray[np.float64]]
"""(3, n, m) images of sites, axis by axis, and how far they are from their sites."""


def _images_of(frac: NDArray[np.float64], operations: Operations) -> _Images:
    images = _images(frac, operations)
    return images, _distances(frac, images)


def _images(frac: NDArray[np.float64], operations: Operations) -> NDArray[np.float64]:
    """Return (3, n, m) coordinates, axis by axis, of each site's images."""
    images = np.matmul(frac, operations.rotations.by_axis)
    images += operations.shifts
    return images


def _distances(frac: NDArray[np.float64], images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Measure (3, n, m) how far images are from their sites, up to lattice vectors."""
    distances = images - frac.T[:, :, None]
    distances -= np.round(distances)
    return np.abs(distances, out=distances)


def _orbits(
    frac: NDArray[np.float64], operations: Operations, known: _Images | None
) -> tuple[list[NDArray[np.float64]], bool]:
    """List the different images of each site, wrapped into the cell, in the order of operations.

    Also tell whether it is clear which differ: no two of them nearly do. Images that are known
    are changed.
    """
    images, by_axis = known or _images_of(frac, operations)
    distances = by_axis.max(axis=0)
    images -= np.floor(images)
    by_site = images.transpose(1, 2, 0)
    if not operations.is_group:
        return [orbit[first_of_its_place(orbit)] for orbit in by_site], False
    # If two operations make the same atom of a site, then the one after the inverse of the other
    # leaves it where it is. So these tell which do, unless they nearly do.
    stays = distances < _MARGIN
    nearly = distances < SITE_TOLERANCE * operations.rotations.stretch + _MARGIN
    unclear = (nearly != stays).any(axis=1).tolist()
    found = []
    for orbit, own, is_unclear in zip(by_site, np.packbits(stays, axis=1), unclear, strict=True):
        if is_unclear:
            found.append(orbit[first_of_its_place(orbit)])
            continue
        first = operations.first_images.get(key := own.tobytes())
        if first is None:
            first = np.flatnonzero(first_of_its_place(orbit))
            if len(operations.first_images) >= _REMEMBERED:
                operations.first_images.clear()
            operations.first_images[key] = first
        found.append(orbit[first])
    return found, not any(unclear)


def _share(
    frac: NDArray[np.float64],
    positions: NDArray[np.float64],
    counts: NDArray[np.int64],
    operations: Operations,
) -> bool | None:
    """Tell whether atoms of different sites are on top of each other; None if this doesn't tell.

    If an atom of one site is one of another site too, then so is the site itself, since the
    operations are a group. So only the sites are looked for among the atoms.

    Args:
        frac: (n, 3) positions of the sites.
        positions: (a, 3) atoms, wrapped, those of each site together.
        counts: (n,) atoms of each site.
        operations: that made them; it must be clear which of their images differ.
    """
    margin = _MARGIN * (1 + operations.rotations.stretch)
    reach = SITE_TOLERANCE * operations.rotations.stretch + margin
    ends = np.cumsum(counts).tolist()
    if len(frac) <= _FEW:
        chosen = list(range(len(frac) - 1))
    elif 2 * reach * _CUBES > 1 or len(frac) > _SITES:
        return None
    else:
        chosen = _crowded(frac, positions, counts, reach)
        if len(chosen) > _FEW:
            return None
    nearest = 1.0
    by_axis = np.ascontiguousarray(positions.T)
    for i in chosen:
        distances = by_axis - frac[i][:, None]
        distances -= np.rint(distances)
        farthest = np.abs(distances, out=distances).max(axis=0)
        farthest[ends[i] - counts[i] : ends[i]] = 1.0
        nearest = min(nearest, float(farthest.min()))
    if nearest < SITE_TOLERANCE / operations.rotations.stretch - margin:
        return True
    return False if nearest > reach else None


def _crowded(
    frac: NDArray[np.float64],
    positions: NDArray[np.float64],
    counts: NDArray[np.int64],
    reach: float,
) -> list[int]:
    """List sites with atoms of other sites in the cubes within reach of them."""
    sites = np.arange(len(frac))
    atoms = np.sort(_cubes(positions) * _SITES + np.repeat(sites, counts))
    cubes = _cubes((frac[:, None] + reach * _CORNERS).reshape(-1, 3) % 1.0) * _SITES
    own = cubes + np.repeat(sites, len(_CORNERS))
    first, last = np.searchsorted(atoms, [cubes, cubes + _SITES])
    first_own, last_own = np.searchsorted(atoms, [own, own + 1])
    has_others = ((first != first_own) | (last != last_own)).reshape(len(frac), -1).any(axis=1)
    return np.flatnonzero(has_others).tolist()


def _cubes(frac: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return (n,) number of the cube that holds each of some wrapped positions."""
    numbers = (frac * _CUBES).astype(np.int64)
    numbers[numbers >= _CUBES] = 0
    return np.asarray(numbers @ np.array([_CUBES * _CUBES, _CUBES, 1]), dtype=np.int64)


def _count_atoms(frac: NDArray[np.float64], operations: Operations) -> int:
    """Count the atoms that the operations make of the sites, without making them."""
    total, m = 0.0, len(operations)
    step = max(1, _CHUNK // m)
    for start in range(0, len(frac), step):
        part = frac[start : start + step]
        stays = (_images_of(part, operations)[1] < SITE_TOLERANCE).all(axis=0)
        total += float((m / np.maximum(stays.sum(axis=1), 1)).sum())
    return round(total)


def refuse_large(atoms: int, max_atoms: int | None) -> None:
    """Raise ValueError if a cell has more atoms than are allowed; None allows all."""
    if max_atoms is not None and atoms > max_atoms:
        raise ValueError(f"has {atoms} atoms, more than the {max_atoms} allowed")


def _on_special_positions(
    frac: NDArray[np.float64], operations: Operations, rounding: NDArray[np.float64]
) -> tuple[NDArray[np.float64], _Images | None]:
    """Move sites onto the special positions that their rounded coordinates stand for.

    An operation belongs to a site if it moves it by no more than rounding can have done: half a
    unit in the last digit of each coordinate, times the coefficients of the operation.

    Returns:
        The sites, and the images that were made if they are those of all sites as returned.
    """
    moved = frac.copy()
    rotations = operations.rotations
    step = max(1, _CHUNK // len(operations))
    for start in range(0, len(frac), step):
        part, half = frac[start : start + step], 0.5 * rounding[start : start + step]
        known = _images_of(part, operations)
        x, y, z = known[1] <= half[:, None] * rotations.coefficients_by_axis + 2e-9
        near = x & y & z
        near[near.sum(axis=1) < 2] = False
        if not known[1].max(initial=0.0, where=near):
            continue  # none belongs to a site, or all are there already
        site, operation = np.nonzero(near)
        moves = np.einsum("kij,kj->ki", rotations.changes[operation], part[site])
        moves += operations.translations[operation]
        moves -= np.round(moves)
        reach = half[site, None] * rotations.coefficients[operation] + 1e-9
        x, y, z = (np.abs(moves) <= reach).T
        fixing = x & y & z
        # The mean of a site's images under its own operations is where they all leave it.
        site, moves, count = site[fixing], moves[fixing], len(part)
        shift = [np.bincount(site, weights=column, minlength=count) for column in moves.T]
        members = np.maximum(np.bincount(site, minlength=count), 1)
        moved[start : start + step] += (shift / members).T
    is_known = len(frac) <= step and np.array_equal(moved, frac)
    return (frac, known) if is_known else (moved, None)


def first_of_its_place(frac: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (n,) whether no earlier position is the same one, up to lattice vectors."""
    if len(frac) == 1:
        return np.ones(1, dtype=bool)
    if len(frac) <= _SMALL:
        delta = frac[:, None] - frac
        close = np.asarray((np.abs(delta - np.round(delta)) < SITE_TOLERANCE).all(axis=2))
        return np.equal(close.argmax(axis=1), np.arange(len(frac))) | ~close.diagonal()
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
