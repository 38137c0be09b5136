"""Relax the candidates of each composition in stages, and leave the hopeless behind.

Probabilities and energies decide the order of a composition's candidates, and what is unlikely and
lies far above others after a few steps has no chance any more. So all are relaxed for a few steps,
those that may still come first for some more, and only the last of them to the end; then by the
next potential.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crysgen.proposers.base import PREDICTED
from crysgen.ranking.energy import RELAXED_SCALE
from crysmetrics.io import Crystals
from crysmetrics.progress import task
from crysmetrics.relaxation import (
    COMPRESSED,
    CONVERGED,
    ENERGY,
    TWO_SPINS,
    RelaxationSettings,
    relax,
)

if TYPE_CHECKING:
    from crysgen.output import Store
    from crysgen.settings import Resources, SamplingSettings

DISAGREEMENT = "relaxed_disagreement"
"""Property of candidates: largest difference in eV/atom of what the potentials say of the energy
above the composition's lowest; NaN by one potential."""
RELAXATION = "relaxation"
"""Property of candidates: how their relaxation ended, one of the next four."""
AT_END, STOPPED, UNFINISHED, FAILED = "to the end", "stopped early", "not to the end", "failed"
"""Forces are small; left behind, since others lie far lower; out of steps or time; broken off."""


class Stage(NamedTuple):
    """Some steps of BFGS, and by how much energies may still fall after them."""

    steps: int
    gain: float
    """eV/atom."""


STAGES = (Stage(6, 0.10), Stage(10, 0.04), Stage(84, 0.0))
"""Stages of the first potential. Of 56 candidates for Li2O, MgO and BaTiO3 a quarter gain more
after six steps, all of them distorted large cells that end in the minimum of a small one."""
LATER_STAGES = (Stage(8, 0.04), Stage(60, 0.0))
"""Stages of the others, which begin where the first ended."""
LATER = 0.04
"""eV/atom by which another potential may see a candidate lower, so that it is relaxed by it."""
HOPELESS = 0.01
"""Weight relative to the best candidate's that one may come to, at most, if it is left behind."""
LOOSE = 0.9
"""Share of its published volume to which a known structure shrinks at least, if it is one of layers
that dispersion holds together: magnesium chloride and molybdenum diselenide do, to 0.86 and 0.87,
and are right then; of 143 well-known crystals no others but bismuth selenide (0.90)."""
UNSCORED = 1e-3
"""Probability that candidates without one are taken to have."""

Relax = Callable[[str, Crystals, str, int], Crystals]
"""Relaxes crystals: name of the stage, crystals, potential, number of steps."""


@dataclass(frozen=True)
class Ended:
    """Where the relaxation of candidates (B,) by one potential ended.

    Attributes:
        crystals: as they are then.
        energies: (B,) in eV/atom; NaN where there is none.
        ends: (B,) see `RELAXATION`; "" where it was not begun.
        reasons: (B,) why it did not come to an end; "" elsewhere.
    """

    crystals: Crystals
    energies: NDArray[np.float64]
    ends: NDArray[np.str_]
    reasons: NDArray[np.object_]

    def __getitem__(self, rows: NDArray[np.int64]) -> Ended:
        return Ended(self.crystals[rows], self.energies[rows], self.ends[rows], self.reasons[rows])


def relaxed(
    candidates: Crystals, settings: SamplingSettings, resources: Resources, store: Store
) -> tuple[Crystals, list[tuple[int, str]]]:
    """Relax candidates by each potential in turn; what a store holds is not done again.

    Those with elements that have high and low spin (`TWO_SPINS`) start from two volumes.

    Args:
        candidates: B, with the property `request`.
        settings: of the run.
        resources: of the run.
        store: keeps each batch of each stage.

    Returns:
        The candidates as they are then, with the properties `ENERGY` (see `weighed`),
        `DISAGREEMENT` and `RELAXATION`; and the row and the reason of each that should have come
        to an end but did not.
    """

    def run(name: str, crystals: Crystals, potential: str, steps: int) -> Crystals:
        return _stage(name, crystals, potential, steps, settings, resources, store)

    position = np.asarray(candidates.properties["request"], dtype=np.int64)
    starts, owner = with_compressed(candidates)
    scores = np.asarray(candidates.properties["score"], dtype=np.float64)
    everything = np.ones(len(starts), dtype=bool)
    first, *others = settings.potentials
    ended = best_of_each(staged(starts, everything, first, STAGES, run), owner, len(candidates))
    ends, reasons, found = ended.ends.copy(), ended.reasons.copy(), [ended.energies]
    for potential in others:
        near = np.isin(ended.ends, (AT_END, UNFINISHED))
        near &= ~hopeless(ended.energies, scores, position, LATER)
        ended = staged(ended.crystals, near, potential, LATER_STAGES, run)
        ends[near], reasons[near] = ended.ends[near], ended.reasons[near]
        found.append(ended.energies)
    energies, disagreement = weighed(np.array(found), position)
    properties = {ENERGY: energies, DISAGREEMENT: disagreement, RELAXATION: ends}
    made = replace(ended.crystals, properties={**candidates.properties, **properties})
    failed = [(row, str(reason)) for row, reason in enumerate(reasons) if reason]
    return made.with_ids(candidates.ids), failed


def unrelaxed(candidates: Crystals) -> Crystals:
    """Give candidates (B,) that are not relaxed the properties of those that are."""
    nothing = np.full(len(candidates), np.nan)
    ends = np.full(len(candidates), "", dtype="<U16")
    added = {ENERGY: nothing, DISAGREEMENT: nothing, RELAXATION: ends}
    return replace(candidates, properties={**candidates.properties, **added})


def known_as_published(relaxed: Crystals, published: Crystals) -> Crystals:
    """Put known structures (of B candidates) back into the cells and positions they came with.

    These come from experiments, or from density functionals that the potentials have learned from:
    a relaxation of them adds the potential's error. Their energies stay. Layers that a functional
    without dispersion leaves apart are the exception (`LOOSE`).

    Args:
        relaxed: B candidates, with the property `status`.
        published: the same and any others, before relaxation.
    """
    row = {name: i for i, name in enumerate(published.ids)}
    before = published[[row[name] for name in relaxed.ids]]
    known = np.asarray(relaxed.properties["status"]) != PREDICTED
    growth = relaxed.volumes / relaxed.num_atoms / (before.volumes / before.num_atoms)
    known &= growth >= LOOSE
    # What both say, such as a stated space group, belongs to the published cell.
    properties = {**relaxed.properties, **before.properties}
    kept = replace(before, properties=properties)[np.flatnonzero(known)]
    together = Crystals.concatenate([relaxed[np.flatnonzero(~known)], kept])
    row = {name: i for i, name in enumerate(together.ids)}
    return together[[row[name] for name in relaxed.ids]].with_failures(relaxed.failures)


def weighed(
    energies: NDArray[np.float64], position: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Join what several potentials say: energies (B,), and how far they disagree (B,), in eV/atom.

    Args:
        energies: (P, B) by each potential in eV/atom; NaN where it gives none.
        position: (B,) the composition of each.

    Returns:
        Energies above the lowest of the composition, averaged over the potentials, on top of the
        lowest by the first; and the largest difference of two potentials, NaN by a single one.
    """
    above = np.array([above_lowest(row, position) for row in energies])
    number = np.isfinite(above).sum(axis=0)
    mean = np.where(number > 0, np.nansum(above, axis=0) / np.maximum(number, 1), np.nan)
    spread = np.nan_to_num(above, nan=-np.inf).max(0) - np.nan_to_num(above, nan=np.inf).min(0)
    lowest = energies[0] - above[0]
    return lowest + mean, np.where(number > 1, spread, np.nan)


def above_lowest(energies: NDArray[np.float64], position: NDArray[np.int64]) -> NDArray[np.float64]:
    """Compute energies (B,) above the lowest of the same composition, in eV/atom; NaN stays NaN."""
    lowest = np.full(int(position.max(initial=0)) + 1, np.inf)
    np.minimum.at(lowest, position, np.nan_to_num(energies, nan=np.inf))
    found: NDArray[np.float64] = energies - np.where(np.isfinite(lowest), lowest, 0.0)[position]
    return found


def with_compressed(candidates: Crystals) -> tuple[Crystals, NDArray[np.int64]]:
    """Add smaller copies of crystals that may have high or low spin.

    Returns:
        Candidates and copies (C), and the row of the candidate (C,) that each comes from.
    """
    has_two = [bool(np.isin(crystal.atomic_numbers, TWO_SPINS).any()) for crystal in candidates]
    twice = np.flatnonzero(np.array(has_two, dtype=bool))
    copies = candidates[twice]
    copies = replace(copies, lattices=copies.lattices * COMPRESSED ** (1 / 3))
    everything = np.arange(len(candidates))
    if not len(twice):
        return candidates, everything
    copies = copies.with_ids([f"{name}~" for name in copies.ids]).with_failures(())
    return Crystals.concatenate([candidates, copies]), np.concatenate([everything, twice])


def best_of_each(ended: Ended, owner: NDArray[np.int64], count: int) -> Ended:
    """Keep the best of the copies of each candidate: what came to an end, then lower energies.

    Args:
        ended: C copies.
        owner: (C,) the candidate of each.
        count: of candidates.
    """
    rank = {AT_END: 0, UNFINISHED: 1, STOPPED: 1, FAILED: 2}
    worth = np.array([rank[end] for end in ended.ends.tolist()])
    order = np.lexsort((np.nan_to_num(ended.energies, nan=np.inf), worth))
    best = np.full(count, -1, dtype=np.int64)
    for row in order[::-1]:
        best[owner[row]] = row
    return ended[best]


def staged(
    crystals: Crystals,
    wanted: NDArray[np.bool_],
    potential: str,
    stages: Sequence[Stage],
    run: Relax,
) -> Ended:
    """Relax crystals by one potential, stage by stage.

    Args:
        crystals: B, with the properties `request`, within which they compete, and `score`.
        wanted: (B,) which are relaxed at all.
        potential: name of it.
        stages: see `Stage`.
        run: relaxes what takes part in a stage.
    """
    position = np.asarray(crystals.properties["request"], dtype=np.int64)
    scores = np.asarray(crystals.properties["score"], dtype=np.float64)
    energies = np.full(len(crystals), np.nan)
    ends = np.where(wanted, UNFINISHED, "").astype("<U16")
    reasons = np.full(len(crystals), "", dtype=object)
    lattices, frac_coords = crystals.lattices.copy(), crystals.frac_coords.copy()
    for number, stage in enumerate(stages):
        rows = np.flatnonzero(ends == UNFINISHED)
        if not len(rows):
            break
        now = replace(crystals, lattices=lattices, frac_coords=frac_coords)[rows]
        made = run(f"{potential}.{number}", now.with_failures(()), potential, stage.steps)
        lattices[rows] = made.lattices
        for k, row in enumerate(rows.tolist()):
            frac_coords[crystals.offsets[row] : crystals.offsets[row + 1]] = made[k].frac_coords
        energies[rows] = made.properties[ENERGY]
        given = {failure.file: failure.reason for failure in made.failures}
        reasons[rows] = [given.get(name, "") for name in made.ids]
        ends[rows] = np.where(made.properties[CONVERGED], AT_END, UNFINISHED)
        ends[rows[~np.isfinite(energies[rows])]] = FAILED
        if number + 1 < len(stages):
            left_behind = hopeless(energies, scores, position, stage.gain)
            ends[left_behind & (ends == UNFINISHED)] = STOPPED
    reasons[ends == STOPPED] = ""
    made = replace(crystals, lattices=lattices, frac_coords=frac_coords)
    return Ended(made, energies, ends, reasons)


def hopeless(
    energies: NDArray[np.float64],
    scores: NDArray[np.float64],
    position: NDArray[np.int64],
    gain: float,
) -> NDArray[np.bool_]:
    """Find candidates (B,) that can't come first any more.

    Args:
        energies: (B,) so far in eV/atom; NaN where there is none.
        scores: (B,) probabilities without energies; NaN where there is none.
        position: (B,) the composition of each.
        gain: eV/atom by which energies may still fall.
    """
    above = np.nan_to_num(above_lowest(energies, position), nan=np.inf)
    likely = np.log(np.maximum(np.nan_to_num(scores, nan=UNSCORED), UNSCORED**2))
    worth = likely - above / RELAXED_SCALE
    best = np.full(int(position.max(initial=0)) + 1, -np.inf)
    np.maximum.at(best, position, worth)
    found: NDArray[np.bool_] = worth + gain / RELAXED_SCALE < best[position] + np.log(HOPELESS)
    return found


def _stage(
    name: str,
    crystals: Crystals,
    potential: str,
    steps: int,
    settings: SamplingSettings,
    resources: Resources,
    store: Store,
) -> Crystals:
    """Relax crystals for some steps, or take from the store what it holds of this stage."""
    named = crystals.with_ids([f"{one}@{name}" for one in crystals.ids])
    done = set(store.relaxed().ids)
    limits = RelaxationSettings(max_steps=steps, keep_unfinished=True, two_volumes=False)
    with task(f"Relaxing ({potential})", len(set(named.ids) - done)) as advance:
        for batch in relax(
            named,
            resources.device,
            settings.dispersion,
            resources.workers,
            potential=potential,
            settings=limits,
            done=done,
        ):
            store.add_relaxed(batch)
            advance(len(batch))
    found = store.relaxed()
    row = {one: i for i, one in enumerate(found.ids)}
    failures = sorted(found.failures, key=lambda failure: failure.file)
    return found[[row[one] for one in named.ids]].with_failures(failures)
