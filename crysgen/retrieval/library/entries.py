"""The crystals of a library as packed arrays, and the file they are shipped in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.library.anonymous import Counts
from crysgen.retrieval.library.prototypes import PrimitiveCrystal, niggli_cells
from crysmetrics.errors import InputError
from crysmetrics.io.elements import MAX_ATOMIC_NUMBER
from crysmetrics.io.parsed import one_line
from crysmetrics.matching.cells import ReducedCells

SCHEMA = "crysgen-library/1"
"""Name and version of the format of library files."""
USER_SOURCE = "user"
"""Name of the source of crystals that users added themselves."""
_STORED = {
    "species_counts": "slot_counts",
    "representatives": "leaders",
    "match_entry": "hit_entry",
    "match_representative": "hit_leader",
    "match_permutation": "hit_renaming",
}
"""Names of arrays in library files, where they differ from those of `Entries`."""
_PER_ENTRY = ("source", "kinds", "lattices", "space_groups", "e_above_hull", "hull_estimate")
_PER_MATCH = ("match_entry", "match_representative", "match_permutation")
GRID = 65520
"""Number of steps along a cell edge in which positions are stored; holds thirds to eighths."""


@dataclass(frozen=True)
class Entries:
    """E crystals in standard primitive cells, atoms sorted by species.

    Attributes:
        ids: E strings.
        source: (E,) index into `sources`.
        sources: names of databases, each with its licence.
        kinds: (E,) number of elements of each entry.
        elements: (S,) atomic number of each species, entry after entry.
        species_counts: (S,) number of atoms of each species.
        frac_coords: (N, 3) fractional coordinates in units of 1/GRID.
        lattices: (E, 3, 3) rows in Å.
        space_groups: (E,) space group numbers.
        e_above_hull: (E,) energy above the convex hull in eV/atom, NaN where unknown.
        hull_estimate: (E,) lower bound of the same from predicted energies (`hull_estimates`), NaN
            where it is known or can't be estimated.
        representatives: (R,) the entry that represents each prototype.
        match_entry: (M,) entry of each match with a prototype, in ascending order.
        match_representative: (M,) index into `representatives`.
        match_permutation: (M,) permutation that turns the entry's species into those of the
            representative; see `prototypes.sort_into_prototypes`.
        sorted_entries: entries before this one have been matched.
        num_benchmark: the first so many entries are those of `benchmark`; None for all.
        names: what prototypes are called (`B1, rock salt`), by id of the entry that shows each.
    """

    ids: tuple[str, ...]
    source: NDArray[np.uint8]
    sources: tuple[tuple[str, str], ...]
    kinds: NDArray[np.uint8]
    elements: NDArray[np.uint8]
    species_counts: NDArray[np.uint8]
    frac_coords: NDArray[np.uint16]
    lattices: NDArray[np.float32]
    space_groups: NDArray[np.uint8]
    e_above_hull: NDArray[np.float16]
    hull_estimate: NDArray[np.float16]
    representatives: NDArray[np.int32]
    match_entry: NDArray[np.int32]
    match_representative: NDArray[np.int32]
    match_permutation: NDArray[np.uint8]
    sorted_entries: int = field(default=0)
    num_benchmark: int | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def species_offsets(self) -> NDArray[np.int64]:
        """(E + 1,) where the species of each entry begin."""
        return np.concatenate([[0], np.cumsum(self.kinds.astype(np.int64))])

    @cached_property
    def num_atoms(self) -> NDArray[np.int64]:
        """(E,) atoms in the primitive cell."""
        if not len(self):
            return np.zeros(0, dtype=np.int64)
        return np.add.reduceat(self.species_counts.astype(np.int64), self.species_offsets[:-1])

    @cached_property
    def atom_offsets(self) -> NDArray[np.int64]:
        """(E + 1,) where the atoms of each entry begin."""
        return np.concatenate([[0], np.cumsum(self.num_atoms)])

    @cached_property
    def by_counts(self) -> dict[Counts, NDArray[np.int64]]:
        """Indices of the entries with each tuple of anonymous counts."""
        found: dict[Counts, list[int]] = {}
        offsets, counts = self.species_offsets.tolist(), self.species_counts.tolist()
        for i in range(len(self)):
            found.setdefault(tuple(counts[offsets[i] : offsets[i + 1]]), []).append(i)
        return {key: np.array(members) for key, members in found.items()}

    @cached_property
    def position(self) -> dict[str, int]:
        """Index of each id."""
        return {name: i for i, name in enumerate(self.ids)}

    def of_formula(self, atoms: Mapping[int, int]) -> list[int]:
        """List the entries of a formula, in cells of any size.

        Args:
            atoms: number of atoms of each element.
        """
        elements = sorted(atoms)
        kind = len(elements)
        rows = np.flatnonzero(self.kinds == kind)
        places = self.species_offsets[rows][:, None] + np.arange(kind)
        own, counts = self.elements[places], self.species_counts[places].astype(np.int64)
        order = np.argsort(own, axis=1)
        own = np.take_along_axis(own, order, axis=1)
        counts = np.take_along_axis(counts, order, axis=1)
        wanted = np.array([atoms[z] for z in elements])
        same = (own == elements).all(axis=1)
        same &= (counts * wanted[0] == counts[:, :1] * wanted).all(axis=1)
        found: list[int] = rows[same].tolist()
        return found

    def species(self, i: int) -> NDArray[np.int64]:
        """Return the atomic numbers (k,) of the species of an entry."""
        part = self.elements[self.species_offsets[i] : self.species_offsets[i + 1]]
        return part.astype(np.int64)

    def counts(self, i: int) -> Counts:
        """Return how many atoms an entry has of each species."""
        return tuple(
            self.species_counts[self.species_offsets[i] : self.species_offsets[i + 1]].tolist()
        )

    def frac(self, i: int) -> NDArray[np.float64]:
        """Return the fractional coordinates (n, 3) of an entry."""
        return self.frac_coords[self.atom_offsets[i] : self.atom_offsets[i + 1]] / GRID

    def niggli_cells(self, chosen: NDArray[np.int64]) -> ReducedCells:
        """Reduce some entries to Niggli cells, which the matcher compares."""
        return niggli_cells(self.cells(chosen))

    def cells(
        self, chosen: NDArray[np.int64]
    ) -> list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]]:
        """Unpack lattices (3, 3), fractional coordinates (n, 3) and species (n,) of entries."""
        return [
            (
                self.lattices[i].astype(np.float64),
                self.frac(i),
                np.repeat(np.arange(int(self.kinds[i])), self.counts(i)),
            )
            for i in chosen.tolist()
        ]

    def source_of(self, i: int) -> tuple[str, str]:
        """Name the database of an entry, and its licence."""
        return self.sources[int(self.source[i])]

    def benchmark(self) -> Entries:
        """Take the entries that benchmarks may see, as if there were no others."""
        count = len(self) if self.num_benchmark is None else self.num_benchmark
        if count == len(self):
            return self
        species, atoms = int(self.species_offsets[count]), int(self.atom_offsets[count])
        # Representatives of the others' prototypes stand behind; entries match these as well.
        known = self.representatives[self.representatives < count]
        matches = (self.match_entry < count) & (self.match_representative < len(known))
        return replace(
            self,
            ids=self.ids[:count],
            **{name: getattr(self, name)[:count] for name in _PER_ENTRY},
            elements=self.elements[:species],
            species_counts=self.species_counts[:species],
            frac_coords=self.frac_coords[:atoms],
            representatives=known,
            **{name: getattr(self, name)[matches] for name in _PER_MATCH},
            sorted_entries=min(count, self.sorted_entries),
            num_benchmark=None,
            names={},
        )

    def joined(self, other: Entries) -> Entries:
        """Append those entries of `other` that have new ids; they are not matched yet."""
        keep = [i for i, name in enumerate(other.ids) if name not in self.position]
        names = list(self.sources)
        for source in other.sources:
            if source not in names:
                names.append(source)
        recoded = [names.index(other.source_of(i)) for i in keep]
        part = pack(
            [other.ids[i] for i in keep],
            [other.crystal(i) for i in keep],
            np.array(recoded, dtype=np.uint8),
            tuple(names),
            other.e_above_hull[keep],
            other.hull_estimate[keep],
        )
        arrays: dict[str, Any] = {}
        for name in (*_PER_ENTRY, "elements", "species_counts", "frac_coords"):
            arrays[name] = np.concatenate([getattr(self, name), getattr(part, name)])
        return replace(self, ids=self.ids + part.ids, sources=tuple(names), **arrays)

    def crystal(self, i: int) -> PrimitiveCrystal:
        """Unpack an entry."""
        lattice = self.lattices[i].astype(np.float64)
        group = int(self.space_groups[i])
        return PrimitiveCrystal(self.species(i), self.counts(i), lattice, self.frac(i), group)


def pack(
    ids: Sequence[str],
    crystals: Sequence[PrimitiveCrystal],
    source: NDArray[np.uint8],
    sources: tuple[tuple[str, str], ...],
    e_above_hull: NDArray[Any],
    hull_estimate: NDArray[Any] | None = None,
) -> Entries:
    """Pack reduced crystals as entries that are not matched yet."""
    none = np.zeros(0, dtype=np.int32)
    if hull_estimate is None:
        hull_estimate = np.full(len(ids), np.nan)

    def together(parts: list[Any], dtype: type, width: int | None = None) -> NDArray[Any]:
        empty = np.zeros((0, width) if width else 0)
        return np.concatenate([*(np.asarray(p) for p in parts), empty]).astype(dtype)

    return Entries(
        ids=tuple(ids),
        source=np.asarray(source, dtype=np.uint8),
        sources=sources,
        kinds=np.array([len(c.elements) for c in crystals], dtype=np.uint8),
        elements=together([c.elements for c in crystals], np.uint8),
        species_counts=together([c.counts for c in crystals], np.uint8),
        frac_coords=together([quantised(c.frac_coords) for c in crystals], np.uint16, 3),
        lattices=np.array([c.lattice for c in crystals], dtype=np.float32).reshape(-1, 3, 3),
        space_groups=np.array([c.space_group for c in crystals], dtype=np.uint8),
        e_above_hull=np.asarray(e_above_hull, dtype=np.float16),
        hull_estimate=np.asarray(hull_estimate, dtype=np.float16),
        representatives=none,
        match_entry=none,
        match_representative=none,
        match_permutation=none.astype(np.uint8),
    )


def quantised(frac_coords: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Round positions to multiples of 1/GRID."""
    return (np.round(frac_coords * GRID).astype(np.int64) % GRID).astype(np.uint16)


def save_entries(entries: Entries, path: str | Path) -> None:
    """Write a library file, whole or not at all.

    Raises:
        UserError: if the path can't be written.
    """
    from crysmetrics.io.atomic import atomic_file

    head = {
        "schema": SCHEMA,
        "sources": entries.sources,
        "sorted": entries.sorted_entries,
        "benchmark": entries.num_benchmark,
        "names": dict(entries.names),
    }
    arrays: dict[str, NDArray[Any]] = {
        "head": _text(json.dumps(head)),
        "ids": _text("\n".join(entries.ids)),
    }
    for f in fields(entries):
        value = getattr(entries, f.name)
        if isinstance(value, np.ndarray):
            arrays[_STORED.get(f.name, f.name)] = value
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load_entries(path: str | Path, everything: bool = False) -> Entries:
    """Read a library file.

    Args:
        path: of the file.
        everything: also the structures that benchmarks and training must not see; never there.

    Raises:
        InputError: if the file can't be read, is no library, or is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            head = json.loads(file["head"].tobytes().decode())
            if head.get("schema") != SCHEMA:
                raise ValueError(f"its format is {head.get('schema')!r}, not {SCHEMA!r}")
            ids = file["ids"].tobytes().decode()
            names = {f.name: _STORED.get(f.name, f.name) for f in fields(Entries)}
            arrays = {name: file[key] for name, key in names.items() if key in file.files}
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror or error}).") from error
    except (ValueError, KeyError, AttributeError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no library of crysgen: {one_line(error)}.") from error
    except Exception as error:  # zipfile's and zlib's own errors, and JSON that is too deep
        raise InputError(f"{path} is damaged: {one_line(error)}.") from error
    arrays["ids"] = tuple(ids.split("\n")) if ids else ()
    # Files of users may be older than this column.
    nothing = np.full(len(arrays["ids"]), np.nan, dtype=np.float16)
    arrays.setdefault("hull_estimate", nothing)
    try:
        sources = tuple((str(name), str(licence)) for name, licence in head["sources"])
        entries = Entries(
            sources=sources,
            sorted_entries=int(head["sorted"]),
            num_benchmark=head.get("benchmark"),
            names=head.get("names", {}),
            **arrays,
        )
        fault = _fault(entries)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise InputError(f"{path} is damaged: its parts do not fit together.") from error
    if fault:
        raise InputError(f"{path} is damaged: {fault}.")
    return entries if everything else entries.benchmark()


def _fault(entries: Entries) -> str | None:
    """Describe the first fault of a library's arrays; None if there is none."""
    whole = ("source", "kinds", "elements", "species_counts", "frac_coords", "space_groups")
    matches = ("representatives", "match_entry", "match_representative", "match_permutation")
    real = ("lattices", "e_above_hull", "hull_estimate")
    if any(getattr(entries, name).dtype.kind not in "iu" for name in (*whole, *matches)):
        return "it holds fractions where whole numbers belong"
    if any(getattr(entries, name).dtype.kind != "f" for name in real):
        return "it holds other things than numbers"
    count = len(entries)
    per_entry = ("source", "kinds", "space_groups", "e_above_hull", "hull_estimate")
    if any(getattr(entries, name).shape != (count,) for name in per_entry):
        return "its arrays do not fit together"
    if entries.lattices.shape != (count, 3, 3) or (entries.kinds < 1).any():
        return "its arrays do not fit together"
    species = int(entries.kinds.astype(np.int64).sum())
    if entries.elements.shape != (species,) or entries.species_counts.shape != (species,):
        return "its arrays do not fit together"
    if entries.frac_coords.shape != (int(entries.num_atoms.sum()), 3):
        return "its arrays do not fit together"
    if len(entries.position) != count:
        return "two of its crystals have one id"
    if ((entries.elements < 1) | (entries.elements > MAX_ATOMIC_NUMBER)).any():
        return "it holds atoms of no element"
    if (entries.species_counts < 1).any() or (entries.frac_coords >= GRID).any():
        return "it holds atoms at no place"
    if ((entries.space_groups < 1) | (entries.space_groups > 230)).any():
        return "it holds a space group that there is not"
    if count and int(entries.source.max()) >= len(entries.sources):
        return "it holds crystals of no source"
    cells = entries.lattices.astype(np.float64)
    if not np.isfinite(cells).all() or (np.abs(np.linalg.det(cells)) == 0).any():
        return "it holds a cell without volume"
    parallel = {getattr(entries, name).shape for name in matches[1:]} == {
        (len(entries.match_entry),)
    }
    known = 0 <= entries.sorted_entries <= count
    inside = all(
        part.ndim == 1 and _within(part, limit)
        for part, limit in (
            (entries.representatives, entries.sorted_entries),
            (entries.match_entry, entries.sorted_entries),
            (entries.match_representative, len(entries.representatives)),
        )
    )
    share = entries.num_benchmark
    known &= share is None or (isinstance(share, int) and 0 <= share <= count)
    if not (parallel and known and inside and (np.diff(entries.match_entry) >= 0).all()):
        return "its prototypes are of no crystals"
    return None


def _within(indices: NDArray[Any], limit: int) -> bool:
    return not len(indices) or (int(indices.min()) >= 0 and int(indices.max()) < limit)


def _text(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), dtype=np.uint8)
