"""`Crystals`: many crystal structures packed into a few arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from crysmetrics.io.elements import ATOMIC_NUMBERS, MAX_ATOMIC_NUMBER, SYMBOLS

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from pymatgen.core import Structure


class Failure(NamedTuple):
    """Something that could not be read, or is no crystal."""

    file: str
    """Path inside what was read, with row, frame or block where there are several."""
    reason: str


@dataclass(frozen=True, eq=False)
class Crystals:
    """A batch of B crystals with N atoms in all, packed without padding.

    Atoms of structure `i` are rows `offsets[i]:offsets[i + 1]` of the atom arrays.

    Attributes:
        atomic_numbers: (N,) int64, 1 to 118.
        frac_coords: (N, 3) float64, wrapped to [0, 1).
        lattices: (B, 3, 3) float64 in Å; lattice vectors are **rows**, so that
            `cart_coords = frac_coords @ lattice`.
        num_atoms: (B,) int64, each at least 1.
        ids: B distinct strings.
        properties: name -> (B,) array of numbers, booleans or strings.
        failures: what belongs to the set but could not be read. A metric counts these
            (as failures in validity and coverage) or names them; it never forgets them.

    Raises:
        ValueError: if the arrays do not fit together or hold a value that no crystal has.
    """

    atomic_numbers: NDArray[np.int64]
    frac_coords: NDArray[np.float64]
    lattices: NDArray[np.float64]
    num_atoms: NDArray[np.int64]
    ids: tuple[str, ...]
    properties: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "atomic_numbers", _integers(self.atomic_numbers, "atomic numbers"))
        put(self, "num_atoms", _integers(self.num_atoms, "numbers of atoms"))
        frac = np.asarray(self.frac_coords, dtype=np.float64).reshape(-1, 3)
        put(self, "frac_coords", wrap(frac))
        put(self, "lattices", np.asarray(self.lattices, dtype=np.float64).reshape(-1, 3, 3))
        put(self, "ids", tuple(str(i) for i in self.ids))
        put(self, "failures", tuple(Failure(*f) for f in self.failures))
        put(self, "properties", {k: np.asarray(v) for k, v in self.properties.items()})
        self._check()

    def _check(self) -> None:
        atoms, structures = len(self.atomic_numbers), len(self.num_atoms)
        if len(self.frac_coords) != atoms or int(self.num_atoms.sum()) != atoms:
            raise ValueError(
                f"num_atoms sums to {int(self.num_atoms.sum())}, but there are {atoms} atomic "
                f"numbers and {len(self.frac_coords)} positions"
            )
        if len(self.lattices) != structures or len(self.ids) != structures:
            raise ValueError(
                f"{structures} structures, but {len(self.lattices)} lattices and "
                f"{len(self.ids)} ids"
            )
        if len(set(self.ids)) != structures:
            raise ValueError("ids are not distinct")
        for name, values in self.properties.items():
            if values.shape != (structures,):
                raise ValueError(f"property {name!r} has shape {values.shape}, not ({structures},)")
        if structures and int(self.num_atoms.min()) < 1:
            raise ValueError("a structure without atoms is no crystal")
        z = self.atomic_numbers
        if atoms and not 1 <= z.min() <= z.max() <= MAX_ATOMIC_NUMBER:
            raise ValueError(f"atomic numbers must lie between 1 and {MAX_ATOMIC_NUMBER}")
        if not (np.isfinite(self.frac_coords).all() and np.isfinite(self.lattices).all()):
            raise ValueError("positions and lattices must be finite")

    # --- views -----------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.num_atoms)

    def __repr__(self) -> str:
        return (
            f"Crystals({len(self)} structures, {len(self.atomic_numbers)} atoms, "
            f"{len(self.failures)} failures)"
        )

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(B + 1,) index of each structure's first atom, and the number of atoms."""
        return np.concatenate([[0], np.cumsum(self.num_atoms)]).astype(np.int64)

    @property
    def structure_index(self) -> NDArray[np.int64]:
        """(N,) the structure that each atom belongs to."""
        return np.repeat(np.arange(len(self)), self.num_atoms)

    @property
    def volumes(self) -> NDArray[np.float64]:
        """(B,) cell volumes in Å³, positive also for left-handed lattices."""
        return np.abs(np.linalg.det(self.lattices))

    @property
    def element_counts(self) -> NDArray[np.int64]:
        """(B, 119) number of atoms of each element, by atomic number."""
        flat = self.structure_index * (MAX_ATOMIC_NUMBER + 1) + self.atomic_numbers
        counts = np.bincount(flat, minlength=len(self) * (MAX_ATOMIC_NUMBER + 1))
        return counts.reshape(len(self), MAX_ATOMIC_NUMBER + 1)

    @property
    def num_total(self) -> int:
        """Structures read and failed together: the denominator of every share."""
        return len(self) + len(self.failures)

    def __getitem__(self, key: int | slice | Sequence[int] | NDArray[Any]) -> Crystals:
        """Select structures, without failures (those belong to the whole set)."""
        if isinstance(key, (int, np.integer)):
            if not -len(self) <= key < len(self):
                raise IndexError(f"structure {key} of {len(self)}")
            return self._one(int(key) % len(self))
        index = np.arange(len(self))[np.asarray(key, dtype=int) if _is_empty(key) else key]
        counts = self.num_atoms[index]
        shift = np.cumsum(counts) - counts  # where each chosen structure starts in the new arrays
        atoms = np.repeat(self.offsets[index] - shift, counts) + np.arange(int(counts.sum()))
        return Crystals(
            self.atomic_numbers[atoms],
            self.frac_coords[atoms],
            self.lattices[index],
            counts,
            tuple(self.ids[i] for i in index),
            {name: values[index] for name, values in self.properties.items()},
        )

    def _one(self, i: int) -> Crystals:
        atoms = slice(self.offsets[i], self.offsets[i + 1])
        return Crystals(
            self.atomic_numbers[atoms],
            self.frac_coords[atoms],
            self.lattices[i : i + 1],
            self.num_atoms[i : i + 1],
            self.ids[i : i + 1],
            {name: values[i : i + 1] for name, values in self.properties.items()},
        )

    def __iter__(self) -> Iterator[Crystals]:
        return (self._one(i) for i in range(len(self)))

    def with_failures(self, failures: Iterable[Failure]) -> Crystals:
        """Return the same structures with these failures instead of their own."""
        return replace(self, failures=tuple(failures))

    def with_ids(self, ids: Sequence[str]) -> Crystals:
        """Return the same structures under other ids."""
        return replace(self, ids=tuple(ids))

    # --- making ----------------------------------------------------------------------------

    @classmethod
    def empty(cls, failures: Iterable[Failure] = ()) -> Crystals:
        """Make a set of failures, without structures."""
        none = np.zeros(0, dtype=np.int64)
        return cls(none, np.zeros((0, 3)), np.zeros((0, 3, 3)), none, (), {}, tuple(failures))

    @classmethod
    def concatenate(cls, parts: Iterable[Crystals]) -> Crystals:
        """Join all structures and failures of `parts` in order.

        A property that some part lacks is NaN there (an empty string, if it is text).

        Raises:
            ValueError: if two parts share an id.
        """
        parts = list(parts)
        if not parts:
            return cls.empty()
        filled = [p for p in parts if len(p)]
        names = dict.fromkeys(name for p in filled for name in p.properties)
        return cls(
            np.concatenate([p.atomic_numbers for p in parts]),
            np.concatenate([p.frac_coords for p in parts]),
            np.concatenate([p.lattices for p in parts]),
            np.concatenate([p.num_atoms for p in parts]),
            tuple(i for p in parts for i in p.ids),
            {name: _concatenate_property(filled, name) for name in names},
            tuple(f for p in parts for f in p.failures),
        )

    # --- converting ------------------------------------------------------------------------

    def to_pymatgen(self) -> list[Structure]:
        """Convert to a list of pymatgen structures, in order."""
        from pymatgen.core import Lattice, Structure

        offsets = self.offsets
        return [
            Structure(
                Lattice(self.lattices[i]),
                [SYMBOLS[z] for z in self.atomic_numbers[offsets[i] : offsets[i + 1]]],
                self.frac_coords[offsets[i] : offsets[i + 1]],
            )
            for i in range(len(self))
        ]

    def to_torch(
        self, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
    ) -> dict[str, torch.Tensor]:
        """Convert the arrays to tensors, with `structure_index` (N,) beside them.

        Args:
            device: where the tensors live.
            dtype: of `frac_coords` and `lattices`; PyTorch's default if not given.
        """
        import torch

        real = dtype or torch.get_default_dtype()
        kinds = {"frac_coords": real, "lattices": real}
        names = ("atomic_numbers", "frac_coords", "lattices", "num_atoms", "structure_index")
        return {
            name: torch.tensor(getattr(self, name), dtype=kinds.get(name), device=device)
            for name in names
        }

    # --- identity and storage ----------------------------------------------------------------

    def content_hashes(self, decimals: int | None = None) -> list[str]:
        """Compute SHA-256 of each structure's elements, positions and lattice; ids play no part.

        Args:
            decimals: to which numbers are rounded first; None for every bit.
        """
        offsets = self.offsets
        numbers = self.atomic_numbers.astype("<i8")
        frac, lattices = self.frac_coords.astype("<f8"), self.lattices.astype("<f8")
        if decimals is not None:
            # Adding 0 makes -0 and 0 the same.
            frac = np.round(frac, decimals) % 1.0 + 0.0
            lattices = np.round(lattices, decimals) + 0.0
        hashes = []
        for i in range(len(self)):
            atoms = slice(offsets[i], offsets[i + 1])
            digest = hashlib.sha256(numbers[atoms].tobytes())
            digest.update(frac[atoms].tobytes())
            digest.update(lattices[i].tobytes())
            hashes.append(digest.hexdigest())
        return hashes

    def sha256(self) -> str:
        """Hash of the whole set: ids and contents, and the names of what failed.

        The order of structures plays no part, nor how they were stored: a folder of files and
        the same folder zipped have the same hash. (That is why failures count by the last part
        of their path: an archive often wraps everything in one more folder.) Numbers are rounded
        to 1e-8, because sines of cell angles differ between machines in their last bit.
        """
        entries = sorted(zip(self.ids, self.content_hashes(decimals=8), strict=True))
        failed = sorted(f.file.rpartition("/")[2] for f in self.failures)
        return hashlib.sha256(json.dumps([entries, failed]).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write all of it, bit for bit, to one compressed `.npz` without pickled objects.

        The file appears under its name only when it is complete.

        Raises:
            UserError: if a property is of a type that can't be stored, or the path is no good.
        """
        from crysmetrics.io.packed import save

        save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Crystals:
        """Read what `save` wrote.

        Raises:
            InputError: if the file is not one of ours, or is damaged.
        """
        from crysmetrics.io.packed import load

        return load(path, cls)


def _integers(values: Any, name: str) -> NDArray[np.int64]:
    """Make a flat array of whole numbers.

    Raises:
        ValueError: if some are fractions, infinite or no numbers.
    """
    array = np.asarray(values).reshape(-1)
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.round(array))).all():
        raise ValueError(f"{name} must be whole numbers")
    return array.astype(np.int64)


def wrap(frac_coords: NDArray[np.float64]) -> NDArray[np.float64]:
    """Wrap fractional coordinates into [0, 1)."""
    with np.errstate(invalid="ignore"):  # infinities are reported by name, not by a warning
        wrapped = frac_coords - np.floor(frac_coords)
    # -1e-17 - floor(-1e-17) rounds to 1.0, which is 0.
    wrapped[wrapped >= 1.0] = 0.0
    return wrapped


def arrays_from_pymatgen(
    structure: Any,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Extract atomic numbers, fractional coordinates and lattice of a pymatgen structure.

    Raises:
        ValueError: naming what makes it no ordered crystal.
    """
    if not (hasattr(structure, "lattice") and hasattr(structure, "frac_coords")):
        raise ValueError(f"is a {type(structure).__name__}, not a periodic structure")
    numbers = []
    for site in structure:
        if not site.is_ordered:
            raise ValueError(f"is disordered: site {site.species_string!r} is partially occupied")
        symbol = getattr(getattr(site.specie, "element", site.specie), "symbol", str(site.specie))
        if symbol not in ATOMIC_NUMBERS:
            raise ValueError(f"holds an unknown element {symbol!r}")
        numbers.append(ATOMIC_NUMBERS[symbol])
    return (
        np.array(numbers, dtype=np.int64),
        np.asarray(structure.frac_coords, dtype=np.float64).reshape(-1, 3),
        np.asarray(structure.lattice.matrix, dtype=np.float64),
    )


def as_property(values: Sequence[Any]) -> NDArray[Any]:
    """Make one array from per-structure values: numbers (NaN where missing), booleans or text."""
    present = [v for v in values if v is not None]
    complete = len(present) == len(values)
    try:
        if complete and values and all(isinstance(v, (bool, np.bool_)) for v in values):
            return np.array(values, dtype=bool)
        if all(isinstance(v, (int, float, np.number)) for v in present):
            if complete and all(isinstance(v, (int, np.integer)) for v in values):
                return np.array(values, dtype=np.int64)
            return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    except OverflowError:  # integers beyond 64 bits are identifiers, not numbers: kept as text
        pass
    return np.array(["" if v is None else str(v) for v in values], dtype=np.str_)


def _concatenate_property(parts: Sequence[Crystals], name: str) -> NDArray[Any]:
    found = [p.properties.get(name) for p in parts]
    arrays = [a for a in found if a is not None]
    if len(arrays) == len(found) and len({a.dtype.kind for a in arrays}) == 1:
        return np.concatenate(arrays)
    values: list[Any] = []
    for part, array in zip(parts, found, strict=True):
        values.extend([None] * len(part) if array is None else _with_none(array))
    return as_property(values)


def _with_none(values: NDArray[Any]) -> list[Any]:
    """Convert to a list, None where a number is missing: beside text that becomes "", not "nan"."""
    if values.dtype.kind != "f":
        return list(values.tolist())
    return [None if v != v else v for v in values.tolist()]


def _is_empty(key: Any) -> bool:
    # An empty list has no integers in it that would make it an index.
    return isinstance(key, (list, tuple, np.ndarray)) and len(key) == 0
