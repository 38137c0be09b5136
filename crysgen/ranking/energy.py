"""Rank structures anew by their relaxed energies; ties go to the simplest structure.

The first two constants were chosen without the crystals that `benchmarks/csp/textbook.py` counts:
on `val` (`relaxed_scale.py` there) and on other well-known ones (`relaxed_order.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io import Crystals

RELAXED_SCALE = 0.015
"""Difference of energies in eV/atom that makes one structure e times as likely as the other: the
least that loses no matches on `val`, and the best for the well-known crystals."""
RELAXED_MOST = 0.8
"""Probability that relaxed energies give a structure at most: of 91 well-known crystals the first
by energies was right for 70 when this was chosen (`textbook.py` and `relaxed_order.py`); of 252 by
today's order and library it is for 202 (`textbook.py --relax --library known`)."""
DEGENERATE = 0.002
"""Difference in eV/atom within which energies do not tell structures apart, so that the simplest is
the best guess (Pauling's rule of parsimony). A distortion that gains less is undone at room
temperature (strontium titanate is cubic above 105 K; lanthanum aluminate, which gains 0.0045 by
these energies, above 813 K), and stackings that differ by less are beyond what the energies are
good for."""
DISTORTED = 0.5
"""Displacement in Å of atoms from a simple structure, at most, in a distortion of it: the
octahedra of barium zirconate tilt by 0.4 Å in the minimum of the functional, and not at all in
reality."""
CONVERGED = 0.0005
"""Difference in eV/atom of relaxations that end in one minimum, at most."""


def reweighed(
    scores: NDArray[np.float64],
    energies: NDArray[np.float64],
    disagreement: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Weigh the probabilities (B,) of one composition's structures by relaxed energies.

    Their sum stays, but none becomes more than 1.

    Args:
        scores: (B,) probabilities; NaN where there is none.
        energies: (B,) in eV/atom; a structure without one gets 0.
        disagreement: (B,) in eV/atom, of several potentials about the energy above the lowest:
            half of it counts as an error of that energy, which then decides less.
    """
    above = np.nan_to_num(energies - np.nanmin(energies), nan=np.inf)
    error = np.zeros(len(energies)) if disagreement is None else np.nan_to_num(disagreement) / 2
    factors = np.exp(-above / np.hypot(RELAXED_SCALE, error))
    found: NDArray[np.float64] = scores * factors
    whole, left = np.nansum(scores), np.nansum(found)
    return np.minimum(found * (whole / left), 1.0) if left > 0 else found


def simplest_first(
    energies: NDArray[np.float64],
    complexity: NDArray[np.float64],
    may_displace: Callable[[int, int], bool] | None = None,
    within: float = DEGENERATE,
) -> NDArray[np.int64]:
    """Order structures (B,) so that the simplest of those with equal energies comes first.

    From the first on, each place goes to the simplest of those that have, within `within`, the
    energy of the one whose turn it would be.

    Args:
        energies: (B,) in eV/atom of structures in their order so far; NaN where unknown.
        complexity: (B,) see `complexities`.
        may_displace: whether a structure (its row) may come before another one (its row) whose
            turn it would be; always by default.
        within: eV/atom.
    """
    left = list(range(len(energies)))
    found = []
    while left:
        turn = left[0]
        equal = [i for i in left if i == turn or abs(energies[i] - energies[turn]) < within]
        equal.sort(key=lambda i: (complexity[i], i))
        chosen = next(
            i for i in equal if i == turn or may_displace is None or may_displace(i, turn)
        )
        found.append(chosen)
        left.remove(chosen)
    return np.array(found, dtype=np.int64)


def lowest(
    energies: NDArray[np.float64],
    complexity: NDArray[np.float64],
    rows: NDArray[np.int64],
    is_known: NDArray[np.bool_] | None = None,
) -> int:
    """Choose which of some equal structures is shown: the simplest in the lowest minimum.

    Of equally simple ones it is the likeliest. A known structure is shown instead of a lower one
    that is less simple: such a one is a distortion of it that the potential makes.

    Args:
        energies: (B,) in eV/atom; NaN where unknown.
        complexity: (B,) see `complexities`.
        rows: which are equal, the likeliest first.
        is_known: (B,) whether it is a known structure of the formula; none by default.
    """
    found = np.nan_to_num(energies[rows], nan=np.inf)
    near = np.flatnonzero(found <= found.min() + CONVERGED)
    best = int(rows[near[np.lexsort((near, complexity[rows[near]]))[0]]])
    if is_known is None or not is_known[rows].any():
        return best
    known = lowest(energies, complexity, rows[is_known[rows]])
    return known if complexity[known] <= complexity[best] else best


def is_distortion(crystal: Crystals, simple: Crystals) -> bool:
    """Tell whether a crystal is a distortion of a simpler one, by at most `DISTORTED`."""
    from crysgen.retrieval.library.prototypes import primitive_crystal, same_structures

    parent, whole = primitive_crystal(crystal, DISTORTED), primitive_crystal(simple)
    if parent.space_group != whole.space_group:
        return False
    first, second = same_structures([parent, whole]).tolist()
    return bool(first == second)


def complexities(crystals: Crystals, tolerance: float) -> NDArray[np.float64]:
    """Rate complexity (B,): atoms of the primitive cell, and less than one more for low symmetry.

    Args:
        crystals: B.
        tolerance: Å within which symmetry is found.
    """
    from crysgen.retrieval.library.prototypes import primitive_crystal
    from crysmetrics.space_group_settings import point_group_order

    cells = [primitive_crystal(crystal, tolerance) for crystal in crystals]
    most = point_group_order(225)
    found = [sum(cell.counts) - point_group_order(cell.space_group) / (most + 1) for cell in cells]
    return np.array(found, dtype=np.float64)
