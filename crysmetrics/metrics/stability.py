"""How many structures are stable against decomposition into known phases, and what one costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.e_above_hull import are_given
from crysmetrics.features.sample import Sample
from crysmetrics.metrics.base import Columns, Measure, Metric, Outcome, Part, Value, undefined
from crysmetrics.metrics.intervals import mean, share
from crysmetrics.metrics.settings import EvaluationSettings

METASTABLE = 0.1
"""eV/atom above the hull up to which a crystal counts as metastable (CrysLDM's "stable")."""
BINS = np.round(np.arange(-0.5, 2.01, 0.05), 2)
"""eV/atom, edges of the histogram of CrysLDM's Figure 2; the ends hold what lies beyond."""

_NUMBERS = ("e_above_hull", "hull_error", "relaxation_rmsd", "competing_phases")
"""Columns of which the shares and what is said of them are made."""


def stability(gen: Sample, settings: EvaluationSettings) -> Outcome:
    """Compute the share of structures that are stable against decomposition into known phases.

    Structures are relaxed by a potential; stable_rate is the share on or below the hull of the
    known phases of the Materials Project, metastable_rate that up to 0.1 eV/atom above it (CrysLDM
    calls those stable). What can't be read, relaxed or compared counts as not stable. The hull's
    own error, by the number of known phases in a system, stands beside the shares.
    """
    columns = _columns(gen)
    return replace(
        _outcome(columns, gen.crystals.num_total, settings, are_given(gen), _stated_steps(gen)),
        per_structure=columns,
    )


class StabilityParts:
    """The shares of stable structures over parts of the generated set."""

    def __init__(self, settings: EvaluationSettings) -> None:
        self.settings, self.given = settings, False
        self.columns: dict[str, list[NDArray[np.float64]]] = {n: [np.zeros(0)] for n in _NUMBERS}

    def update(self, part: Part) -> Columns:
        """Take in the energies of a part."""
        columns = _columns(part.sample)
        for name, found in self.columns.items():
            found.append(columns[name])
        self.given = are_given(part.sample)
        return columns

    def compute(self, total: int) -> Outcome:
        """Compute the shares of all structures."""
        columns = {name: np.concatenate(found) for name, found in self.columns.items()}
        return _outcome(columns, total, self.settings, self.given)


def _columns(gen: Sample) -> Columns:
    found = gen.features("e_above_hull")
    labels = gen.extractors["e_above_hull"].labels
    return {**dict(zip(labels, found.values.T, strict=True)), "decomposition": _decompositions(gen)}


def _decompositions(gen: Sample) -> NDArray[np.object_]:
    """Name the known phases that each structure competes with, and their shares of the atoms."""
    from crysmetrics.above_hull import DEFAULT
    from crysmetrics.hull.table import SHIPPED, amounts_of, load_hull

    table = load_hull((gen.run.stability or DEFAULT).hull or SHIPPED)
    found = np.full(len(gen), "", dtype=object)
    for i, crystal in enumerate(gen.crystals):
        mixture = table.hull.mixture(amounts_of(crystal.atomic_numbers))
        found[i] = " + ".join(f"{share:.3f} {name}" for name, _, share in table.names(mixture))
    return found


def _outcome(
    columns: Columns,
    total: int,
    settings: EvaluationSettings,
    given: bool,
    stated: float | None = None,
) -> Outcome:
    """Compute the shares.

    Args:
        columns: of all structures that were read.
        total: structures, with those that could not be read.
        settings: the user's.
        given: whether energies came with the structures.
        stated: steps for each structure by the table beside them.
    """
    above, moved = columns["e_above_hull"], columns["relaxation_rmsd"]
    known = np.isfinite(above)
    stable = share(int((above[known] <= 0).sum()), total, n_gen=total)
    metastable = share(int((above[known] <= METASTABLE).sum()), total, n_gen=total)
    note = reliability(columns, total, given)
    counts, _ = np.histogram(np.clip(above[known], BINS[0], BINS[-1] - 1e-9), BINS)
    cost = _cost(metastable, settings.steps_per_sample or stated, total)
    if cost.value is not None:
        printed = f"{cost.value / 1000:.3g} as CrysLDM's Table 1 divides, by the number among 1,000"
        if settings.steps_per_sample is None:
            printed += f"; {stated:.4g} steps for each structure by its samples.csv"
        cost = cost.with_note(printed)
    moved = moved[np.isfinite(moved)]
    return Outcome(
        {
            "stable_rate": stable.with_note(note) if note else stable,
            "metastable_rate": metastable.with_note(note) if note else metastable,
            "stability_cost": cost,
            "rmsd_relaxed": mean(moved, n_gen=len(moved))
            if len(moved)
            else undefined("no structure was relaxed here", total),
        },
        series={"e_above_hull": {"from": BINS[:-1], "to": BINS[1:], "structures": counts}},
    )


def _stated_steps(gen: Sample) -> float | None:
    from crysmetrics.io.samples_table import steps_per_sample

    return None if gen.path is None else steps_per_sample(gen.path)


def reliability(columns: Columns, total: int, given: bool) -> str:
    """Say how far energies above the hull can be trusted.

    Args:
        columns: of `_NUMBERS`, of all structures that were read.
        total: structures, with those that could not be read.
        given: whether energies came with the structures.

    Returns:
        How many have no energy, and how large the hull's errors are, by the number of competing
        phases.
    """
    above, errors, competing = (
        columns[name] for name in ("e_above_hull", "hull_error", "competing_phases")
    )
    known = np.isfinite(above)
    parts = ["by energies above the hull that were given"] if given else []
    if failed := total - int(known.sum()):
        parts.append(f"{failed:,} of {total:,} have no energy and count as not stable")
    known &= np.isfinite(errors)  # energies of other programs come without
    if not known.any():
        return "; ".join(parts)
    outside = known & (errors > 0)
    inside = f"{int((known & ~outside).sum()):,} have a composition of the known phases"
    if not outside.any():
        return "; ".join([*parts, inside])
    sizes = []
    for size in np.unique(errors[outside])[::-1].tolist():
        here = competing[outside & (errors == size)]
        first, last = int(here.min()), int(here.max())
        phases = f"{first}" if first == last else f"{first} to {last}"
        sizes.append(f"{size:.2g} ({len(here):,} with {phases} competing phases)")
    parts.append(
        f"{inside}; for others the hull is too high by a mean of {', '.join(sizes)}, in eV/atom"
    )
    return "; ".join(parts)


def _cost(metastable: Value, steps: float | None, total: int) -> Value:
    if steps is None:
        return undefined("neither --steps-per-sample nor a samples.csv says the steps", total)
    if not metastable.value or metastable.ci95 is None or metastable.stderr is None:
        return undefined("no structure is stable", total)
    low, high = metastable.ci95
    return Value(
        steps / metastable.value,
        steps * metastable.stderr / metastable.value**2,
        (steps / high, steps / low),
        total,
    )


_HULL = "Known phases of the Materials Project"

MEASURE = Measure(
    "stability",
    90,
    (
        Metric(
            "stable_rate",
            "Stable",
            "share",
            "higher",
            f"{_HULL}; at most 0 eV/atom above",
            definition="Share of structures on or below the convex hull of known phases "
            "after relaxation.",
        ),
        Metric(
            *("metastable_rate", "Stable within 0.1 eV/atom", "share", "higher"),
            "CrysLDM, Section 4 (Stability Rate)",
            definition="Share of structures at most 0.1 eV/atom above the convex hull of "
            "known phases after relaxation.",
        ),
        Metric(
            *("stability_cost", "Steps per stable structure", "steps", "lower"),
            "CrysLDM, Section 4 (Stability Cost)",
            definition="Sampling steps that a model spends for each structure within 0.1 "
            "eV/atom of the hull.",
        ),
        Metric(
            *("rmsd_relaxed", "Displacement by relaxation", "Å", "lower"),
            "Zeni et al. 2025 (MatterGen), Figure 2",
            definition="Root of the mean square displacement of atoms by relaxation, on average "
            "over the structures that could be relaxed; shifts of all atoms and strains of the "
            "cell do not count.",
        ),
    ),
    stability,
    roles=("gen",),
    features=("e_above_hull",),
    settings=("steps_per_sample",),
    on_request=True,
    accumulator=StabilityParts,
)
