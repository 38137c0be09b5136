"""Crystal graphs and line graphs of ALIGNN, without the original's dependence on rounding.

Every atom is bonded to its twelve nearest neighbours and to all others as far away as the twelfth;
a bond kept by either end counts for both, in both directions (`neighbor_strategy="k-nearest"` of
alignn.graphs). The original searches within 8 Å and farther where that holds fewer than twelve, so
its cutoff decides nothing, and there is none here. Neighbours within 0.15 Å are ignored, as there.
The line graph joins the bonds u->v and v->w, w = u included.

Two rules differ in bonds between an atom and its own periodic images:

- `cell_independent`: each directed bond (u, v, lattice translation) stands once, and a bond to an
  image is followed by the next one along the same line as any other. The graph then is that of the
  infinite crystal, the same for every cell that describes it.
- `published`: such a bond stands twice in each direction, and never follows itself. Both as in the
  original, whose energies change with the cell chosen; for weights trained on its graphs.

Atoms, bonds and pairs of bonds that can't be told apart have equal features in every layer of the
network. So a graph is *folded*: of each such class one member is kept, with the size of the
class. Classes are those of colour refinement (the coarsest equitable partition), where distances
and cosines count as equal in the same bin of `FOLD`. In symmetric crystals that leaves a few per
cent of the bond pairs, in a crystal without symmetry all of them; the result is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io import Crystals
from crysmetrics.parallel import chunks_of, in_threads

if TYPE_CHECKING:
    from crysmetrics.periodic_neighbours import Neighbours

TOLERANCE = 1e-4
"""Å; width of a shell of equal distances."""
FOLD = 1e-5
"""Å for distances, 1 for cosines; far below what changes a feature by 1e-4 of itself."""

GraphRule = Literal["cell_independent", "published"]
"""How bonds between an atom and its own images are counted; each set of weights has its rule."""
GRAPH_RULES: tuple[GraphRule, ...] = get_args(GraphRule)

# The density decides where the search begins; this only bounds it.
_RADIUS = 1e4
_ATOMS_PER_JOB = 400


@dataclass(frozen=True, eq=False)
class LineGraphs:
    """Graphs of B structures with their line graphs, packed.

    A atoms, E bonds and T bond pairs are classes with a size; unfolded, each size is 1. Bonds
    are sorted by target, pairs by target, and all by structure.

    Attributes:
        atomic_numbers: (A,) int64.
        atom_sizes: (A,) float32, how many atoms of the structure the class holds.
        atom_counts: (B,) int64, classes of atoms in each structure.
        bond_source: (E,) int64, the atom u of u->v.
        bond_target: (E,) int64, the atom v; ascending.
        bond_lengths: (E,) float32 in Å.
        bond_counts: (E,) float32, such bonds that end at *one* atom of the target's class.
        pair_source: (T,) int64, the bond u->v of (u->v, v->w).
        pair_target: (T,) int64, the bond v->w; ascending.
        pair_cosines: (T,) float32, of the angle at v.
        pair_counts: (T,) float32, such pairs that end at one bond of the target's class.
        bond_offsets: (B + 1,) int64, each structure's first bond, and E.
        pair_offsets: (B + 1,) int64, each structure's first pair, and T.
        failures: index of a structure -> why it has no graph; it then has no atoms either.
    """

    atomic_numbers: NDArray[np.int64]
    atom_sizes: NDArray[np.float32]
    atom_counts: NDArray[np.int64]
    bond_source: NDArray[np.int64]
    bond_target: NDArray[np.int64]
    bond_lengths: NDArray[np.float32]
    bond_counts: NDArray[np.float32]
    pair_source: NDArray[np.int64]
    pair_target: NDArray[np.int64]
    pair_cosines: NDArray[np.float32]
    pair_counts: NDArray[np.float32]
    bond_offsets: NDArray[np.int64]
    pair_offsets: NDArray[np.int64]
    failures: dict[int, str]

    def __len__(self) -> int:
        return len(self.atom_counts)

    @property
    def atom_offsets(self) -> NDArray[np.int64]:
        """Return each structure's first class of atoms, and A; (B + 1,)."""
        return np.concatenate([[0], np.cumsum(self.atom_counts)])

    @property
    def num_pairs(self) -> NDArray[np.int64]:
        """Count the pairs of bonds in each structure, (B,); memory and time grow with them."""
        return np.diff(self.pair_offsets)

    def __getitem__(self, index: slice | Sequence[int] | NDArray[np.int64]) -> LineGraphs:
        """Take the graphs of the chosen structures."""
        chosen = np.arange(len(self))[index]
        atoms, bonds, pairs = self.atom_offsets, self.bond_offsets, self.pair_offsets
        a, atom_starts = _ranges(atoms, chosen)
        e, bond_starts = _ranges(bonds, chosen)
        t, pair_starts = _ranges(pairs, chosen)
        # What names an atom or a bond moves with its structure.
        atom_move = np.repeat(atom_starts[:-1] - atoms[chosen], np.diff(bond_starts))
        bond_move = np.repeat(bond_starts[:-1] - bonds[chosen], np.diff(pair_starts))
        return LineGraphs(
            self.atomic_numbers[a],
            self.atom_sizes[a],
            self.atom_counts[chosen],
            self.bond_source[e] + atom_move,
            self.bond_target[e] + atom_move,
            self.bond_lengths[e],
            self.bond_counts[e],
            self.pair_source[t] + bond_move,
            self.pair_target[t] + bond_move,
            self.pair_cosines[t],
            self.pair_counts[t],
            bond_starts,
            pair_starts,
            {k: self.failures[int(i)] for k, i in enumerate(chosen) if int(i) in self.failures},
        )


def _ranges(
    offsets: NDArray[np.int64], chosen: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """List the rows of the chosen parts one after another, and where each part then starts."""
    counts = offsets[chosen + 1] - offsets[chosen]
    starts = np.concatenate([[0], np.cumsum(counts)])
    rows = np.arange(starts[-1]) + np.repeat(offsets[chosen] - starts[:-1], counts)
    return rows, starts


def line_graphs(
    crystals: Crystals,
    *,
    rule: GraphRule = "cell_independent",
    tolerance: float = TOLERANCE,
    fold: float = FOLD,
    workers: int | None = None,
) -> LineGraphs:
    """Build the graphs of crystals with their line graphs.

    Args:
        crystals: B structures; all graphs are held at once.
        rule: of bonds between an atom and its own images, which belongs to the weights.
        tolerance: width of a shell in Å; 0 compares exactly, as the original does, so that
            rounding decides which of several equally distant neighbours count.
        fold: width of the bins in which distances (Å) and cosines are equal when atoms, bonds
            and pairs are told apart; 0 keeps every one of them.
        workers: threads to use; None for all cores. The result does not depend on it.

    Returns:
        The graphs; a structure that has none is named in `failures`.
    """
    # Numba is not needed to read and train on graphs that are there already.
    from crysmetrics.features.alignn._graph_kernel import graphs

    near = _neighbours(crystals, tolerance, workers)
    jobs = []
    for part in chunks_of(crystals.num_atoms.tolist(), _ATOMS_PER_JOB):
        first, last = crystals.offsets[part.start], crystals.offsets[part.stop]
        edges = slice(near.atom_offsets[first], near.atom_offsets[last])
        jobs.append(
            (
                crystals.atomic_numbers[first:last],
                crystals.offsets[part.start : part.stop + 1] - first,
                near.atom_offsets[first : last + 1] - edges.start,
                near.target[edges] - first,
                near.images[edges],
                near.vectors[edges],
                near.distances[edges],
                float(tolerance),
                float(fold),
                rule == "published",
            )
        )
    pieces = list(in_threads(graphs, jobs, workers))
    return _assembled(pieces, dict(near.failures))


def _neighbours(crystals: Crystals, tolerance: float, workers: int | None) -> Neighbours:
    """Find the twelve nearest neighbours farther than TOO_CLOSE, and all of the twelfth's shell."""
    from crysmetrics.features.alignn._graph_kernel import NEAREST, TOO_CLOSE
    from crysmetrics.periodic_neighbours import periodic_neighbours

    nearest = NEAREST
    while True:
        near = periodic_neighbours(
            crystals,
            _RADIUS,
            nearest=nearest,
            whole_shells=True,
            tolerance=tolerance,
            workers=workers,
        )
        # Atoms on top of each other are rare; all structures wait for them.
        close = near.source[near.distances <= TOO_CLOSE]
        needed = NEAREST + (int(np.bincount(close).max()) if len(close) else 0)
        if needed <= nearest:
            return near
        nearest = needed


def _assembled(pieces: list[tuple[Any, ...]], failures: dict[int, str]) -> LineGraphs:
    """Join the graphs of all jobs, with indices counted over all of them."""
    from crysmetrics.features.alignn._graph_kernel import MAX_PAIRS

    ints, reals = np.int64, np.float32
    kinds: dict[str, type] = {
        "atomic_numbers": ints,
        "atom_sizes": reals,
        "atom_counts": ints,
        "bond_source": ints,
        "bond_target": ints,
        "bond_lengths": reals,
        "bond_counts": reals,
        "pair_source": ints,
        "pair_target": ints,
        "pair_cosines": reals,
        "pair_counts": reals,
        "bond_offsets": ints,  # from the kernel: how many of them each structure has
        "pair_offsets": ints,
    }
    columns: dict[str, list[NDArray[Any]]] = {k: [np.empty(0, v)] for k, v in kinds.items()}
    atoms = bonds = structures = 0
    for *arrays, status in pieces:
        named = dict(zip(kinds, arrays, strict=True))
        for end in ("source", "target"):
            named[f"bond_{end}"] = named[f"bond_{end}"] + atoms
            named[f"pair_{end}"] = named[f"pair_{end}"] + bonds
        for name, array in named.items():
            columns[name].append(array)
        for b in np.flatnonzero(status):
            failures.setdefault(structures + int(b), f"has more than {MAX_PAIRS:,} pairs of bonds")
        atoms, bonds = atoms + len(named["atomic_numbers"]), bonds + len(named["bond_source"])
        structures += len(status)
    joined: dict[str, Any] = {
        name: np.concatenate(columns[name]).astype(kind) for name, kind in kinds.items()
    }
    for name in ("bond_offsets", "pair_offsets"):
        joined[name] = np.concatenate([[0], np.cumsum(joined[name])])
    return LineGraphs(**joined, failures=dict(sorted(failures.items())))
