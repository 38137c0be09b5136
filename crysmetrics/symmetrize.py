"""Crystals whose symmetry is nearly there, moved so that it is exact, in the cell they stand in.

Generative models place atoms within some tenths of an Å of the sites of a space group, and hardly
ever on them. Programs that find space groups ask for every operation within one tolerance, and at
such large ones fail, find less, or never end. Here operations are taken one after the other, the
most exact first, each with all that follow from it and those before, as long as the crystal stays
what it was: its cell keeps its atoms, none moves farther than the tolerance, and none come close.
The crystal is then the mean of its images under the whole group, of which spglib finds the name.

Conventional cells are made by `crysmetrics.symmetry.standard_cell`.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from crysmetrics.geometry import min_distance
from crysmetrics.space_group_settings import setting_of
from crysmetrics.space_groups.lattices import symmetric_lattice
from crysmetrics.symmetry import MIN_THICKNESS, Cell

EXACT = 0.001
"""Å within which the symmetry of the result is found again."""
_MOST_STRAIN = 0.02
"""Largest relative change of a length in the cell: beyond it a cell that lies between two Bravais
lattices is often taken to the wrong one."""
_SHORTEST = 0.5
"""Å; atoms that come closer make a crystal invalid (see `crysmetrics.metrics.validity`)."""
_CLOSER = 0.8
"""Smallest share of the shortest distance that must be left."""
_NOISE = 3.0
"""Largest ratio of the errors of two operations that are both taken for noise: where some are much
more exact, what breaks the others is a distortion."""
_SURE = 0.1
"""Å; errors below this are noise in any case."""
_MOST_ROTATIONS = 48
"""Of a group; translations within the cell come on top."""
_FAR = 1e6
"""Å² between atoms that can't be images of each other, in an assignment."""


class SymmetricCell(NamedTuple):
    """Crystal with exact symmetry, atoms and axes in the order of the crystal it was made of."""

    cell: Cell
    space_group: int
    """1 to 230."""
    displacement: float
    """Å, the farthest that an atom was moved, a shift of all left out."""


class _Operation(NamedTuple):
    """Symmetry operation of a cell.

    Which atom goes where tells translations apart, so that these need not be numbers.
    """

    rotation: NDArray[np.int64]
    """(3, 3), on columns of fractional coordinates."""
    images: NDArray[np.int64]
    """(n,) the atom on whose place each atom comes."""
    error: float
    """RMS distance in Å of atoms from where they should come, the bending of the cell included."""

    @property
    def is_translation(self) -> bool:
        """Whether it turns nothing."""
        return bool((self.rotation == np.eye(3)).all())


def symmetrize_in_place(cell: Cell, tolerance: float) -> SymmetricCell | None:
    """Make the symmetry that a crystal nearly has exact, in the cell it stands in.

    Args:
        cell: the crystal.
        tolerance: Å beyond which no atom is moved, a shift of all left out.

    Returns:
        None if there is no symmetry but translations, or none that leaves the crystal what it was:
        lengths within 2 %, no atoms closer than 0.5 Å or than 0.8 of the shortest distance.
    """
    shortest = min_distance(cell.lattice, cell.frac_coords)
    reduced = None if shortest < _SHORTEST else _reduced(cell)
    if reduced is None:
        return None
    small, transform = reduced
    found = _grown(small, tolerance, shortest)
    if found is None:
        return None
    exact = Cell(
        np.linalg.inv(transform) @ found.lattice, found.frac_coords @ transform, cell.atomic_numbers
    )
    number = _space_group(exact)
    if number == 1:
        return None
    return SymmetricCell(exact, number, _displacement(cell, exact))


def impose_setting(cell: Cell, hall_number: int, tolerance: float) -> Cell | None:
    """Make a crystal obey the operations of a setting, in whose conventional cell it nearly stands.

    Args:
        cell: the crystal, with the origin and axes of the setting.
        hall_number: 1 to 530.
        tolerance: Å beyond which no image of an atom may lie from an atom.

    Returns:
        The mean of the images, atoms and axes in the same order; None if an operation does not take
        each atom near another one of its element.
    """
    setting = setting_of(hall_number)
    lattice = symmetric_lattice(cell.lattice, setting.rotations)
    different = cell.atomic_numbers[:, None] != cell.atomic_numbers
    sums, counts = np.zeros_like(cell.frac_coords), np.zeros(len(different))
    for rotation, translation in zip(setting.rotations, setting.translations, strict=True):
        images = cell.frac_coords @ rotation.T + translation
        steps = _steps(cell.frac_coords[None], images[:, None])
        away = np.linalg.norm(steps @ lattice, axis=2)
        away[different] = np.inf
        nearest = away.argmin(axis=1)
        if (away.min(axis=1) > tolerance).any() or len(np.unique(nearest)) < len(nearest):
            return None
        np.add.at(sums, nearest, steps[np.arange(len(nearest)), nearest])
        np.add.at(counts, nearest, 1)
    frac = cell.frac_coords + sums / counts[:, None]
    return Cell(lattice, frac - np.floor(frac), cell.atomic_numbers)


def _reduced(cell: Cell) -> tuple[Cell, NDArray[np.float64]] | None:
    """Reduce a cell (Niggli); returns it with the matrix that takes old axes (rows) to new ones.

    None if it can't be reduced, or is flat.
    """
    import spglib

    lattice = spglib.niggli_reduce(cell.lattice)
    if lattice is None or np.linalg.svd(lattice, compute_uv=False)[-1] < MIN_THICKNESS:
        return None
    transform = np.rint(lattice @ np.linalg.inv(cell.lattice))
    if round(abs(np.linalg.det(transform))) != 1:
        return None
    frac = cell.frac_coords @ np.linalg.inv(transform)
    return Cell(transform @ cell.lattice, frac, cell.atomic_numbers), transform


def _space_group(cell: Cell) -> int:
    """Find the number of the space group of an exactly symmetric crystal; 1 if none is found."""
    import spglib

    try:
        found = spglib.get_symmetry_dataset(tuple(cell), symprec=EXACT)
    except Exception:  # its own error types differ between its versions
        return 1
    return 1 if found is None else int(found.number)


# --- the group -------------------------------------------------------------------------------


def _grown(cell: Cell, tolerance: float, shortest: float) -> Cell | None:
    """Add operations to a group, the most exact first, while the crystal stays what it was."""
    operations = _near_operations(cell, tolerance)
    permitted = {_key(operation) for operation in operations if operation.is_translation}
    permitted |= {o.rotation.tobytes() for o in operations if not o.is_translation}
    count = len(cell.atomic_numbers)
    group = [_Operation(np.eye(3, dtype=np.int64), np.arange(count), 0.0)]
    best: Cell | None = None
    for operation in operations:
        if any(_key(one) == _key(operation) for one in group):
            continue
        larger = _closed(group, operation, permitted)
        trial = None if larger is None else _averaged(cell, larger)
        if larger is not None and trial and _is_same(cell, trial, tolerance, shortest):
            group, best = larger, trial
    return best


@lru_cache(maxsize=1)
def _unimodular() -> NDArray[np.int64]:
    """All (m, 3, 3) matrices of -1, 0 and 1 with determinant 1 or -1.

    Every symmetry of a reduced lattice is one of them.
    """
    every = np.array(list(product((-1, 0, 1), repeat=9)), dtype=np.int64).reshape(-1, 3, 3)
    size = np.abs(np.rint(np.linalg.det(every)))
    return np.ascontiguousarray(every[size == 1])


def _lattice_rotations(
    lattice: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Choose the (m, 3, 3) rotations that a lattice nearly has, and the RMS strain (m,) of each.

    Lengths may change by twice what is allowed, since a lattice and its image meet halfway.
    """
    metric = lattice @ lattice.T
    every = _unimodular()
    images = np.swapaxes(every, 1, 2) @ metric @ every
    lengths = np.sqrt(images[:, range(3), range(3)] / metric[range(3), range(3)])
    near = (np.abs(lengths - 1) < 2 * _MOST_STRAIN).all(axis=1)
    every, images = every[near], images[near]
    root = np.linalg.inv(np.linalg.cholesky(metric))
    strains = np.sqrt(np.linalg.eigvalsh(root @ images @ root.T)) - 1
    near = (np.abs(strains) < 2 * _MOST_STRAIN).all(axis=1)
    return np.ascontiguousarray(every[near]), np.sqrt((strains[near] ** 2).mean(axis=1))


def _near_operations(cell: Cell, tolerance: float) -> list[_Operation]:
    """Find the operations that are broken by noise alone, the most exact first."""
    numbers = cell.atomic_numbers
    kinds, counts = np.unique(numbers, return_counts=True)
    rarest = np.flatnonzero(numbers == kinds[counts.argmin()])
    different = np.where(numbers[:, None] == numbers, 0.0, _FAR)
    size = float((abs(np.linalg.det(cell.lattice)) / len(numbers)) ** (1 / 3))
    found = []
    for rotation, strain in zip(*_lattice_rotations(cell.lattice), strict=True):
        rotated = cell.frac_coords @ rotation.T
        for anchor in rarest:
            shift = cell.frac_coords[anchor] - rotated[rarest[0]]
            images = _assigned(rotated + shift, cell, different)
            steps = _steps(rotated + shift, cell.frac_coords[images])
            steps -= steps.mean(axis=0)
            squares = ((steps @ cell.lattice) ** 2).sum(axis=1)
            error = float(np.sqrt(squares.mean() + (size * strain) ** 2))
            one = _Operation(rotation, images, error)
            # An atom and its image meet halfway; at worst one of them moves all the way.
            if squares.max() > (2 * tolerance) ** 2 or (
                # A new translation would make a smaller cell than the one that was asked for.
                one.is_translation and ((images == np.arange(len(images))).all() or error > _SURE)
            ):
                continue
            found.append(one)
    # Rounded, so that equal ones keep an order that does not depend on rounding.
    found.sort(key=lambda one: round(one.error, 6))
    most = max(_SURE, _NOISE * found[0].error) if found else 0.0
    return [one for one in found if one.error <= most]


def _assigned(
    placed: NDArray[np.float64], cell: Cell, different: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Assign each of some places (n, 3) an atom of its element, all squared distances the least."""
    steps = _steps(placed[:, None], cell.frac_coords[None]) @ cell.lattice
    cost = (steps**2).sum(axis=2) + different
    nearest = cost.argmin(axis=1)
    if len(set(nearest.tolist())) == len(nearest):
        return np.asarray(nearest, dtype=np.int64)
    return np.asarray(linear_sum_assignment(cost)[1], dtype=np.int64)


def _steps(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Subtract fractional coordinates, the shortest way around in a reduced cell."""
    steps = end - start
    return np.asarray(steps - np.round(steps), dtype=np.float64)


def _closed(
    group: list[_Operation], operation: _Operation, permitted: set[bytes]
) -> list[_Operation] | None:
    """Add an operation to a group and all that follow; None if some are not permitted."""
    generators = [*group[1:], operation]
    most = _MOST_ROTATIONS * len(operation.images)
    known = {_key(group[0]): group[0]}
    fresh = [group[0]]
    while fresh:
        before, fresh = fresh, []
        for one in before:
            for other in generators:
                both = _Operation(other.rotation @ one.rotation, other.images[one.images], 0.0)
                key = _key(both)
                if key in known:
                    continue
                allowed = key if both.is_translation else both.rotation.tobytes()
                if allowed not in permitted or len(known) >= most:
                    return None
                known[key] = both
                fresh.append(both)
    return list(known.values())


def _key(operation: _Operation) -> bytes:
    return operation.rotation.tobytes() + operation.images.tobytes()


def _averaged(cell: Cell, group: list[_Operation]) -> Cell:
    """Compute the mean of the images of a crystal under a group, which is symmetric under it."""
    rotations = np.array([one.rotation for one in group])
    images = np.array([one.images for one in group])
    metric = cell.lattice @ cell.lattice.T
    turned = np.swapaxes(rotations, 1, 2) @ metric @ rotations
    lattice = _turned_like(np.linalg.cholesky(turned.mean(axis=0)), cell.lattice)
    frac = cell.frac_coords
    for _ in range(3):  # the first does it but for rounding
        rotated = frac @ np.swapaxes(rotations, 1, 2)
        steps = rotated - frac[images]
        # The translation of an operation is the mean of what is left, around the first atom's.
        near = steps - steps[:, :1]
        near -= np.round(near)
        near -= near.mean(axis=1, keepdims=True)
        moves = np.zeros_like(frac)
        np.add.at(moves, images, near)
        frac = frac + moves / len(group)
    return Cell(lattice, frac, cell.atomic_numbers)


def _turned_like(lattice: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn a lattice (3, 3) so that it lies on another as well as it can (Kabsch)."""
    u, _, vt = np.linalg.svd(lattice.T @ other)
    return np.asarray(lattice @ u @ vt, dtype=np.float64)


def _is_same(before: Cell, after: Cell, tolerance: float, shortest: float) -> bool:
    """Tell whether a crystal was moved so little that it still is the same one."""
    change = np.linalg.inv(before.lattice) @ after.lattice
    stretch = np.linalg.svd(change, compute_uv=False)
    if abs(stretch - 1).max() > _MOST_STRAIN:
        return False
    if _displacement(before, after) > tolerance:
        return False
    left = min_distance(after.lattice, after.frac_coords)
    return bool(left >= max(_SHORTEST, _CLOSER * shortest))


def _displacement(before: Cell, after: Cell) -> float:
    """Measure in Å the farthest that an atom was moved, a shift of all left out."""
    steps = after.frac_coords - before.frac_coords
    steps = steps - steps.mean(axis=0)
    return float(np.linalg.norm(steps @ after.lattice, axis=1).max())
