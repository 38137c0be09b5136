"""The best candidates of each request, of all sources and after relaxation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from crysgen.proposers.base import PREDICTED
from crysgen.ranking.energy import (
    RELAXED_MOST,
    complexities,
    is_distortion,
    lowest,
    reweighed,
    simplest_first,
)
from crysgen.ranking.merge import OWN_PLACES, rank
from crysgen.ranking.relaxing import DISAGREEMENT
from crysgen.requests import CompositionRequest
from crysmetrics.io import Crystals
from crysmetrics.relaxation import ENERGY

SHORTEST_DISTANCE = 0.5
"""Distance in Å at or below which atoms lie on top of each other: the limit of structural validity.
Such candidates come last, as no network has learned anything about them."""


@dataclass(frozen=True)
class Selection:
    """Chosen candidates, request after request, the best of each first.

    Attributes:
        rows: (K,) positions among the candidates.
        ranks: (K,) from 1 within each request.
        scores: (K,) shares among the candidates; NaN for what could not be ranked.
        probabilities: (K,) of being the right structure; NaN likewise.
        distances: (K,) shortest ones in Å.
        energies: (K,) predicted ones in eV/atom, NaN where unknown.
    """

    rows: NDArray[np.int64]
    ranks: NDArray[np.int64]
    scores: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    distances: NDArray[np.float64]
    energies: NDArray[np.float64]


def select(
    candidates: Crystals,
    distances: NDArray[np.float64],
    energies: NDArray[np.float64],
    requests: Sequence[CompositionRequest],
    merge: bool,
    tolerance: float,
) -> Selection:
    """Choose as many of the best candidates for each request as it asks for.

    Args:
        candidates: with the property `request`; where `crysmetrics.relaxation.ENERGY` is among the
            properties, these energies change scores and take the place of `energies`.
        distances: (B,) shortest ones in Å.
        energies: (B,) predicted ones in eV/atom; NaN where unknown.
        requests: compositions and how many samples of each.
        merge: keep one of equal structures.
        tolerance: Å within which symmetry is found.
    """
    position = np.asarray(candidates.properties["request"], dtype=np.int64)
    scores = np.asarray(candidates.properties["score"], dtype=np.float64)
    chances = np.asarray(candidates.properties["probability"], dtype=np.float64)
    relaxed = candidates.properties.get(ENERGY, np.full(len(candidates), np.nan))
    spread = candidates.properties.get(DISAGREEMENT, np.full(len(candidates), np.nan))
    drawn = _order_drawn(candidates)
    parts = []
    for number, request in enumerate(requests):
        here = np.flatnonzero(position == number)
        apart = distances[here] > SHORTEST_DISTANCE
        here = here[np.lexsort((drawn[here], ~apart))]
        good, clashing = here[: apart.sum()], here[apart.sum() :]
        is_relaxed = bool(np.isfinite(relaxed[good]).any())
        symmetry = tolerance if is_relaxed else None
        # Relaxed energies decide alone; without them known structures come before predictions.
        tiers = None if is_relaxed else candidates.properties["tier"][good]
        judged, given = energies[good], [scores[good], chances[good]]
        if is_relaxed:
            judged = relaxed[good]
            given = [reweighed(one, judged, spread[good]) for one in given]
            most = max(float(np.nan_to_num(given[1]).max()), RELAXED_MOST)
            given[1] = given[1] * (RELAXED_MOST / most)
        order, found, sure = _ranked(
            candidates[good], given, judged, merge, request.is_exact, symmetry, tiers
        )
        rows = np.concatenate([good[order], clashing])[: request.count]
        unranked = np.full(max(0, len(rows) - len(found)), np.nan)
        ranks = np.arange(1, len(rows) + 1)
        columns = [np.concatenate([one, unranked])[: len(rows)] for one in (found, sure)]
        parts.append((rows, ranks, *columns))
    rows, ranks, found, sure = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Selection(rows, ranks, found, sure, distances[rows], energies[rows])


def _ranked(
    candidates: Crystals,
    given: Sequence[NDArray[np.float64]],
    energies: NDArray[np.float64],
    merge: bool,
    is_exact: bool,
    symmetry: float | None,
    tiers: NDArray[np.int64] | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Rank the candidates of one request.

    Returns rows, best first, and the scores and the probabilities of places.

    Args:
        candidates: B without clashes.
        given: scores and probabilities (B,), NaN where a source gives none.
        energies: (B,) in eV/atom, NaN where unknown.
        merge: keep one of equal structures.
        is_exact: whether the cell itself was asked for, so that simple structures, whose multiples
            it would hold, do not come first.
        symmetry: Å within which symmetry is found where structures are relaxed; None elsewhere.
        tiers: (B,) see `rank`.
    """
    complexity = None if symmetry is None else complexities(candidates, symmetry)
    is_known = candidates.properties["status"] != PREDICTED
    shown = None if complexity is None else partial(lowest, energies, complexity, is_known=is_known)
    scores, chances = given
    ranking = rank(
        candidates,
        scores,
        energies,
        merge=merge,
        tiers=tiers,
        shown=shown,
        probabilities=chances,
        own_places=None if symmetry is not None else OWN_PLACES,
    )
    best = ranking.order
    if complexity is not None and not is_exact:
        # Scores stay with the places: what comes forward is as likely as what it displaces.
        def may_displace(row: int, turn: int) -> bool:
            here, there = candidates[int(best[row])], candidates[int(best[turn])]
            return not is_known[best[turn]] or is_distortion(there, here)

        best = best[simplest_first(energies[best], complexity[best], may_displace)]
    informed = np.isfinite(scores).any() or np.isfinite(energies).any()
    found = ranking.scores if informed else np.full(len(ranking.scores), np.nan)
    return best, found, ranking.probabilities


def _order_drawn(candidates: Crystals) -> NDArray[np.int64]:
    """Number the candidates (B,) by draw, since parts of the work finish in any order."""
    names = [name.partition("/")[0].rpartition("-")[2] for name in candidates.ids]
    return np.array([int(n) if n.isdigit() else 0 for n in names], dtype=np.int64)
