"""Slots: the kinds of atoms of a crystal, and how the kinds of two crystals can correspond.

The elements of a crystal, sorted by how many atoms each has and then by atomic number, are its
slots 0, 1, ...; the sorted numbers of atoms are its *anonymous counts* (rutile: 2, 4). Two
crystals with the same counts can correspond in several ways where counts are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import permutations, product
from math import factorial, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_RENAMINGS = 120
"""Beyond (six elements with equally many atoms) only the order of atomic numbers is tried."""

Counts = tuple[int, ...]


def slots_of(atomic_numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], Counts]:
    """The element of each slot, and the anonymous counts."""
    elements, counts = np.unique(np.asarray(atomic_numbers), return_counts=True)
    return sorted_slots(dict(zip(elements.tolist(), counts.tolist(), strict=True)))


def slot_numbers(atomic_numbers: NDArray[np.int64], elements: NDArray[np.int64]) -> NDArray[Any]:
    """(n,) the slot of each atom."""
    table = np.zeros(int(elements.max()) + 1, dtype=np.int64)
    table[elements] = np.arange(len(elements))
    return table[atomic_numbers]


def sorted_slots(atoms: Mapping[int, int]) -> tuple[NDArray[np.int64], Counts]:
    """Likewise from the number of atoms of each element."""
    ordered = sorted(atoms, key=lambda z: (atoms[z], z))
    return np.array(ordered, dtype=np.int64), tuple(int(atoms[z]) for z in ordered)


@lru_cache(maxsize=4096)
def renamings(counts: Counts) -> NDArray[np.int64]:
    """(P, k): all ways to give the k slots other slots of equal counts; the first is none."""
    values = np.array(counts)
    blocks = [np.flatnonzero(values == v).tolist() for v in np.unique(values)]
    if prod(factorial(len(block)) for block in blocks) > MAX_RENAMINGS:
        return np.arange(len(counts), dtype=np.int64)[None]
    found = []
    for images in product(*(permutations(block) for block in blocks)):
        renamed = np.empty(len(counts), dtype=np.int64)
        for block, image in zip(blocks, images, strict=True):
            renamed[block] = image
        found.append(renamed)
    return np.array(found)


@lru_cache(maxsize=4096)
def composed(counts: Counts) -> NDArray[np.int64]:
    """(P, P): the index of "first renaming p, then renaming q"."""
    all_ = renamings(counts)
    index = {tuple(r): i for i, r in enumerate(all_.tolist())}
    return np.array([[index[tuple(q[p].tolist())] for q in all_] for p in all_])
