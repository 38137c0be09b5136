"""Merge equal candidates of all sources and order structures by probability.

Proposals of the library come with a probability (`crysgen.retrieval.scoring.calibration`);
candidates without one, such as diffusion samples, share what is left, the lower their predicted
energy the more. A structure that several sources found has the probabilities of all of them
together. The constants were measured on `val`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io import Crystals

UNSCORED = 0.15
"""Probability of all candidates without a score together, where others have scores."""
NOVEL = 0.02
"""Probability of all structures together that only candidates without a score have: on `val` five
samples of `gemsdiff-mp-v2` are right for 0.017 of the compositions for which none of twenty
proposals of the library is (0.896 and 0.913 within them)."""
ENERGY_SCALE = 0.05
"""Difference of energies in eV/atom that makes a candidate without a score e times as likely."""


@dataclass(frozen=True)
class Ranking:
    """Candidates in their order, one of each structure.

    Attributes:
        order: (K,) rows of the candidates that are kept, best first.
        scores: (K,) probability of each.
        groups: (B,) position in `order` of the candidate that stands for each.
    """

    order: NDArray[np.int64]
    scores: NDArray[np.float64]
    groups: NDArray[np.int64]


def rank(
    candidates: Crystals,
    scores: NDArray[np.float64],
    energies: NDArray[np.float64] | None = None,
    *,
    merge: bool = True,
    tiers: NDArray[np.int64] | None = None,
    shown: Callable[[NDArray[np.int64]], int] | None = None,
) -> Ranking:
    """Order the candidates of one composition.

    Args:
        candidates: B crystals of one reduced formula; cell sizes may differ.
        scores: (B,) probabilities, NaN where a source gives none.
        energies: (B,) in eV/atom, NaN where unknown.
        merge: keep only the best of equal structures.
        tiers: (B,) structures of a lower one come first, whatever their probabilities; all of one
            by default.
        shown: which of equal structures (rows, the likeliest first) is kept; the first by default,
            whose volume and symmetry are the most trustworthy.
    """
    weights = probabilities(np.asarray(scores, dtype=np.float64), energies)
    count = len(candidates)
    labels = same_structures(candidates) if merge else np.arange(count)
    totals = np.bincount(labels, weights=weights, minlength=count).astype(np.float64)
    known = np.isfinite(np.asarray(scores, dtype=np.float64))
    if known.any():
        # A sample that equals a proposal supports it; one that equals none is mostly wrong.
        supported = np.bincount(labels, weights=known, minlength=count) > 0
        totals[~supported] *= NOVEL / UNSCORED
        totals /= totals.sum()
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
    position = {label: k for k, (label, _) in enumerate(chosen)}
    return Ranking(
        np.array([row for _, row in chosen], dtype=np.int64),
        np.array([totals[label] for label, _ in chosen]),
        np.array([position[int(label)] for label in labels], dtype=np.int64),
    )


def probabilities(
    scores: NDArray[np.float64], energies: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Compute probabilities (B,) of candidates with and without scores; they add up to 1."""
    weights = np.zeros(len(scores))
    scored = np.isfinite(scores)
    free = ~scored
    if scored.any():
        positive = np.maximum(scores[scored], 0.0) + 1e-12
        weights[scored] = positive / positive.sum()
    if free.any():
        energy = np.full(len(scores), np.nan) if energies is None else np.asarray(energies)
        here = energy[free]
        known = here[np.isfinite(here)]
        relative = np.nan_to_num(here - (known.min() if len(known) else 0.0), nan=3 * ENERGY_SCALE)
        share = np.exp(-relative / ENERGY_SCALE)
        left = UNSCORED if scored.any() else 1.0
        weights[scored] *= 1 - left
        weights[free] = left * share / share.sum()
    return weights


def same_structures(candidates: Crystals) -> NDArray[np.int64]:
    """Label candidates (B,), equally where they match by pymatgen's default tolerances."""
    from crysgen.retrieval.library.prototypes import primitive_crystal
    from crysgen.retrieval.library.prototypes import same_structures as labels_of

    return labels_of([primitive_crystal(crystal) for crystal in candidates])
