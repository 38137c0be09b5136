"""S.U.N.: how many generated structures are stable, unique and novel at once, and symmetric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.sample import Sample
from crysmetrics.io.energies import ENERGY
from crysmetrics.metrics.base import Measure, Metric, Outcome, Value, undefined
from crysmetrics.metrics.intervals import share
from crysmetrics.metrics.sameness import groups, known_crystals
from crysmetrics.metrics.settings import EvaluationSettings

STABLE, METASTABLE = 0.0, 0.1
"""eV/atom above the hull at which a structure still counts as (meta)stable."""
_ROUNDING = 1e-6
"""eV/atom within which an energy is on the hull."""

_MATTERGEN = "Zeni et al. 2025 (MatterGen)"


def sun(gen: Sample, train: Sample, settings: EvaluationSettings) -> Outcome:
    """Shares of structures that are stable, unique, novel and symmetric at once.

    Stable is what lies on the convex hull (e_above_hull <= 0), metastable what lies at most 0.1
    eV/atom above it (MatterGen's S.U.N. is msun here); unique and novel as those metrics say,
    symmetric what is above P1 within 0.1 Å. Of structures that are the same crystal, one counts
    where uniqueness is asked for, if any of them is all the rest. Energies are those of
    --energies, or of the property e_above_hull of GEN; a structure without one counts as not
    stable. All structures are the denominator, those that can't be read among them.
    """
    total, known = gen.crystals.num_total, len(train)
    labels = groups(gen, settings.tolerances)
    comparable = labels >= 0
    has: dict[str, NDArray[Any]] = {
        "novel": comparable & (known_crystals(gen, train, settings.tolerances) < 0),
        "symmetric": gen.features("space_group").values[:, 0] > 1,
    }
    energies = _energies(gen)
    if energies is not None:
        has["stable"] = energies <= STABLE + _ROUNDING
        has["metastable"] = energies <= METASTABLE + _ROUNDING
    values: dict[str, Value] = {}
    for key, parts in COMBINATIONS.items():
        if any(part not in has for part in parts if part != "unique"):
            values[key] = undefined(
                "GEN has no energies above the hull; crysmetrics stability computes them, and "
                "--energies reads them",
                total,
                known,
            )
            continue
        chosen = np.logical_and.reduce([comparable, *(has[p] for p in parts if p != "unique")])
        count = len(np.unique(labels[chosen])) if "unique" in parts else int(chosen.sum())
        values[key] = share(count, total, total, known)
    columns = dict(has)
    if energies is not None:
        columns[ENERGY] = energies
    return Outcome(values, columns, failures=tuple(_without_energy(gen, energies)))


def _energies(gen: Sample) -> NDArray[np.float64] | None:
    """(B,) eV/atom above the hull, NaN where there is none; None if no structure has one."""
    found = gen.crystals.properties.get(ENERGY)
    if found is None or found.dtype.kind not in "fiu":
        return None
    energies = found.astype(np.float64)
    return energies if np.isfinite(energies).any() else None


def _without_energy(
    gen: Sample, energies: NDArray[np.float64] | None
) -> Iterator[Mapping[str, str]]:
    if energies is not None:
        for i in np.flatnonzero(~np.isfinite(energies)):
            reason = "has no energy above the hull, and counts as not stable"
            yield {"input": "gen", "file": gen.crystals.ids[i], "reason": reason}


def _combinations() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Keys, and what is asked for, of all combinations of two and more."""
    for stability, others in product(
        ((), ("stable",), ("metastable",)), product((False, True), repeat=3)
    ):
        names = ("unique", "novel", "symmetric")
        parts = (*stability, *(n for n, is_in in zip(names, others, strict=True) if is_in))
        if len(parts) > 1:
            yield "_".join(parts), parts


def _short(key: str) -> str:
    """The field's own names where it has any."""
    return key.replace("metastable_unique_novel", "msun").replace("stable_unique_novel", "sun")


COMBINATIONS = {_short(key): parts for key, parts in _combinations()}
"""Key -> what a structure has to be."""


def _label(parts: tuple[str, ...]) -> str:
    return ", ".join(parts[:-1]).capitalize() + f" and {parts[-1]}"


MEASURE = Measure(
    "sun",
    78,
    tuple(
        Metric(
            *(key, _label(parts), "share", "higher", _MATTERGEN),
            biased="unique" in parts,
            gated=key == "msun",
        )
        for key, parts in COMBINATIONS.items()
    ),
    sun,
    roles=("gen", "train"),
    features=("space_group", "amd"),
    settings=("tolerances",),
)
