"""Propose decorations: two elements share the sites of one species of a simpler prototype.

LiNi3O4 from rock salt, ScTiO3 from corundum, V4O5F7 from rutile. Parents are the templates for the
simpler composition, and the sites of the shared species are divided in every way that differs by
symmetry.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, product
from math import comb

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.library.anonymous import sorted_species
from crysgen.retrieval.library.library import Library
from crysgen.retrieval.library.prototypes import SYMPREC, primitive_crystal
from crysgen.retrieval.proposals.proposal import Proposal, repeated, to_crystals
from crysgen.retrieval.proposals.template_ranking import ranked_templates
from crysmetrics.symmetry import Cell, niggli_lattice, symmetry_operations

PARENTS = 3
"""Number of templates of a simpler composition that are decorated."""
MAX_PATTERNS = 1000
"""Number of ways to choose sites, before symmetry, beyond which a parent is left out."""
SHAPES = 5
"""Number of differently shaped cells of one parent, where it has to be multiplied."""
LARGEST_MULTIPLE = 16
"""Primitive cells in a cell beyond which only the parent's own shape is used: too many to list."""
KEPT_PATTERNS = 4
"""Number of patterns of one parent that are proposed."""
WEIGHT = 0.3
"""Score of a decoration relative to its parent's, before element similarity and rank."""
SHARPNESS = 1.0
"""Factor of the squared distance of two elements in their similarity."""
DECAY = 0.6
"""Factor of the score from one pattern of a parent to the next."""
_SCREENING = 0.8
"""Screening length of the repulsion of like atoms, in units of (V/N)^(1/3)."""


@dataclass(frozen=True)
class Merge:
    """Two elements that share the sites of one species.

    Attributes:
        kept: the element with more atoms, which stands for both in the parent.
        other: the other element.
        similarity: of the two, between 0 and 1.
    """

    kept: int
    other: int
    similarity: float


def decorated(
    library: Library,
    atoms: Mapping[int, int],
    n: int,
    excluded: Collection[int],
    exclude_formula: bool = False,
) -> list[Proposal]:
    """Propose decorations of simpler templates with exactly these atoms, the likeliest first.

    Args:
        library: where parents come from.
        atoms: number of atoms of each element in the cell.
        n: how many at most.
        excluded: indices of entries that are not used.
        exclude_formula: as in `propose`; parents are of another formula anyway.
    """
    found: list[Proposal] = []
    for merge in merges(library, atoms):
        simpler = dict(atoms)
        simpler[merge.kept] += simpler.pop(merge.other)
        parents = ranked_templates(library, simpler, PARENTS, (1,), excluded, exclude_formula)
        for parent in parents:
            for shape, cell in enumerate(cells_of(parent)):
                found += list(split(cell, merge, atoms[merge.other], shape))
    return sorted(found, key=lambda p: -p.score)[:n]


def cells_of(parent: Proposal) -> list[Proposal]:
    """Put the parent into differently shaped cells of its size, the most compact first.

    The cell decides which sites are equal by translation, and so which patterns there are.
    """
    if not 1 < parent.features.multiple <= LARGEST_MULTIPLE:
        return [parent]
    primitive = primitive_crystal(to_crystals([parent]))
    numbers = np.repeat(primitive.elements, primitive.counts)
    multiple = parent.num_atoms // len(numbers)
    found = []
    for cell in supercells(primitive.lattice, multiple)[:SHAPES]:
        lattice, frac, species = repeated(primitive.lattice, primitive.frac_coords, numbers, cell)
        found.append(replace(parent, lattice=lattice, frac_coords=frac, atomic_numbers=species))
    return found or [parent]


def merges(library: Library, atoms: Mapping[int, int], most: int = 3) -> list[Merge]:
    """List pairs of elements of a compound, the most similar first."""
    if len(atoms) < 2:
        return []
    elements, counts = sorted_species(atoms)
    points = library.similarity.embed(elements[None], counts)[0]
    found = []
    for i, j in combinations(range(len(elements)), 2):
        distance = float(((points[i] - points[j]) ** 2).sum())
        similarity = 1 / (1 + SHARPNESS * distance)
        # Species are sorted by count, so that j has at least as many atoms as i.
        found.append(Merge(int(elements[j]), int(elements[i]), similarity))
    return sorted(found, key=lambda m: -m.similarity)[:most]


def split(parent: Proposal, merge: Merge, count: int, shape: int = 0) -> Iterator[Proposal]:
    """Replace `count` atoms of the shared species of the parent, in the likeliest patterns.

    Args:
        parent: in some cell.
        merge: the species.
        count: atoms to replace.
        shape: how many more compact cells there are; as unlikely as worse patterns.
    """
    sites = np.flatnonzero(parent.atomic_numbers == merge.kept)
    if comb(len(sites), count) > MAX_PATTERNS:
        return
    patterns, energies, weights = site_patterns(parent, sites, count)
    # Like atoms far apart first; of the rest, patterns that keep more of the symmetry.
    order = np.lexsort((-weights, np.round(energies, 6)))
    for rank, k in enumerate(order[:KEPT_PATTERNS]):
        numbers = parent.atomic_numbers.copy()
        numbers[sites[patterns[k]]] = merge.other
        score = (
            WEIGHT
            * parent.score
            * merge.similarity
            * DECAY ** (rank + shape)
            / (1 + 0.1 * len(order))
        )
        features = replace(
            parent.features,
            is_decorated=True,
            parent_score=parent.score,
            element_similarity=merge.similarity,
            pattern=rank + shape,
            num_patterns=len(order),
            share=score,
        )
        yield replace(
            parent,
            atomic_numbers=numbers,
            score=score,
            features=features,
            method="decoration",
            known="",
            prototype_id=f"{parent.prototype_id}/{merge.other}.{rank + KEPT_PATTERNS * shape}",
        )


def site_patterns(
    parent: Proposal, sites: NDArray[np.int64], count: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """List all ways to choose `count` of some sites that differ by symmetry.

    Returns:
        Patterns (M, n) bool over `sites`; a screened Coulomb energy of each, low where chosen
        sites are spread evenly; and the number of symmetry operations each keeps.
    """
    chosen = np.array(list(combinations(range(len(sites)), count)), dtype=np.int64)
    masks = np.zeros((len(chosen), len(sites)), dtype=bool)
    masks[np.arange(len(chosen))[:, None], chosen] = True
    images = permutations_of(parent, sites)
    powers = 1 << np.arange(len(sites), dtype=np.int64)
    keys = masks @ powers
    smallest = keys.copy()
    kept = np.zeros(len(keys))
    for image in images:
        other = masks[:, image] @ powers
        smallest = np.minimum(smallest, other)
        kept += other == keys
    _, first = np.unique(smallest, return_index=True)
    patterns = masks[first]
    charges = np.where(patterns, 1.0, -count / max(1, len(sites) - count))
    kernel = _repulsion(parent, sites)
    energies = np.einsum("mi,ij,mj->m", charges, kernel, charges)
    return patterns, energies, kept[first]


def permutations_of(parent: Proposal, sites: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the images (G, n) of sites under each symmetry operation of the parent."""
    cell = Cell(parent.lattice, parent.frac_coords, parent.atomic_numbers)
    found = symmetry_operations(cell, SYMPREC / 2)
    identity = np.arange(len(sites))[None]
    if found is None:
        return identity
    frac = parent.frac_coords[sites]
    moved = np.einsum("gij,nj->gni", found[0], frac) + found[1][:, None]
    difference = moved[:, :, None] - frac[None, None]
    difference -= np.round(difference)
    squares = ((difference @ parent.lattice) ** 2).sum(-1)
    images: NDArray[np.int64] = squares.argmin(-1)
    whole = (np.sort(images, axis=1) == identity).all(axis=1)
    return np.unique(images[whole], axis=0)


def _repulsion(parent: Proposal, sites: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute the screened Coulomb interaction (n, n) of sites with all images of sites."""
    scale = (parent.volume / parent.num_atoms) ** (1 / 3)
    frac = parent.frac_coords[sites]
    heights = parent.volume / np.linalg.norm(
        np.cross(parent.lattice[[1, 2, 0]], parent.lattice[[2, 0, 1]]), axis=1
    )
    reach = np.ceil(4 * scale / heights).astype(int)
    axes = [np.arange(-r, r + 1) for r in reach]
    shifts = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    vectors = frac[:, None, None] - frac[None, :, None]
    vectors = vectors - np.round(vectors) + shifts
    distances = np.linalg.norm(vectors @ parent.lattice, axis=-1) / scale
    near = np.maximum(distances, 1e-3)
    values = np.where(distances > 1e-3, np.exp(-near / _SCREENING) / near, 0.0)
    kernel: NDArray[np.float64] = values.sum(-1)
    return kernel


@lru_cache(maxsize=64)
def hermite_forms(multiple: int) -> NDArray[np.int64]:
    """List integer matrices (M, 3, 3), one for each sublattice of an index."""
    found = []
    for a in range(1, multiple + 1):
        for c in range(1, multiple // a + 1):
            if multiple % (a * c) == 0:
                f = multiple // (a * c)
                found += [
                    [[a, 0, 0], [b, c, 0], [d, e, f]]
                    for b, d, e in product(range(a), range(a), range(c))
                ]
    return np.array(found)


def supercells(lattice: NDArray[np.float64], multiple: int) -> list[NDArray[np.int64]]:
    """List integer matrices of differently shaped cells of a size, the most compact first.

    Args:
        lattice: (3, 3) rows in Å, of the primitive cell.
        multiple: how many of these the cells hold.
    """
    inverse = np.linalg.inv(lattice)
    found: dict[tuple[float, ...], tuple[float, NDArray[np.int64]]] = {}
    unit = (abs(np.linalg.det(lattice)) * multiple) ** (1 / 3)
    for form in hermite_forms(multiple):
        cell = niggli_lattice(form @ lattice, 1e-3 * unit)
        if cell is None:
            continue
        metric = (cell @ cell.T)[np.triu_indices(3)] / unit**2
        extent = float(np.sqrt(metric[[0, 3, 5]]).sum())
        matrix = np.round(cell @ inverse).astype(np.int64)
        if round(abs(np.linalg.det(matrix))) != multiple:
            continue
        found.setdefault(tuple(np.round(metric, 1)), (extent, matrix))
    return [matrix for _, matrix in sorted(found.values(), key=lambda item: item[0])]
