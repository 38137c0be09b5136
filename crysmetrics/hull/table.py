"""Tables of known phases with formation energies: the shipped one, and a user's own.

A table is one `.npz`: compositions, energies and ids of phases, and how large the error of its
hulls is, found when it was built by leaving out one composition after the other.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import InputError, UserError
from crysmetrics.hull import Amounts, ConvexHull, Mixture
from crysmetrics.io.atomic import atomic_file
from crysmetrics.io.elements import ATOMIC_NUMBERS, SYMBOLS
from crysmetrics.progress import task

FORMAT = "crysmetrics-hull/1"
SHIPPED = Path(__file__).parent / "materials-project.npz"
"""Phases of the Materials Project, see its `source`."""
ON_HULL = 1e-3
"""eV/atom within which a phase is on the hull."""
ERROR_BINS = (0, 1, 3, 6, 11, 21)
"""First numbers of competing phases of each bin in which errors are given."""
TRIED = 2000
"""Compositions that are left out, in turn, to find the errors; drawn if there are more."""


@dataclass(frozen=True)
class HullError:
    """Error of hull energies at compositions whose own phases the table lacks, in eV/atom.

    Attributes:
        first, last: numbers of competing phases that it holds for; None without an upper end.
        count: compositions that were left out to find it.
        median, mean: of the error's size; the hull is always too high, never too low.
    """

    first: int
    last: int | None
    count: int
    median: float
    mean: float


@dataclass(frozen=True, eq=False)
class HullTable:
    """Known phases with their formation energies.

    Attributes:
        ids: of E phases.
        compositions: atoms of each element.
        energies: (E,) formation energies in eV/atom.
        published: (E,) energies above hull in eV/atom as published; NaN where unknown.
        source: where they come from, and their licence.
        errors: by numbers of competing phases.
    """

    ids: tuple[str, ...]
    compositions: tuple[dict[int, int], ...]
    energies: NDArray[np.float64]
    published: NDArray[np.float64]
    source: str
    errors: tuple[HullError, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def hull(self) -> ConvexHull:
        """Make the convex hull of all phases and of the hull's energies at their compositions.

        A phase that is published with its energy above hull tells where the hull runs at its
        composition, also where the phases that make it up are not in the table.
        """
        below = np.where(np.isfinite(self.published), np.maximum(self.published, 0.0), 0.0)
        return self._lowest(self.energies - below)

    @cached_property
    def hull_of_phases(self) -> ConvexHull:
        """Make the convex hull of the phases in the table alone."""
        return self._lowest(self.energies)

    def _lowest(self, energies: NDArray[np.float64]) -> ConvexHull:
        """Make the convex hull of the lowest energy of each composition."""
        lowest: dict[tuple[tuple[int, int], ...], int] = {}
        for i in np.argsort(energies, kind="stable").tolist():
            lowest.setdefault(reduced(self.compositions[i]), i)
        used = np.full(len(self), np.nan)
        rows = list(lowest.values())
        used[rows] = energies[rows]
        return ConvexHull(self.compositions, used)

    def competing(self, composition: Amounts) -> int:
        """Count the compositions of known phases within a chemical system, elements left out."""
        elements = sorted(composition)
        phases = self.hull.phases_within(elements)
        return sum(len(self.compositions[i]) > 1 for i in phases)

    @cached_property
    def known(self) -> frozenset[tuple[tuple[int, int], ...]]:
        """List all compositions, as `reduced` gives them."""
        return frozenset(map(reduced, self.compositions))

    def error(self, competing: int) -> HullError | None:
        """Look up the error of hulls with that many competing phases; None if it is unknown.

        It is that of compositions that the table lacks; at those it has, the hull is known.
        """
        fitting = [e for e in self.errors if e.first <= competing and e.count]
        return fitting[-1] if fitting else None

    def names(self, mixture: Mixture) -> list[tuple[str, str, float]]:
        """Name the phases of a mixture: formula, id, share of the atoms; largest shares first.

        The id is "" for pure elements, and where only the hull's energy is known.
        """
        found = []
        for i, share in mixture.phases.items():
            stable = not self.published[i] > ON_HULL
            found.append((formula(self.compositions[i]), self.ids[i] if stable else "", share))
        found += [(SYMBOLS[z], "", w) for z, w in mixture.elements.items()]
        return sorted(found, key=lambda phase: (-phase[2], phase[0]))

    def with_errors(self, seed: int = 0) -> HullTable:
        """Find the errors by leaving out compositions, up to `TRIED`, in turn."""
        distinct = {
            reduced(c): i for i, c in reversed(list(enumerate(self.compositions))) if len(c) > 1
        }
        rows = np.array(sorted(distinct.values()), dtype=np.int64)
        if len(rows) > TRIED:
            rows = np.sort(np.random.default_rng(seed).choice(rows, TRIED, replace=False))
        counts, sizes = [], []
        with task("Error of the hull", len(rows)) as advance:
            for i in rows.tolist():
                composition = self.compositions[i]
                without = self.hull.mixture(composition, with_itself=False).energy
                counts.append(self.competing(composition) - 1)
                sizes.append(without - self.hull.hull_energy(composition))
                advance(1)
        errors = []
        number, size = np.array(counts), np.array(sizes)
        for first, following in zip(ERROR_BINS, (*ERROR_BINS[1:], None), strict=True):
            last = None if following is None else following - 1
            here = size[(number >= first) & ((number <= last) if last is not None else True)]
            values = (float(np.median(here)), float(here.mean())) if len(here) else (0.0, 0.0)
            errors.append(HullError(first, last, len(here), *(round(v, 4) for v in values)))
        return replace(self, errors=tuple(errors))

    def save(self, path: Path) -> None:
        """Write the table, whole or not at all."""
        counts = [len(c) for c in self.compositions]
        meta = {
            "format": FORMAT,
            "source": self.source,
            "errors": [[e.first, e.last, e.count, e.median, e.mean] for e in self.errors],
        }
        numbers = [z for c in self.compositions for z in c]
        atoms = [n for c in self.compositions for n in c.values()]
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8),
                ids=np.frombuffer("\n".join(self.ids).encode(), dtype=np.uint8),
                num_elements=np.array(counts, dtype=np.uint8),
                atomic_numbers=np.array(numbers, dtype=np.uint8),
                num_atoms=np.array(atoms, dtype=np.uint32),
                energies=self.energies.astype(np.float32),
                published=self.published.astype(np.float32),
            )


@lru_cache(maxsize=4)
def load_hull(path: Path = SHIPPED) -> HullTable:
    """Read a table.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    try:
        with np.load(path, allow_pickle=False) as data:
            meta: dict[str, Any] = json.loads(data["meta"].tobytes())
            if meta.get("format") != FORMAT:
                raise ValueError("its format is another")
            ids = tuple(data["ids"].tobytes().decode().split("\n"))
            counts = data["num_elements"].astype(np.int64)
            numbers = data["atomic_numbers"].tolist()
            atoms = data["num_atoms"].tolist()
            energies = data["energies"].astype(np.float64)
            published = data["published"].astype(np.float64)
        stops = np.cumsum(counts).tolist()
        starts = [0, *stops[:-1]]
        compositions = tuple(
            dict(zip(numbers[a:b], atoms[a:b], strict=True))
            for a, b in zip(starts, stops, strict=True)
        )
        if not len(ids) == len(compositions) == len(energies) == len(published):
            raise ValueError("its columns differ in length")
        errors = tuple(HullError(*row) for row in meta["errors"])
    except (KeyError, ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no table of a hull, or damaged ({error}).") from error
    return HullTable(ids, compositions, energies, published, str(meta["source"]), errors)


def reduced(composition: Amounts) -> tuple[tuple[int, int], ...]:
    """Divide a composition by the common divisor: (atomic number, atoms), sorted."""
    amounts = {int(z): int(n) for z, n in composition.items()}
    divisor = int(np.gcd.reduce(list(amounts.values())))
    return tuple(sorted((z, n // divisor) for z, n in amounts.items()))


def formula(composition: Amounts) -> str:
    """Write a composition as a reduced formula, as pymatgen does."""
    from pymatgen.core import Composition, Element

    amounts = {Element.from_Z(z): n for z, n in composition.items()}
    return str(Composition(amounts).reduced_formula)


def amounts_of(atomic_numbers: Sequence[int] | NDArray[np.int64]) -> dict[int, int]:
    """Count the atoms of each element."""
    numbers, counts = np.unique(np.asarray(atomic_numbers), return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))


class Phase(NamedTuple):
    """One known phase of a chemical system; energies in eV/atom."""

    formula: str
    id: str
    formation_energy_per_atom: float
    e_above_hull: float


def phases_of(table: HullTable, elements: Sequence[int]) -> list[Phase]:
    """List the known phases of a chemical system, those nearest to the hull first."""
    within = set(elements)
    found = []
    for i, amounts in enumerate(table.compositions):
        if set(amounts) <= within:
            energy = float(table.energies[i])
            above = max(0.0, table.hull.e_above_hull(amounts, energy))
            found.append(Phase(formula(amounts), table.ids[i], energy, round(above, 6)))
    return sorted(found, key=lambda phase: (phase.e_above_hull, phase.formula, phase.id))


def parse_system(text: str) -> tuple[int, ...]:
    """Read a chemical system such as `Li-Fe-O` as atomic numbers in this order.

    Raises:
        UserError: if it is none.
    """
    numbers = [ATOMIC_NUMBERS.get(symbol, 0) for symbol in text.split("-")]
    if not all(numbers) or len(set(numbers)) != len(numbers):
        raise UserError(f"A chemical system is written like Li-Fe-O; not {text!r}.")
    return tuple(numbers)
