"""What several metrics ask about which crystals are the same; each is found out once.

Two crystals are the same if pymatgen's `StructureMatcher.fit` says so in either order (see
`matching.distances.matches`), within the tolerances of the settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.sample import Sample
from crysmetrics.io import Crystals
from crysmetrics.matching.cells import ReducedCells, reduce_cells
from crysmetrics.matching.duplicates import group_duplicates
from crysmetrics.matching.known import anonymous_cells, find_known, find_known_prototypes
from crysmetrics.matching.nearest import nearest_rows
from crysmetrics.matching.tolerances import Tolerances

MATCHER = "StructureMatcher of pymatgen (Ong et al. 2013)"
AMD = "Widdowson et al. 2022 (average minimum distances)"


class Nearest(NamedTuple):
    """The nearest crystal of a set by average minimum distances, for each of another."""

    rows: NDArray[np.int64]
    """(B,) index of the nearest; -1 where there is none."""
    distances: NDArray[np.float64]
    """(B,) Å; NaN where there is none."""


def primitive_cells(sample: Sample) -> ReducedCells:
    """Reduce a set to primitive cells."""
    return sample.once("primitive", lambda: reduce_cells(sample.crystals, sample.run.workers))


def groups(sample: Sample, tolerances: Tolerances) -> NDArray[np.int64]:
    """Label (B,) structures by crystal; see `group_duplicates`."""
    cells, workers = primitive_cells(sample), sample.run.workers
    return sample.once(
        ("groups", tolerances),
        lambda: group_duplicates(sample.crystals, tolerances, cells, workers),
    )


def known_crystals(gen: Sample, train: Sample, tolerances: Tolerances) -> NDArray[np.int64]:
    """Find (B,) which training structure each generated one is; -1 for none."""
    return gen.once(
        ("crystals", train, tolerances),
        lambda: find_known(
            primitive_cells(gen), primitive_cells(train), *_amds(gen, train), tolerances,
            gen.run.workers,
        ),
    )  # fmt: skip


def known_prototypes(gen: Sample, train: Sample, tolerances: Tolerances) -> NDArray[np.int64]:
    """Find (B,) a training structure that has the structure of each generated one; -1 for none."""
    one, two = _anonymous(gen), _anonymous(train)
    return gen.once(
        ("prototypes", train, tolerances),
        lambda: find_known_prototypes(one, two, *_amds(gen, train), tolerances, gen.run.workers),
    )


def _anonymous(sample: Sample) -> ReducedCells:
    return sample.once("anonymous", lambda: anonymous_cells(sample.crystals, sample.run.workers))


def nearest_known(gen: Sample, train: Sample) -> Nearest:
    """Find the training structure nearest to each generated one, whatever their elements."""
    return gen.once(
        ("nearest", train), lambda: Nearest(*nearest_rows(*_amds(gen, train), gen.run.workers))
    )


def nearest_other(gen: Sample) -> Nearest:
    """Find the generated structure nearest to each one, whatever their elements."""
    values = gen.features("amd").values
    return gen.once("nearest", lambda: Nearest(*nearest_rows(values, None, gen.run.workers)))


def _amds(gen: Sample, train: Sample) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return gen.features("amd").values, train.features("amd").values


def ids_at(crystals: Crystals, index: NDArray[np.int64]) -> NDArray[np.str_]:
    """Look up (B,) ids by index; empty where that is -1."""
    return np.array([*crystals.ids, ""], dtype=np.str_)[index]


def incomparable(gen: Sample) -> Iterator[dict[str, str]]:
    """Name the generated structures that can't be compared with others."""
    for i in np.flatnonzero(np.isnan(primitive_cells(gen).cells[:, 0, 0])):
        reason = "its cell has no volume, so that it counts as neither unique nor novel"
        yield {"input": "gen", "file": gen.crystals.ids[i], "reason": reason}


def compositions(crystals: Crystals) -> list[bytes]:
    """Make keys of (B,) reduced formulas."""
    counts = crystals.element_counts
    reduced = counts // np.gcd.reduce(counts, axis=1, keepdims=True)
    return [row.tobytes() for row in reduced]


def systems(crystals: Crystals) -> list[bytes]:
    """Make keys of (B,) chemical systems: the sets of elements."""
    return [row.tobytes() for row in crystals.element_counts > 0]
