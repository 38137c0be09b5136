"""Packing: structures one by one into `Crystals`, with a reason for each that is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from crysmetrics.io.crystals import Crystals, Failure, arrays_from_pymatgen, as_property
from crysmetrics.io.elements import MAX_ATOMIC_NUMBER

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from pymatgen.core import Structure

MIN_THICKNESS = 0.01
"""Thinnest cell (Å, between opposite faces) that still counts as a crystal; pymatgen's limit."""


class CrystalsBuilder:
    """Collects structures one by one; checks and packs them all at once in `build`.

    What fails a check becomes a failure with its reason; nothing raises.
    """

    def __init__(self, max_atoms: int | None = None) -> None:
        self.max_atoms = max_atoms
        self._failures: list[tuple[int, Failure]] = []
        self._rows: list[_Row] = []

    def fail(self, file: str, reason: str) -> None:
        """Note a failure."""
        self._failures.append((len(self._rows), Failure(file, reason)))

    def add(
        self,
        structure_id: str,
        numbers: ArrayLike,
        frac_coords: ArrayLike,
        lattice: ArrayLike,
        *,
        source: str,
        properties: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a structure, or a failure under the name `source` if it is no crystal.

        Args:
            structure_id: the first crystal of this id keeps it; later ones become failures.
            numbers: (n,) atomic numbers.
            frac_coords: (n, 3), wrapped or not.
            lattice: (3, 3) rows in Å.
            source: its name in `failures`: a file, with row, frame or block.
            properties: name -> number, boolean or text.
        """
        try:
            numbers = np.asarray(numbers, dtype=np.int64).reshape(-1)
            frac = np.asarray(frac_coords, dtype=np.float64).reshape(-1, 3)
            cell = np.asarray(lattice, dtype=np.float64).reshape(3, 3)
        except (ValueError, TypeError, OverflowError) as error:
            self.fail(source, f"holds arrays of the wrong kind ({error})")
            return
        if len(numbers) == 0:
            self.fail(source, "has no atoms")
        elif len(numbers) != len(frac):
            self.fail(source, f"has {len(numbers)} elements but {len(frac)} positions")
        elif self.max_atoms is not None and len(numbers) > self.max_atoms:
            self.fail(source, f"has {len(numbers)} atoms, more than the {self.max_atoms} allowed")
        else:
            self._rows.append(_Row(structure_id, numbers, frac, cell, source, properties or {}))

    def build(self) -> Crystals:
        """Pack everything added so far, in order; failures too."""
        return self.build_with_sources()[0]

    def build_with_sources(self) -> tuple[Crystals, list[str]]:
        """Pack everything added so far, and tell where each of its structures comes from."""
        reasons = _why_no_crystals(self._rows)
        # Only crystals use up their id: what a set holds must not depend on where it was split.
        first: dict[str, str] = {}
        for i, row in enumerate(self._rows):
            if i in reasons:
                continue
            if row.id in first:
                reasons[i] = say_duplicate(row.id, first[row.id])
            else:
                first[row.id] = row.source
        failures = [
            *self._failures,
            *((i, Failure(self._rows[i].source, reason)) for i, reason in reasons.items()),
        ]
        failures.sort(key=lambda entry: entry[0])
        rows = [row for i, row in enumerate(self._rows) if i not in reasons]
        named = tuple(failure for _, failure in failures)
        if not rows:
            return Crystals.empty(named), []
        names = dict.fromkeys(name for row in rows for name in row.properties)
        crystals = Crystals(
            np.concatenate([row.numbers for row in rows]),
            np.concatenate([row.frac for row in rows]),
            np.stack([row.cell for row in rows]),
            np.array([len(row.numbers) for row in rows]),
            tuple(row.id for row in rows),
            {name: as_property([row.properties.get(name) for row in rows]) for name in names},
            named,
        )
        return crystals, [row.source for row in rows]


def say_duplicate(structure_id: str, first: str) -> str:
    """Say that `first` has this id already."""
    return f"has the id {structure_id!r}, already used by {first}"


class _Row(NamedTuple):
    id: str
    numbers: NDArray[np.int64]
    frac: NDArray[np.float64]
    cell: NDArray[np.float64]
    source: str
    properties: Mapping[str, Any]


def _why_no_crystals(rows: Sequence[_Row]) -> dict[int, str]:
    """Find the rows whose numbers describe no crystal, in bulk; index -> reason."""
    if not rows:
        return {}
    starts = np.concatenate([[0], np.cumsum([len(row.numbers) for row in rows])[:-1]])
    numbers = np.concatenate([row.numbers for row in rows])
    frac = np.concatenate([row.frac for row in rows])
    cells = np.stack([row.cell for row in rows])
    unknown = np.add.reduceat((numbers < 1) | (numbers > MAX_ATOMIC_NUMBER), starts, dtype=int) > 0
    infinite = np.add.reduceat(~np.isfinite(frac).all(axis=1), starts, dtype=int) > 0
    infinite_cell = np.logical_not(np.isfinite(cells).all(axis=(1, 2)))
    with np.errstate(all="ignore"):  # overflow in absurd cells is what is looked for
        volumes = np.abs(np.linalg.det(cells))
        a, b, c = cells[:, 0], cells[:, 1], cells[:, 2]
        faces = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=1)
        largest = np.linalg.norm(faces, axis=2).max(axis=1)
        flat = np.logical_not((volumes > 1e-12) & (volumes >= MIN_THICKNESS * largest))
        huge = ~np.isfinite(volumes) | ~np.isfinite(largest)
    reasons: dict[int, str] = {}
    for i in map(int, np.flatnonzero(unknown | infinite | infinite_cell | huge | flat)):
        if unknown[i]:
            z = rows[i].numbers
            bad = int(z[(z < 1) | (z > MAX_ATOMIC_NUMBER)][0])
            reasons[i] = f"holds an unknown element (atomic number {bad})"
        elif infinite[i]:
            reasons[i] = "has a position that is not a finite number"
        elif infinite_cell[i]:
            reasons[i] = "has a cell that is not finite"
        elif huge[i]:
            reasons[i] = "has a cell too large for floating-point numbers"
        else:
            reasons[i] = f"has a cell of (almost) no volume ({volumes[i]:.3g} Å³)"
    return reasons


def from_pymatgen(structures: Iterable[Structure], ids: Sequence[str] | None = None) -> Crystals:
    """Pack ordered pymatgen structures; what is no ordered crystal becomes a failure.

    Args:
        structures: pymatgen `Structure` objects; other objects end in `failures`.
        ids: one for each; by default their positions, "0", "1", ...
    """
    structures = list(structures)
    if ids is None:
        ids = [str(i) for i in range(len(structures))]
    if len(ids) != len(structures):
        raise ValueError(f"{len(structures)} structures, but {len(ids)} ids")
    builder = CrystalsBuilder()
    for name, structure in zip(ids, structures, strict=True):
        try:
            numbers, frac, lattice = arrays_from_pymatgen(structure)
        except ValueError as error:
            builder.fail(str(name), str(error))
        else:
            builder.add(str(name), numbers, frac, lattice, source=str(name))
    return builder.build()
