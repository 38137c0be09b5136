"""Symmetry of crystals: space groups, and cells in which the symmetry found is exact.

With `space_group_settings` this is the one door to moyo (by some of spglib's authors, ten times as
fast), and to spglib for flat cells, in which moyo's search may not end, and for cells that stored
data were made with. Works on plain arrays, below input and output: `crysmetrics.io.symmetrized`
applies it to sets, and files are written with the operations found here.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from crysmetrics.geometry import PackedCells, min_distance, min_distances
from crysmetrics.progress import task
from crysmetrics.space_group_settings import setting_of
from crysmetrics.space_groups.lattices import PRIMITIVE_VECTORS

TOLERANCE = 0.1
"""Å within which symmetry is found in generated structures, which have none within 0.01 Å."""
SHARES = (1.0, 0.3, 0.1)
"""Shares of a tolerance that are tried in turn: a large tolerance can make the search fail."""
MIN_THICKNESS = 1.0
"""Å, smallest singular value of a cell that moyo is given; in flatter ones its search may not end,
so that spglib takes these."""
MOST_SLENDER = 50.0
"""Largest ratio of a cell's singular values that moyo is given: it took 24 GB of memory, within
0.1 Å, for a cell of 137 Å by 3 Å by 1.3 Å. Spglib takes such cells, too."""
SHORTEST_DISTANCE = 0.1
"""Å; crystals with closer atoms are not symmetrised, whatever the tolerance."""
_SAME_ATOM = 1e-4
"""Å between an atom and the image of an atom that is the same one, in an exactly symmetric cell."""

# moyo warns of every cell that is not primitive in some setting, which is the normal case here, and
# spglib tells standard error what it tried in vain.
logging.getLogger("moyo").setLevel(logging.ERROR)
os.environ.setdefault("SPGLIB_WARNING", "OFF")


class PackedAtoms(PackedCells, Protocol):
    """Crystals as packed arrays, elements included."""

    @property
    def atomic_numbers(self) -> NDArray[np.int64]:
        """(N,) atomic numbers."""


class Cell(NamedTuple):
    """One crystal."""

    lattice: NDArray[np.float64]
    """(3, 3) rows in Å."""
    frac_coords: NDArray[np.float64]
    """(n, 3)."""
    atomic_numbers: NDArray[np.int64]
    """(n,)."""


class StandardCell(NamedTuple):
    """A crystal in the conventional cell of its space group, symmetric within rounding."""

    cell: Cell
    space_group: int
    """1 to 230."""
    hall_number: int
    """1 to 530: which setting of the space group the cell stands in."""

    @property
    def operations_per_atom(self) -> float:
        """Symmetry operations of the cell divided by its atoms: larger the more symmetric it is."""
        return len(setting_of(self.hall_number).rotations) / len(self.cell.atomic_numbers)


class SpaceGroupNumbers(NamedTuple):
    """Space groups of a set, and why some have none."""

    numbers: NDArray[np.float64]
    """(B,) 1 to 230; NaN where none was found."""
    failures: dict[int, str]
    """Reasons by index."""


# --- space groups ----------------------------------------------------------------------------


def find_space_groups(
    crystals: PackedAtoms, tolerance: float = TOLERANCE, workers: int | None = None
) -> SpaceGroupNumbers:
    """Find the space group number of each crystal within a tolerance in Å.

    Args:
        crystals: B structures.
        tolerance: Å.
        workers: threads for the shortest distances.
    """
    numbers = np.full(len(crystals), np.nan)
    failures: dict[int, str] = {}
    shortest = min_distances(crystals, workers)
    with task("Space groups", len(crystals)) as advance:
        for i, cell in enumerate(cells_of(crystals)):
            try:
                numbers[i] = _space_group(cell, tolerance, shortest[i])
            except ValueError as error:
                failures[i] = str(error).splitlines()[0]
            advance(1)
    return SpaceGroupNumbers(numbers, failures)


def space_groups(
    crystals: PackedAtoms, tolerance: float = TOLERANCE, workers: int | None = None
) -> NDArray[np.int64]:
    """Find (B,) space group numbers within a tolerance in Å; 1 where no symmetry is found.

    Where the search fails, smaller tolerances are tried.
    """
    numbers = np.ones(len(crystals), dtype=np.int64)
    shortest = min_distances(crystals, workers)
    for i, cell in enumerate(cells_of(crystals)):
        for share in SHARES:
            with suppress(ValueError):
                numbers[i] = _space_group(cell, share * tolerance, shortest[i])
                break
    return numbers


def _space_group(cell: Cell, tolerance: float, shortest: float) -> int:
    """Find the space group number of one crystal.

    Raises:
        ValueError: if none is found, with the reason.
    """
    # Where atoms or their images lie within the tolerance, symmetry means nothing.
    if shortest <= tolerance:
        raise ValueError(f"Atoms or their images lie within {tolerance:g} Å of each other.")
    return _dataset(cell, tolerance).number


# --- symmetric cells -------------------------------------------------------------------------


def standard_cell(cell: Cell, tolerance: float = TOLERANCE) -> StandardCell | None:
    """Make the symmetry of a crystal exact, in its conventional cell.

    What is exact then may lie within the tolerance of more symmetry still, which is taken too, so
    that the result comes out unchanged when it is symmetrised again.

    Args:
        cell: the crystal.
        tolerance: Å within which symmetry is found.

    Returns:
        None if there is no symmetry but translations, or if the composition would change.
    """
    found = _most_symmetric(cell, tolerance)
    if found is None:
        return None
    for _ in range(10):  # every round adds symmetry
        more = _most_symmetric(found.cell, tolerance)
        if more is None or more.operations_per_atom <= found.operations_per_atom * (1 + 1e-9):
            break
        found = more
    if found.space_group == 1 or not _is_same_compound(cell, found.cell):
        return None
    return None if asymmetric_unit(found.cell, found.hall_number) is None else found


def conventional_cell(cell: Cell, tolerance: float) -> StandardCell:
    """Put a crystal that is symmetric already into the conventional cell of its space group.

    Of crystals that only come near symmetry, `standard_cell` finds more, and takes longer.

    Args:
        cell: the crystal.
        tolerance: Å within which symmetry is found.

    Raises:
        ValueError: if no space group is found, with the reason.
    """
    return _dataset(cell, tolerance).standard()


def asymmetric_unit(
    cell: Cell, hall_number: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Choose one atom of each orbit under the operations of a setting.

    Args:
        cell: the crystal in that setting.
        hall_number: 1 to 530.

    Returns:
        Indices of the chosen atoms (k,) and the number of atoms (k,) in the orbit of each; None if
        the operations do not take atoms to atoms.
    """
    if hall_number == 1:
        return np.arange(len(cell.atomic_numbers)), np.ones(len(cell.atomic_numbers), dtype=int)
    setting = setting_of(hall_number)
    orbit_of = np.full(len(cell.atomic_numbers), -1)
    chosen: list[int] = []
    for i in range(len(orbit_of)):
        if orbit_of[i] >= 0:
            continue
        images = setting.rotations @ cell.frac_coords[i] + setting.translations
        steps = images[:, None] - cell.frac_coords
        steps -= np.round(steps)
        near = np.linalg.norm(steps @ cell.lattice, axis=2) < _SAME_ATOM
        near &= (cell.atomic_numbers == cell.atomic_numbers[i]) & (orbit_of < 0)
        if not near.any(axis=1).all():
            return None
        orbit_of[near.any(axis=0)] = len(chosen)
        chosen.append(i)
    return np.array(chosen), np.bincount(orbit_of, minlength=len(chosen))


def cells_of(crystals: PackedAtoms) -> list[Cell]:
    """Take a set apart into its B crystals."""
    offsets = crystals.offsets
    atoms = [slice(offsets[i], offsets[i + 1]) for i in range(len(crystals))]
    return [
        Cell(crystals.lattices[i], crystals.frac_coords[a], crystals.atomic_numbers[a])
        for i, a in enumerate(atoms)
    ]


def _most_symmetric(cell: Cell, tolerance: float) -> StandardCell | None:
    """Choose the more symmetric conventional cell of moyo's and spglib's; None if both fail.

    At the edge of the tolerance each misses symmetry that the other finds.
    """
    shortest = min_distance(cell.lattice, cell.frac_coords)
    if shortest <= SHORTEST_DISTANCE:
        return None
    trials = []
    for ask in (_dataset, _dataset_by_spglib):
        for share in SHARES:
            if shortest <= share * tolerance:
                continue
            with suppress(ValueError):
                trials.append(ask(cell, share * tolerance).standard())
                break
    return max(trials, key=lambda trial: trial.operations_per_atom, default=None)


def _is_same_compound(one: Cell, other: Cell) -> bool:
    """Tell whether two crystals have one reduced formula."""
    a, b = (np.bincount(cell.atomic_numbers, minlength=119) for cell in (one, other))
    return bool((a * len(other.atomic_numbers) == b * len(one.atomic_numbers)).all())


# --- cells by spglib -------------------------------------------------------------------------
#
# The library of known structures and the training data hold spglib's cells. moyo chooses other
# origins and axes, so that results for a seed would change.


def standard_primitive_cell(cell: Cell, tolerance: float) -> tuple[Cell, int] | None:
    """Make the symmetry of a crystal exact, in the primitive cell of its conventional one.

    Args:
        cell: the crystal.
        tolerance: Å within which symmetry is found.

    Returns:
        The cell and the number of its space group; None if none is found.
    """
    found = _spglib("get_symmetry_dataset", tuple(cell), symprec=tolerance)
    matrix = None if found is None else PRIMITIVE_VECTORS.get(str(found.international)[0])
    if matrix is None:
        return None
    numbers = found.std_types.astype(np.int64)
    copies = round(1 / np.linalg.det(matrix))
    small = matrix @ found.std_lattice
    moved = found.std_positions @ np.linalg.inv(matrix)
    moved -= np.floor(moved)
    keep: list[int] = []
    for i in range(len(moved)):
        steps = moved[keep] - moved[i]
        steps -= np.round(steps)
        same = numbers[keep] == numbers[i]
        if not (same & ((steps @ small) ** 2 < 1e-4).all(axis=1)).any():
            keep.append(i)
    if len(keep) * copies != len(moved):  # the atoms do not fit the centring
        return None
    return Cell(small, moved[keep], numbers[keep]), int(found.number)


def primitive_cell(cell: Cell, tolerance: float) -> Cell:
    """Find the primitive cell of a crystal, its atoms where they are but for averages.

    The crystal itself comes back where there is none, or none that is smaller.
    """
    found = _spglib("find_primitive", tuple(cell), symprec=tolerance)
    return cell if found is None or len(found[2]) >= len(cell.atomic_numbers) else Cell(*found)


def symmetry_operations(
    cell: Cell, tolerance: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """Find the rotations (m, 3, 3) and translations (m, 3) of a crystal in its own cell."""
    found = _spglib("get_symmetry", tuple(cell), symprec=tolerance)
    return None if found is None else (found["rotations"], found["translations"])


def niggli_lattice(lattice: NDArray[np.float64], tolerance: float) -> NDArray[np.float64] | None:
    """Reduce a lattice (rows in Å) to its Niggli cell, within a tolerance in Å; None if it fails.

    Other than the Niggli cells of `crysmetrics.matching`, which are pymatgen's axis by axis.
    """
    found = _spglib("niggli_reduce", lattice, eps=tolerance)
    return None if found is None else np.array(found)


# --- moyo and spglib -------------------------------------------------------------------------


class _Dataset(NamedTuple):
    """What both libraries tell of a crystal."""

    number: int
    hall_number: int
    lattice: Any
    frac_coords: Any
    atomic_numbers: Any

    def standard(self) -> StandardCell:
        """See `StandardCell`."""
        cell = Cell(
            np.array(self.lattice, dtype=np.float64),
            np.array(self.frac_coords, dtype=np.float64),
            np.array(self.atomic_numbers, dtype=np.int64),
        )
        return StandardCell(cell, self.number, self.hall_number)


def _dataset(cell: Cell, tolerance: float) -> _Dataset:
    """Ask moyo, or spglib where the cell is flat.

    Raises:
        ValueError: if no space group is found, with the reason.
    """
    import moyopy

    widths = np.linalg.svd(cell.lattice, compute_uv=False)
    if widths[-1] < MIN_THICKNESS or widths[0] > MOST_SLENDER * widths[-1]:
        return _dataset_by_spglib(cell, tolerance)
    found = moyopy.MoyoDataset(
        moyopy.Cell(cell.lattice.tolist(), cell.frac_coords.tolist(), cell.atomic_numbers.tolist()),
        symprec=tolerance,
    )
    standard = found.std_cell
    return _Dataset(
        int(found.number), int(found.hall_number),
        standard.basis, standard.positions, standard.numbers,
    )  # fmt: skip


def _dataset_by_spglib(cell: Cell, tolerance: float) -> _Dataset:
    found = _spglib("get_symmetry_dataset", tuple(cell), symprec=tolerance)
    if found is None:
        raise ValueError("No space group was found.")
    return _Dataset(
        int(found.number), int(found.hall_number),
        found.std_lattice, found.std_positions, found.std_types,
    )  # fmt: skip


def _spglib(function: str, *args: Any, **options: Any) -> Any:
    """Ask spglib; None where it finds nothing, whether by an error or by None."""
    import spglib

    try:
        return getattr(spglib, function)(*args, **options)
    except Exception:  # its own error types differ between its versions
        return None
