"""S.U.N.: how many generated structures are stable, unique and novel at once, and symmetric."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.e_above_hull import are_given, use_given
from crysmetrics.features.sample import Sample
from crysmetrics.io.energies import ENERGY
from crysmetrics.metrics.base import Measure, Metric, Outcome, Value, undefined
from crysmetrics.metrics.intervals import share
from crysmetrics.metrics.sameness import groups, known_crystals
from crysmetrics.metrics.settings import EvaluationSettings
from crysmetrics.metrics.stability import METASTABLE, reliability

STABLE = 0.0
"""eV/atom above the hull at which a structure still counts as stable."""

_MATTERGEN = "Zeni et al. 2025 (MatterGen)"


def sun(gen: Sample, train: Sample, settings: EvaluationSettings) -> Outcome:
    """Compute the shares of structures that are stable, unique, novel and symmetric at once.

    Stable structures lie on the convex hull (e_above_hull <= 0), metastable ones at most 0.1
    eV/atom above it (MatterGen's S.U.N. is msun here). Unique and novel are as in those metrics;
    symmetric structures have a space group above P1 within 0.1 Å. Of several structures that are
    the same crystal, one counts as unique, if any of them has the other properties. Energies are
    those of --energies, of --potential, or of the property e_above_hull of GEN; a structure
    without one counts as not stable. Shares are of all structures, also those that can't be read.
    """
    total, known = gen.crystals.num_total, len(train)
    labels = groups(gen, settings.tolerances)
    comparable = labels >= 0
    has: dict[str, NDArray[Any]] = {
        "novel": comparable & (known_crystals(gen, train, settings.tolerances) < 0),
        "symmetric": gen.features("space_group").values[:, 0] > 1,
    }
    columns: dict[str, NDArray[Any]] = {}
    note = ""
    if has_energies(gen):
        found = gen.features(ENERGY).values.T
        named = dict(zip(gen.extractors[ENERGY].labels, found, strict=True))
        note = reliability(named, total, are_given(gen))
        energies = columns[ENERGY] = named[ENERGY]
        has["stable"] = energies <= STABLE
        has["metastable"] = energies <= METASTABLE
    values: dict[str, Value] = {}
    for key, parts in COMBINATIONS.items():
        if any(part not in has for part in parts if part != "unique"):
            values[key] = undefined(
                "GEN has no energies above the hull; crysmetrics stability --per-structure writes "
                "them, and --energies reads them",
                total,
                known,
            )
            continue
        chosen = np.logical_and.reduce([comparable, *(has[p] for p in parts if p != "unique")])
        count = len(np.unique(labels[chosen])) if "unique" in parts else int(chosen.sum())
        values[key] = share(count, total, total, known)
        if note and key in ("sun", "msun"):
            values[key] = values[key].with_note(note)
    return Outcome(values, {**has, **columns})


def has_energies(gen: Sample) -> bool:
    """Tell whether energies above the hull are given, or a potential to compute them with is."""
    return gen.has_features(ENERGY) or gen.run.stability is not None or use_given(gen)


def without_energies() -> tuple[str, ...]:
    """List the keys of what can't be said without energies, but for `sun` and `msun`."""
    asks = ("stable", "metastable")
    return tuple(
        key
        for key, parts in COMBINATIONS.items()
        if parts[0] in asks and key not in ("sun", "msun")
    )


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


_MEANS = {
    "stable": "lie on or below the hull of known phases",
    "metastable": "lie at most 0.1 eV/atom above the hull of known phases",
    "unique": "differ from all earlier ones in the set",
    "novel": "differ from all of the training set",
    "symmetric": "have a space group above P1",
}


def _listed(phrases: list[str]) -> str:
    """Join phrases to a list with `and` before the last."""
    *others, last = phrases
    return f"{', '.join(others)} and {last}" if others else last


MEASURE = Measure(
    "sun",
    91,  # after stability, whose energies it takes
    tuple(
        Metric(
            *(key, _label(parts), "share", "higher", _MATTERGEN),
            biased="unique" in parts,
            gated=key == "msun",
            definition=f"Share of structures that {_listed([_MEANS[p] for p in parts])}.",
        )
        for key, parts in COMBINATIONS.items()
    ),
    sun,
    roles=("gen", "train"),
    features=("space_group", "amd"),
    settings=("tolerances",),
)
