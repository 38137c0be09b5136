"""Known structures of the very formula, and how they stand among predictions.

Who asks for a formula that is known wants its polymorphs, the most stable one first, and
predictions behind them. If all that the library knows of a formula lies above the hull, another
structure may be better: then a prediction that is sure enough stands before them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crysgen.proposers.base import PREDICTED_TIER
from crysgen.retrieval.library.entries import USER_SOURCE, Entries
from crysgen.retrieval.library.library import Library
from crysgen.retrieval.library.named_structures import AFLOW, ASE
from crysgen.retrieval.library.prototypes import (
    PrimitiveCrystal,
    primitive_crystal,
    same_structures,
)
from crysgen.retrieval.proposals.proposal import (
    ON_HULL,
    Proposal,
    ProposalFeatures,
    as_crystals,
    source_of,
    status_of,
    to_crystals,
)

LISTED = 0.02
"""Energy in eV/atom by which a structure of the very formula comes forward that AFLOW lists and
gives a name: DFT has quartz 0.012 above the hull."""
NOT_AMBIENT = 0.03
"""Energy in eV/atom by which structures step back whose names say that they are not those of room
temperature, or that are ideal forms."""
OTHER_FORMS = re.compile(
    r"\b(beta|gamma|high|upper|theoretical|SC16|keatite)\b|E21, perovskite", re.IGNORECASE
)
"""Words in such names."""
SHARE_OF_ESTIMATE = 0.05
"""Share of the estimated distance from the hull that counts for named structures: they are real,
and estimates for measured cells are 0.1 eV/atom too high and more."""
UNDONE = 0.25
"""Displacement in Å up to which a distortion of a stable structure is taken out: the more symmetric
form, which strontium titanate and tin dioxide have at room temperature, comes first."""
FAULTY = 0.4
"""Estimated distance in eV/atom beyond which AFLOW's structures, as pymatgen has them, are faulty
(anatase at 1.86), or below it (the zirconium aluminide of type D0_23 at -0.49)."""
CONFIDENT = 0.35
"""Share, among predictions, from which on the first one stands before known structures none
of which is stable."""
DEGENERATE = 0.003
"""Difference in eV/atom up to which the more symmetric form of a structure may be stable."""
APART = 1.25
"""Volume relative to the densest structure within `DEGENERATE` beyond which layers are apart, which
costs nothing by functionals without dispersion: the bulk comes before them. Of 1,717 formulas with
several known structures this concerns molybdenum diselenide, ditelluride and niobium disulfide."""
UNKNOWN = 0.05
"""Distance in eV/atom that is assumed of a known structure for which it can't be estimated."""
SCALE = 0.005
"""Difference in eV/atom that makes a known polymorph e times less likely to be the one that is
meant; with `SETTLED` the best Brier score of the first of 62 well-known crystals (0.174; 0.190
with 0.02 and 0.98): probabilities of 0.73 on average where 0.77 ± 0.05 are right."""
PREFERRED = 0.05
"""Difference in eV/atom that puts structures that users added before elements' known forms, and
these before all others."""
SETTLED = 0.95
"""Probability of all known polymorphs together, where one of them is stable."""
KNOWN_TIER = PREDICTED_TIER - 1
"""Tier of known structures."""
LEAST = 1e-3
"""Weight of the least likely known polymorph, relative to the most stable one."""


@dataclass(frozen=True)
class Polymorph:
    """A known structure of a formula.

    Attributes:
        entry: index into the library of the entry that it comes from.
        cell: the structure itself.
        text: which structure it is and where it lies.
        energy: eV/atom above the hull, known or estimated; what order goes by.
        is_stable: whether it is the stable one as far as is known, or a user's own.
        order: by which polymorphs are sorted.
        equal: computed entries that hold it too.
    """

    entry: int
    cell: PrimitiveCrystal
    text: str
    energy: float
    is_stable: bool
    order: tuple[float, ...]
    equal: tuple[int, ...] = ()


def polymorphs(
    library: Library,
    atoms: Mapping[int, int],
    units: Sequence[int] | None,
    excluded: Collection[int] = (),
) -> list[Polymorph]:
    """List the known structures of a formula, the most stable one first, each once.

    Computed crystals without a published energy are no polymorphs: many are hypothetical.

    Args:
        library: known crystals.
        atoms: number of atoms of each element.
        units: cell sizes as multiples of `atoms` that primitive cells may have; None for any.
        excluded: indices of entries that are not used.
    """
    entries = library.entries
    sizes = None if units is None else {sum(atoms.values()) * unit for unit in units}
    found = [
        i
        for i in entries.of_formula(atoms)
        if i not in excluded
        and (_is_listed(entries, i) or np.isfinite(entries.e_above_hull[i]))
        and not entries.hull_estimate[i] > FAULTY
        and (sizes is None or int(entries.num_atoms[i]) in sizes)
    ]
    labels = same_structures([entries.crystal(i) for i in found]).tolist()
    groups = entries.space_groups[found].tolist()
    equal: dict[tuple[int, int], list[int]] = {}
    for i, label, group in zip(found, labels, groups, strict=True):
        equal.setdefault((label, group), []).append(i)
    judged = [(label, _judged(entries, some)) for (label, _), some in equal.items()]
    judged.sort(key=lambda item: item[1].order)
    # Of structures that pass for equal, the better one is given.
    once = sorted(dict(reversed(judged)).values(), key=lambda polymorph: polymorph.order)
    lowest = min((polymorph.energy for polymorph in once), default=0.0)
    near = [polymorph for polymorph in once if polymorph.energy <= lowest + DEGENERATE]
    more = [form for polymorph in near for form in _undistorted(entries, polymorph)]
    once = _loose_behind(once, near)
    return sorted([*once, *more], key=lambda polymorph: polymorph.order)


def _loose_behind(known: Sequence[Polymorph], near: Sequence[Polymorph]) -> list[Polymorph]:
    """Move layers apart behind layers together, of structures that are stable or nearly so."""
    volumes = [abs(np.linalg.det(p.cell.lattice)) / sum(p.cell.counts) for p in near]
    loose = {p.entry for p, v in zip(near, volumes, strict=True) if v > APART * min(volumes)}
    found = []
    for polymorph in known:
        if polymorph.entry in loose:
            source, energy, *rest = polymorph.order
            energy += DEGENERATE
            polymorph = replace(polymorph, energy=energy, order=(source, energy, *rest))
        found.append(polymorph)
    return found


def _is_listed(entries: Entries, i: int) -> bool:
    """Tell whether a crystal comes from a list of structures that are real."""
    return entries.source_of(i)[0] in (USER_SOURCE, ASE[0], AFLOW[0])


def _rank_of_source(entries: Entries, equal: Sequence[int]) -> int:
    """Rank what users added before the known form of an element, and that before the others."""
    names = {entries.source_of(i)[0] for i in equal}
    return 0 if USER_SOURCE in names else 1 if ASE[0] in names else 2


def _judged(entries: Entries, equal: Sequence[int]) -> Polymorph:
    """Say where a structure lies that several entries hold, and whose cell is given.

    Cells of lists are measured ones.
    """
    listed = [i for i in equal if _is_listed(entries, i)]
    computed = [i for i in equal if i not in listed]
    source = _rank_of_source(entries, equal)
    energy = min((float(entries.e_above_hull[i]) for i in computed), default=np.nan)
    entry = min(
        listed or equal, key=lambda i: (_rank_of_source(entries, [i]), _energy_of(entries, i))
    )
    text = status_of(entries, min(computed, key=lambda i: _energy_of(entries, i), default=entry))
    if computed and listed:
        text += f"; cell of {entries.ids[entry]}"
    name = entries.names.get(entries.ids[entry], "")
    is_other_form = bool(OTHER_FORMS.search(name))
    is_ambient = bool(name) and not name.endswith(" type") and not is_other_form
    if np.isnan(energy):
        estimate = max(float(np.nan_to_num(entries.hull_estimate[entry], nan=UNKNOWN)), 0.0)
        energy = estimate * SHARE_OF_ESTIMATE if is_ambient else estimate
    is_stable = source < 2 or is_ambient or (bool(computed) and energy <= ON_HULL)
    # What AFLOW lists is real: it is stable if it lies below all that is known beside it.
    is_uncomputed = not computed and not is_other_form
    is_stable |= is_uncomputed and -FAULTY < float(entries.hull_estimate[entry]) <= 0
    energy -= LISTED * is_ambient - NOT_AMBIENT * is_other_form
    size, group = int(entries.num_atoms[entry]), int(entries.space_groups[entry])
    order = (source, energy, size, -group)
    return Polymorph(entry, entries.crystal(entry), text, energy, is_stable, order, tuple(computed))


def _undistorted(entries: Entries, polymorph: Polymorph) -> list[Polymorph]:
    """Take out small distortions of a computed structure; an empty list where it has none."""
    source, energy, *_ = polymorph.order
    if source < 2 or "cell of" in polymorph.text:
        return []
    # Calculations of one structure differ in how far they are distorted.
    for i in polymorph.equal:
        cell = primitive_crystal(as_crystals(entries.crystal(i)), UNDONE)
        size = len(cell.frac_coords)
        if cell.space_group != polymorph.cell.space_group and size <= entries.num_atoms[i]:
            text = f"{status_of(entries, i)}; symmetrised within {UNDONE} Å"
            order = (source, energy - DEGENERATE, size, -cell.space_group)
            return [replace(polymorph, entry=i, cell=cell, text=text, is_stable=True, order=order)]
    return []


def _energy_of(entries: Entries, i: int) -> float:
    return float(np.nan_to_num(entries.e_above_hull[i], nan=np.inf))


def with_known(
    library: Library, known: Sequence[Polymorph], predicted: Sequence[Proposal]
) -> list[Proposal]:
    """Put known polymorphs before predictions, but for a confident one where none is stable.

    Args:
        library: that they come from.
        known: polymorphs of the composition.
        predicted: with probabilities as scores, the likeliest first.
    """
    if not known:
        return list(predicted)
    entries = library.entries
    rest = [p for p in predicted if not _is_polymorph(p, entries)]
    total = sum(p.score for p in rest) or 1.0
    is_settled = any(polymorph.is_stable for polymorph in known)
    first: list[Proposal] = []
    is_sure = bool(rest) and rest[0].score > CONFIDENT * total
    if is_sure and not is_settled and _is_new(rest[0], known):
        first = [replace(rest[0], tier=KNOWN_TIER - 1, score=rest[0].score / total)]
        total -= rest[0].score
        rest = rest[1:]
    left = 1 - sum(p.score for p in first)
    share = left * (SETTLED if is_settled else 0.5)
    published = [
        replace(
            _published(entries, polymorph),
            score=float(weight) * share,
            probability=float(weight) * share,
            tier=KNOWN_TIER,
        )
        for polymorph, weight in zip(known, _weights(known), strict=True)
    ]
    total = max(total, np.finfo(float).tiny)
    # Predictions are right where nothing before them is.
    unknown = max(1 - sum(p.probability for p in [*first, *published]), 0.0)
    behind = [
        replace(p, score=p.score * (left - share) / total, probability=p.probability * unknown)
        for p in rest
    ]
    return [*first, *published, *behind]


def _is_polymorph(proposal: Proposal, entries: Entries) -> bool:
    """Tell whether a proposal is a known structure of the formula that `polymorphs` has judged."""
    i = entries.position[proposal.template_id]
    is_judged = _is_listed(entries, i) or bool(np.isfinite(entries.e_above_hull[i]))
    return bool(proposal.known) and is_judged and proposal.features.multiple == 1


def _weights(known: Sequence[Polymorph]) -> NDArray[np.float64]:
    """(K,) how likely each is the one that is meant, falling; they add up to 1."""
    energies = np.maximum.accumulate([polymorph.energy for polymorph in known])
    sources = np.array([polymorph.order[0] for polymorph in known])
    energies = energies + PREFERRED * (sources - sources[0])
    relative = np.maximum(np.exp(-(energies - energies[0]) / SCALE), LEAST)
    falling = relative * 0.999 ** np.arange(len(relative))  # equal ones keep their order
    weights: NDArray[np.float64] = falling / falling.sum()
    return weights


def _is_new(proposal: Proposal, known: Sequence[Polymorph]) -> bool:
    """Tell whether a proposal is none of the known structures."""
    cells = [polymorph.cell for polymorph in known]
    own = primitive_crystal(to_crystals([proposal]))
    return int(same_structures([*cells, own])[-1]) == len(cells)


def _published(entries: Entries, polymorph: Polymorph) -> Proposal:
    """Propose a known structure as it was published, in its primitive cell."""
    i = polymorph.entry
    cell = polymorph.cell
    hull = float(entries.e_above_hull[i])
    is_own = entries.source_of(i)[0] == USER_SOURCE
    features = ProposalFeatures(
        share=1.0,
        first_share=1.0,
        nearest=0.0,
        effective_support=1.0,
        num_supporting=1,
        stable_weight=1.0,
        volume_factor=0.0,
        e_above_hull=hull,
        known_above_hull=0.0 if np.isnan(hull) else hull,
        user_entry=is_own,
        multiple=1,
    )
    return Proposal(
        np.repeat(cell.elements, cell.counts),
        cell.frac_coords,
        cell.lattice,
        prototype_id=entries.ids[i],
        space_group=cell.space_group,
        score=1.0,
        features=features,
        known=polymorph.text,
        **source_of(entries, i),
    )
