"""Anonymous formulas: species, and the permutations by which those of two crystals correspond.

The elements of a crystal, sorted by how many atoms each has and then by atomic number, are its
species 0, 1, ...; the sorted numbers of atoms are its *anonymous counts* (rutile: 2, 4). The
species of two crystals with the same counts correspond in several ways where counts are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import permutations, product
from math import factorial, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_PERMUTATIONS = 120
"""Number of permutations beyond which only the identity is tried (six equal counts have 720)."""

Counts = tuple[int, ...]
"""Anonymous counts: atoms of each species, in ascending order."""


def species_of(atomic_numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], Counts]:
    """Find the element of each species (k,), and the anonymous counts, of atomic numbers (n,)."""
    elements, counts = np.unique(np.asarray(atomic_numbers), return_counts=True)
    return sorted_species(dict(zip(elements.tolist(), counts.tolist(), strict=True)))


def species_indices(atomic_numbers: NDArray[np.int64], elements: NDArray[np.int64]) -> NDArray[Any]:
    """Find the species (n,) of each atom."""
    table = np.zeros(int(elements.max()) + 1, dtype=np.int64)
    table[elements] = np.arange(len(elements))
    return table[atomic_numbers]


def sorted_species(atoms: Mapping[int, int]) -> tuple[NDArray[np.int64], Counts]:
    """Find the element of each species (k,), and the anonymous counts, of numbers of atoms."""
    ordered = sorted(atoms, key=lambda z: (atoms[z], z))
    return np.array(ordered, dtype=np.int64), tuple(int(atoms[z]) for z in ordered)


@lru_cache(maxsize=4096)
def species_permutations(counts: Counts) -> NDArray[np.int64]:
    """List permutations (P, k) of species with equal counts; row 0 is the identity."""
    values = np.array(counts)
    blocks = [np.flatnonzero(values == v).tolist() for v in np.unique(values)]
    if prod(factorial(len(block)) for block in blocks) > MAX_PERMUTATIONS:
        return np.arange(len(counts), dtype=np.int64)[None]
    found = []
    for images in product(*(permutations(block) for block in blocks)):
        permuted = np.empty(len(counts), dtype=np.int64)
        for block, image in zip(blocks, images, strict=True):
            permuted[block] = image
        found.append(permuted)
    return np.array(found)


@lru_cache(maxsize=4096)
def composed_permutations(counts: Counts) -> NDArray[np.int64]:
    """Tabulate the index (P, P) of the permutation p followed by the permutation q."""
    all_ = species_permutations(counts)
    index = {tuple(r): i for i, r in enumerate(all_.tolist())}
    return np.array([[index[tuple(q[p].tolist())] for q in all_] for p in all_])
