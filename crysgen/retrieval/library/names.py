"""Name the prototypes of crystals: `B1, rock salt`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from crysgen.retrieval.library.anonymous import Counts, species_permutations
from crysgen.retrieval.library.entries import Entries, load_entries
from crysgen.retrieval.library.library import shipped_library
from crysgen.retrieval.library.named_structures import AFLOW
from crysgen.retrieval.library.prototypes import (
    STRICT,
    PrimitiveCrystal,
    displacements,
    niggli_cells,
    primitive_crystal,
)
from crysmetrics.io import Crystals


def prototype_names(crystals: Crystals, tolerance: float) -> list[str]:
    """Name the prototype of each crystal (B); "" where it has no name.

    A crystal has the name of a prototype with the same anonymous formula and space group that it
    matches by pymatgen's default tolerances.

    Args:
        crystals: B.
        tolerance: Å within which symmetry is found.
    """
    return [_name_of(primitive_crystal(crystal, tolerance)) for crystal in crystals]


def formulas_of(ids: Iterable[str]) -> dict[str, str]:
    """Look up the reduced formulas of shipped known structures by id; others are left out."""
    from crysgen.compositions.formulas import Formula

    entries, found = known_entries(), {}
    for name in ids:
        if name in entries.position:
            i = entries.position[name]
            counts = dict(zip(entries.species(i).tolist(), entries.counts(i), strict=True))
            found[name] = Formula.of(counts).reduced.text
    return found


def _name_of(cell: PrimitiveCrystal) -> str:
    entries = known_entries()
    known = _named().get((cell.counts, cell.space_group), [])
    if not known:
        return ""
    own = (cell.lattice, cell.frac_coords, cell.species)
    cells = niggli_cells([own, *entries.cells(np.array(known))])
    pairs = [(0, k + 1) for k in range(len(known))]
    cases = species_permutations(cell.counts)
    found = np.nan_to_num(displacements(cells, cells, pairs, cases, STRICT), nan=np.inf).min(axis=1)
    best = int(found.argmin())
    return entries.names[entries.ids[known[best]]] if np.isfinite(found[best]) else ""


@lru_cache(maxsize=1)
def known_entries() -> Entries:
    """Read all known structures that are shipped, once."""
    return load_entries(shipped_library(), everything=True)


@lru_cache(maxsize=1)
def _named() -> dict[tuple[Counts, int], list[int]]:
    """Collect the entries that have names, by anonymous counts and space group.

    AFLOW's labels have the space group of the prototype (AB3_tI16_140_b_ah). Where the structure
    has another one, it is not that prototype: uranium silicide, as pymatgen has it, is Cu3Au's.
    """
    entries = known_entries()
    found: dict[tuple[Counts, int], list[int]] = {}
    for name in entries.names:
        if name in entries.position:
            i = entries.position[name]
            group = int(entries.space_groups[i])
            if entries.source_of(i)[0] == AFLOW[0] and name.split("_")[2] != str(group):
                continue
            key = (entries.counts(i), group)
            found.setdefault(key, []).append(i)
    return found
