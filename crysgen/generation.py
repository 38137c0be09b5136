"""From requests to ranked crystals: propose, relax, rank, describe.

>>> from crysgen import generate                                      # doctest: +SKIP
>>> result = generate("Li2O", count=16)                               # doctest: +SKIP
>>> result.table.head()                                               # doctest: +SKIP
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from crysgen.compositions.formulas import parse_formula
from crysgen.output import NothingMadeError, Store
from crysgen.proposers.base import Method, build_methods
from crysgen.requests import CompositionRequest, ask_formulas
from crysgen.settings import Resources, SamplingSettings
from crysmetrics.errors import InputError, UserError
from crysmetrics.io import Crystals
from crysmetrics.progress import task

if TYPE_CHECKING:
    from crysgen.ranking.selection import Selection
    from crysgen.samples import Result


SURE = 0.9
"""Probability of the first structure from which on `--relax auto` relaxes none."""


def generate(
    compositions: str | Sequence[str],
    count: int = 16,
    *,
    settings: SamplingSettings | None = None,
    resources: Resources | None = None,
) -> Result:
    """Generate crystals of some compositions, in memory.

    Args:
        compositions: a formula, or several.
        count: structures of each.
        settings: what decides the result.
        resources: what decides how fast.

    Raises:
        UserError: if a composition or a setting makes no sense, or nothing can be made.
    """
    settings, resources = settings or SamplingSettings(), resources or Resources()
    texts = [compositions] if isinstance(compositions, str) else list(compositions)
    if not texts:
        raise UserError("No composition is given.")
    if count < 1:
        raise UserError(f"At least one structure of each composition must be made, not {count}.")
    formulas = [parse_formula(text) for text in texts]
    requests = ask_formulas(formulas, count, None, settings.max_atoms)
    methods = build_methods(requests, settings, resources)
    for method in methods:
        method.prepare()
    return run(requests, methods, settings, resources, Store())


def run(
    requests: Sequence[CompositionRequest],
    methods: Sequence[Method],
    settings: SamplingSettings,
    resources: Resources,
    store: Store,
) -> Result:
    """Make what is missing in a store, rank and describe everything, and finish the store.

    Raises:
        NothingMadeError: if not a single crystal could be made.
    """
    from crysgen.ranking.relaxing import known_as_published
    from crysgen.result_notes import notes_on_compositions, notes_on_numbers
    from crysgen.samples import RELAXED_TOLERANCE, Result, describe, symmetric
    from crysmetrics.geometry import min_distances

    begun = time.perf_counter()
    propose(methods, store)
    candidates = store.candidates()
    if not len(candidates):
        reason = candidates.failures[0].reason if candidates.failures else "nothing was proposed"
        first = "the first reason is that " * (len(requests) > 1)
        raise NothingMadeError(f"No crystal could be made: {first}{reason}.")
    failures = _failures(candidates, requests, methods)
    redrawn = int(np.sum(candidates.properties["redrawn"]))
    merge = not all(method.is_distribution for method in methods)
    number_made = len(candidates)
    # Before relaxation, so that only wanted crystals are relaxed, and after it.
    candidates = symmetric(candidates, _before_relaxation(settings))
    if settings.relax:
        published = candidates
        relaxed, unrelaxed = relax(candidates, requests, settings, resources, store, merge)
        candidates = symmetric(relaxed, settings, RELAXED_TOLERANCE)
        failures += unrelaxed
    selection = rank(candidates, requests, settings, resources, merge)
    if settings.relax:
        candidates = known_as_published(candidates, published)
        distances = min_distances(candidates[selection.rows], resources.workers)
        selection = replace(selection, distances=distances)
    crystals, table = describe(candidates, selection, requests, settings)
    notes = (
        *notes_on_compositions(requests),
        *notes_on_numbers(requests, settings, number_made, len(candidates), crystals, failures),
    )
    result = Result(crystals, table, failures, redrawn, notes)
    store.finish(result, settings, time.perf_counter() - begun)
    return result


def _before_relaxation(settings: SamplingSettings) -> SamplingSettings:
    """Return the settings by which candidates are made symmetric before any relaxation.

    No crystal relaxes out of a symmetry that it has exactly: of 64 samples of `gemsdiff-mp-v3` a
    sixth ends more than 0.02 eV/atom higher if it was made symmetric first.
    """
    if settings.relax and settings.space_group is None and not settings.standard_cells:
        return replace(settings, symmetrize=False)
    return settings


def propose(methods: Sequence[Method], store: Store) -> None:
    """Let each method make the candidates that are missing in a store, piece by piece."""
    for method, missing in _missing(methods, store):
        if not missing:
            continue
        method.unfinished = store.unfinished(method.name)
        with task(f"Sampling ({method.name})", method.total(missing)) as advance:
            for crystals in method.run(missing, advance):
                store.add(method.name, crystals)


def pieces_done(methods: Sequence[Method], store: Store) -> tuple[int, int]:
    """Count the pieces of work in a store, and all that are known so far.

    A method that plans by the candidates of another is counted when those are complete.
    """
    total = left = 0
    for method, missing in _missing(methods, store):
        total += len(method.pieces())
        left += len(missing)
        if missing:
            break
    return total - left, total


def _missing(methods: Sequence[Method], store: Store) -> Iterator[tuple[Method, list[str]]]:
    """Plan each method in turn, and list those of its pieces that are not in the store."""
    for number, method in enumerate(methods):
        method.plan(store.candidates({earlier.name for earlier in methods[:number]}))
        names = {f"{method.name}-{piece}": piece for piece in method.pieces()}
        done = {name for name in store.done if name.startswith(f"{method.name}-")}
        if not done <= names.keys():
            foreign = min(done - names.keys())
            raise InputError(f"The run is damaged: it holds {foreign}, which was never asked for.")
        yield method, [piece for name, piece in names.items() if name not in done]


def relax(
    candidates: Crystals,
    requests: Sequence[CompositionRequest],
    settings: SamplingSettings,
    resources: Resources,
    store: Store,
    merge: bool,
) -> tuple[Crystals, list[dict[str, str]]]:
    """Relax different candidates of the compositions that need it; returns all, and failures."""
    from crysgen.ranking.relaxing import relaxed, unrelaxed

    # Methods propose more than is asked for: energies bring forward what seemed unlikely.
    everything = [replace(request, sizes=((1, len(candidates)),)) for request in requests]
    selection = rank(candidates, everything, settings, resources, merge)
    different = candidates[np.sort(selection.rows)].with_failures(())
    position = np.asarray(different.properties["request"], dtype=np.int64)
    wanted = np.ones(len(different), dtype=bool)
    if settings.unsure_only:
        first = selection.rows[(selection.ranks == 1) & (selection.probabilities >= SURE)]
        wanted = ~np.isin(position, candidates.properties["request"][first])
    made, reasons = relaxed(different[wanted], settings, resources, store)
    failures = [_failure(requests[position[wanted][row]], reason) for row, reason in reasons]
    together = Crystals.concatenate([unrelaxed(different[~wanted]), made])
    row = {name: i for i, name in enumerate(together.ids)}
    found = together[[row[name] for name in different.ids]]
    return found.with_failures(candidates.failures), failures


def rank(
    candidates: Crystals,
    requests: Sequence[CompositionRequest],
    settings: SamplingSettings,
    resources: Resources,
    merge: bool,
) -> Selection:
    """Measure candidates and select the best of each request; equal ones merged if `merge`."""
    from crysgen.ranking.selection import select
    from crysgen.samples import formation_energies
    from crysmetrics.geometry import min_distances

    distances = min_distances(candidates, resources.workers)
    energies = formation_energies(candidates, settings, resources)
    return select(candidates, distances, energies, requests, merge, settings.tolerance)


def _failures(
    candidates: Crystals, requests: Sequence[CompositionRequest], methods: Sequence[Method]
) -> list[dict[str, str]]:
    """Say what could not be made of requests that have fewer candidates than they ask for."""
    by_name = {method.name: method for method in methods}
    made = np.bincount(
        np.asarray(candidates.properties["request"], dtype=int), minlength=len(requests)
    )
    found = []
    for failure in candidates.failures:
        name, _, piece = failure.file.partition("-")
        position = by_name[name].request_of(piece)
        if made[position] < requests[position].count:
            found.append(_failure(requests[position], failure.reason))
    return found


def _failure(request: CompositionRequest, reason: str) -> dict[str, str]:
    return {
        "formula": request.formula.text or request.label,
        "ref_id": request.ref_id,
        "reason": reason,
    }
