"""Merge equal candidates of all sources and order structures by probability.

Proposals of the library come with probabilities (`crysgen.retrieval.scoring.probability`), and
equal ones have the highest of theirs. Structures that only samples of a model have get
probabilities by how unsure the first proposal is and how many samples agree, then those of lower
predicted energy first. Samples that equal a proposal change nothing, so that the order of proposals
does not depend on how many were drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io import Crystals

NOVEL = 0.014
"""Score and probability of the first structure that only samples of a model have, as a share of
what the first proposal leaves to 1: on `val`, where that is 0.29 on average, five samples of
`gemsdiff-mp-v3` are right for 0.016 of the compositions, for which none of twenty proposals of the
library is."""
MOST_NOVEL = 0.5
"""The same share at most, of a structure that several samples agree on: it grows as the square of
their number. On `val`, of the structures that no proposal equals, those found once are alone in
being right for 0.02 of what is left to 1, those found three times or more for 0.10 (3 of 70)."""
OWN_PLACES = 10
"""Number of places after which such structures come before the proposals that are left. Both are
right about as often, but a late proposal resembles earlier ones, and so is seldom right where
these are wrong: on `val`, simulated, 0.910 of the compositions have a right structure within
twenty, 0.902 if the place follows from the share alone."""
DECAY = 0.9
"""Factor from one such structure to the next."""
ENERGY_SCALE = 0.05
"""Difference of energies in eV/atom that makes a candidate e times as likely where none has a
score."""


@dataclass(frozen=True)
class Ranking:
    """Candidates in their order, one of each structure.

    Attributes:
        order: (K,) rows of the candidates that are kept, best first.
        scores: (K,) of each.
        probabilities: (K,) of each, never rising; NaN where no candidate has one.
        groups: (B,) position in `order` of the candidate that stands for each.
    """

    order: NDArray[np.int64]
    scores: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    groups: NDArray[np.int64]


def rank(
    candidates: Crystals,
    scores: NDArray[np.float64],
    energies: NDArray[np.float64] | None = None,
    *,
    merge: bool = True,
    tiers: NDArray[np.int64] | None = None,
    shown: Callable[[NDArray[np.int64]], int] | None = None,
    probabilities: NDArray[np.float64] | None = None,
    own_places: int | None = None,
) -> Ranking:
    """Order the candidates of one composition.

    Args:
        candidates: B crystals of one reduced formula; cell sizes may differ.
        scores: (B,) weights, NaN where a source gives none.
        energies: (B,) in eV/atom, NaN where unknown.
        merge: keep only the best of equal structures.
        tiers: (B,) structures of a lower one come first, whatever their probabilities; all of one
            by default.
        shown: which of equal structures (rows, the likeliest first) is kept; the first by default,
            whose volume and symmetry are the most trustworthy.
        probabilities: (B,) of being right, NaN where a source gives none; the scores by default.
        own_places: number of places after which structures without any score come before the
            others of their tier, with score and probability of the place before; None for none.
    """
    scores = np.asarray(scores, dtype=np.float64)
    count = len(candidates)
    labels = same_structures(candidates) if merge else np.arange(count)
    known = np.isfinite(scores)
    weights = completed(scores, labels, energies)
    totals = np.zeros(count)
    np.maximum.at(totals, labels, weights)
    chances = np.zeros(count)
    given = scores if probabilities is None else np.asarray(probabilities, dtype=np.float64)
    np.maximum.at(chances, labels, completed(given, labels, energies))
    best = {}
    for label in np.unique(labels).tolist():
        rows = np.flatnonzero(labels == label)
        # Known ones stand for samples, which are less exact.
        rows = rows[known[rows]] if known[rows].any() else rows
        rows = rows[np.lexsort((-weights[rows], tiers[rows] if tiers is not None else rows * 0))]
        best[label] = int(rows[0]) if shown is None else shown(rows)
    front = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(front, labels, np.zeros(count, dtype=np.int64) if tiers is None else tiers)
    chosen = sorted(best.items(), key=lambda item: (front[item[0]], -totals[item[0]], item[1]))
    if known.any():
        scored = set(labels[known].tolist())
        chosen = _by_probability(chosen, scored, front, chances)
        late = len(chosen) if own_places is None else own_places
        tail = sorted(chosen[late:], key=lambda item: (front[item[0]], item[0] in scored))
        chosen = chosen[:late] + tail
        for place, ((before, _), (label, _)) in enumerate(pairwise(chosen), 1):
            if label in scored:
                continue
            if place >= late:
                totals[label], chances[label] = totals[before], chances[before]
            else:
                totals[label] = min(totals[label], totals[before])
    position = {label: k for k, (label, _) in enumerate(chosen)}
    falling = np.minimum.accumulate([chances[label] for label, _ in chosen] or [0.0])
    return Ranking(
        np.array([row for _, row in chosen], dtype=np.int64),
        np.array([totals[label] for label, _ in chosen]),
        falling if np.isfinite(given).any() else np.full(len(chosen), np.nan),
        np.array([position[int(label)] for label in labels], dtype=np.int64),
    )


def _by_probability(
    chosen: Sequence[tuple[int, int]],
    scored: Collection[int],
    front: NDArray[np.int64],
    chances: NDArray[np.float64],
) -> list[tuple[int, int]]:
    """Insert structures without scores where the probabilities of the others fall below theirs.

    Args:
        chosen: labels and rows, those with scores in their order.
        scored: labels with scores; their scores can't be compared with probabilities.
        front: of each label, the tier; no structure comes before those of lower ones.
        chances: of each label, the probability.
    """
    keys, least = {}, dict.fromkeys(front.tolist(), np.inf)
    for label, _ in chosen:
        tier, chance = int(front[label]), float(chances[label])
        if label in scored:
            chance = least[tier] = min(least[tier], chance)
        keys[label] = (tier, -chance, label not in scored)
    return sorted(chosen, key=lambda item: keys[item[0]])


def completed(
    scores: NDArray[np.float64],
    labels: NDArray[np.int64],
    energies: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Compute scores or probabilities (B,) of candidates, also of those that come without.

    Args:
        scores: (B,) of candidates, NaN where a source gives none.
        labels: (B,) equal where structures are.
        energies: (B,) in eV/atom, NaN where unknown.
    """
    scored = np.isfinite(scores)
    weights = np.where(scored, np.maximum(np.nan_to_num(scores), 0.0), 0.0)
    free = np.flatnonzero(~scored)
    if not len(free):
        return weights
    here = np.full(len(scores), np.nan) if energies is None else np.asarray(energies)
    here = here[free]
    known = here[np.isfinite(here)]
    relative = np.nan_to_num(here - (known.min() if len(known) else 0.0), nan=3 * ENERGY_SCALE)
    if not scored.any():
        shares = np.exp(-relative / ENERGY_SCALE)
        weights[free] = shares / shares.sum()
        return weights
    votes = np.bincount(labels[free], minlength=int(labels.max()) + 1)[labels[free]]
    left, place = 1.0 - float(weights.max()), 0
    seen = set(labels[scored].tolist())
    for k in np.lexsort((relative, -votes)).tolist():
        if labels[free[k]] not in seen:
            share = NOVEL * float(votes[k]) ** 2 * DECAY**place
            weights[free[k]] = left * min(share, MOST_NOVEL)
            place += 1
            seen.add(labels[free[k]])
    return weights


def same_structures(candidates: Crystals) -> NDArray[np.int64]:
    """Label candidates (B,), equally where they match by pymatgen's default tolerances."""
    from crysgen.retrieval.library.prototypes import primitive_crystal
    from crysgen.retrieval.library.prototypes import same_structures as labels_of

    return labels_of([primitive_crystal(crystal) for crystal in candidates])
