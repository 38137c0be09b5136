"""How proposals for targets compare with these, in parts that are kept, so that work can go on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crysgen.ranking.selection import SHORTEST_DISTANCE
from crysgen.retrieval.proposals.proposal import Proposal, to_crystals
from crysmetrics.geometry import min_distances
from crysmetrics.io import Crystals
from crysmetrics.io.atomic import atomic_file
from crysmetrics.matching.distances import rms_distances
from crysmetrics.metrics.oxidation import valid_compositions
from crysmetrics.metrics.settings import EvaluationSettings
from crysmetrics.progress import show_progress, task

MOST = 20
"""Number of proposals of a target that are looked at."""
PART = 100
"""Number of targets that are kept together."""

Proposer = Callable[[dict[int, int]], list[Proposal]]
"""Proposes structures for atoms of each element."""


@dataclass(frozen=True)
class Answers:
    """Proposals for T targets, compared with these.

    Attributes:
        distances: (T, MOST) RMS distances by rank; NaN where a proposal does not match, or there
            is none.
        probabilities: (T, MOST) of the proposals; NaN where there is none.
        volume_error: (T,) relative error of the first proposal's volume; NaN without one.
        valid: (T,) whether target and first proposal are valid, in structure and composition.
        seconds: (T,) that a target's share of its part took to answer.
    """

    distances: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    volume_error: NDArray[np.float64]
    valid: NDArray[np.bool_]
    seconds: NDArray[np.float64]


def atoms_of(crystal: Crystals) -> dict[int, int]:
    """Atoms of each element in the cell."""
    elements, counts = np.unique(crystal.atomic_numbers, return_counts=True)
    return dict(zip(elements.tolist(), counts.tolist(), strict=True))


def answers_in_parts(
    method: Proposer, targets: Crystals, workers: int, work: Path | None, identity: Sequence[str]
) -> Answers:
    """Answer all targets; parts that `work` holds already are read.

    Args:
        method: proposes structures.
        targets: what is asked for.
        workers: processes of the matching.
        work: folder for parts; nothing is kept without one.
        identity: names what decides the answers beside the targets.
    """
    found = []
    with show_progress(), task("compositions", len(targets)) as advance:
        for start in range(0, len(targets), PART):
            part = targets[np.arange(start, min(start + PART, len(targets)))]
            digest = hashlib.sha256(repr((tuple(identity), part.ids)).encode()).hexdigest()
            path = None if work is None else work / f"{digest[:16]}.npz"
            if path is not None and path.exists():
                with np.load(path) as stored:
                    found.append(Answers(**stored))
            else:
                found.append(answers(method, part, workers))
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with atomic_file(path) as temporary, temporary.open("wb") as file:
                        np.savez(file, **vars(found[-1]))
            advance(len(part))
    return Answers(
        *(np.concatenate([getattr(one, field.name) for one in found]) for field in fields(Answers))
    )


def answers(method: Proposer, targets: Crystals, workers: int) -> Answers:
    """Propose structures for targets, and compare them."""
    start = time.perf_counter()
    proposals = [method(atoms_of(target)) for target in targets]
    seconds = (time.perf_counter() - start) / len(targets)
    probabilities = np.full((len(targets), MOST), np.nan)
    for row, some in zip(probabilities, proposals, strict=True):
        row[: len(some)] = [p.probability for p in some]
    return Answers(
        distances_of(proposals, targets, workers),
        probabilities,
        volume_error(proposals, targets),
        valid_pairs(proposals, targets),
        np.full(len(targets), seconds),
    )


def distances_of(
    proposals: list[list[Proposal]], targets: Crystals, workers: int
) -> NDArray[np.float64]:
    """(T, MOST) RMS distances by rank; NaN where a proposal does not match or there is none."""
    flat = to_crystals([p for found in proposals for p in found])
    pairs, places = [], []
    for i, found in enumerate(proposals):
        for rank in range(len(found)):
            places.append((i, rank))
            pairs.append((len(pairs), i))
    result = np.full((len(targets), MOST), np.nan)
    if places:
        result[tuple(np.array(places).T)] = rms_distances(flat, targets, pairs, workers=workers)
    return result


def volume_error(proposals: list[list[Proposal]], targets: Crystals) -> NDArray[np.float64]:
    """(T,) relative error of the first proposal's volume."""
    volumes = np.array([found[0].volume if found else np.nan for found in proposals])
    return volumes / targets.volumes - 1


def valid_pairs(proposals: list[list[Proposal]], targets: Crystals) -> NDArray[np.bool_]:
    """(T,) whether target and first proposal are valid, in structure and composition."""
    valid = np.array([bool(found) for found in proposals])
    firsts = to_crystals([found[0] for found in proposals if found])
    valid[valid] = min_distances(firsts) > SHORTEST_DISTANCE
    apart = min_distances(targets) > SHORTEST_DISTANCE
    composition = valid_compositions(targets.element_counts, EvaluationSettings().oxidation_states)
    return valid & apart & composition
