"""From asked compositions to ranked crystals: methods propose, a ranking orders, output describes.

>>> from crysgen import generate                                      # doctest: +SKIP
>>> result = generate(["Li2O"], count=16)                             # doctest: +SKIP
>>> result.table.head()                                               # doctest: +SKIP
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crysgen.compositions.formulas import Formula, parse_formula
from crysgen.methods import Method, build_methods
from crysgen.output import COLUMNS, NothingMadeError, Store
from crysgen.requests import Asked, ask_formulas, digest
from crysgen.settings import Machine, Settings
from crysmetrics.errors import InputError, UserError
from crysmetrics.io import Crystals
from crysmetrics.progress import task

if TYPE_CHECKING:
    import pandas as pd

SHORTEST_DISTANCE = 0.5
"""Å; the limit of structural validity."""
_KEPT = ("method", "prototype_id", "seed")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What a run made.

    Attributes:
        crystals: composition after composition as asked for, the best of each first; ids are
            names of files without suffix.
        table: one row for each, with the columns of `samples.csv`.
        failures: one for each structure that could not be made: `formula`, `ref_id`, `reason`.
        redrawn: draws that were no crystals and were made again.
    """

    crystals: Crystals
    table: pd.DataFrame
    failures: list[dict[str, str]]
    redrawn: int

    def summary(self) -> dict[str, Any]:
        """For the record of the run."""
        return {
            "structures": len(self.crystals),
            "redrawn": self.redrawn,
            "failures": self.failures,
        }


def generate(
    compositions: str | Sequence[str],
    count: int = 16,
    *,
    settings: Settings | None = None,
    machine: Machine | None = None,
) -> Result:
    """Make crystals of some compositions, in memory.

    Args:
        compositions: a formula, or several.
        count: structures of each.
        settings: what decides the result.
        machine: what decides how fast.

    Raises:
        UserError: if a composition or a setting makes no sense.
    """
    settings, machine = settings or Settings(), machine or Machine()
    texts = [compositions] if isinstance(compositions, str) else list(compositions)
    if not texts:
        raise UserError("No composition is given.")
    if count < 1:
        raise UserError(f"At least one structure of each composition must be made, not {count}.")
    formulas = [parse_formula(text) for text in texts]
    asked = ask_formulas(formulas, count, None, settings.max_atoms)
    methods = build_methods(asked, settings, machine)
    for method in methods:
        method.prepare()
    return run(asked, methods, settings, machine, Store())


def request_of(
    asked: Sequence[Asked], methods: Sequence[Method], settings: Settings
) -> dict[str, Any]:
    """What must be equal for an interrupted run to be continued."""
    chosen = settings.to_json()
    chosen.pop("model")  # the same weights may be named in several ways; their hash decides
    return {
        "compositions": {
            "number": len(asked),
            "samples": sum(one.count for one in asked),
            "sha256": digest(asked),
        },
        "settings": chosen,
        "methods": {method.name: method.identity() for method in methods} | _relaxation(settings),
    }


def _relaxation(settings: Settings) -> dict[str, Any]:
    """What relaxes, if anything does.

    Raises:
        UserError: if it is not installed.
    """
    if not settings.relax:
        return {}
    from crysgen.relaxation import identity

    return {"relaxation": identity(settings.dispersion)}


def run(
    asked: Sequence[Asked],
    methods: Sequence[Method],
    settings: Settings,
    machine: Machine,
    store: Store,
) -> Result:
    """Make what is missing in `store`, then rank and describe all; a folder is filled at the end.

    Raises:
        UserError: if not a single crystal could be made.
    """
    from crysmetrics.geometry import min_distances
    from crysmetrics.io.symmetrized import hall_numbers
    from crysmetrics.io.writing import cif_texts

    begun = time.perf_counter()
    propose(methods, store)
    candidates = store.candidates()
    merge = not all(method.is_distribution for method in methods)
    if not len(candidates):
        reason = candidates.failures[0].reason if candidates.failures else "nothing was proposed"
        raise NothingMadeError(f"No crystal could be made: the first {reason}.")
    failures = _failures(candidates, asked, methods)
    redrawn = int(np.sum(candidates.properties["redrawn"]))
    candidates = _symmetric(candidates, settings)
    if settings.relax:
        candidates, unrelaxed = _relaxed(candidates, asked, settings, machine, store, merge)
        failures += unrelaxed
        candidates = _symmetric(candidates, settings)
    distances = min_distances(candidates, machine.workers)
    energies = _energies(candidates, settings, machine)
    order, ranks, scores = ranked(candidates, distances, energies, asked, merge, settings.tolerance)
    chosen = candidates[order].with_ids(_labels(candidates, order, ranks, asked))
    columns = {
        "min_distance": distances[order].round(5),
        "predicted_formation_energy_per_atom": energies[order].round(6),
        "score": scores.round(6),
        "rank": ranks,
    }
    result = Result(chosen, _table(chosen, columns, asked, settings), failures, redrawn)
    record = result.summary() | {"seconds": round(time.perf_counter() - begun, 1)}
    store.finish(cif_texts(chosen, hall_numbers(chosen)), result.table, record)
    return result


def propose(methods: Sequence[Method], store: Store) -> None:
    """Let each method make the candidates that are missing in a store, piece by piece."""
    for method, missing in _missing(methods, store):
        if not missing:
            continue
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


def _relaxed(
    candidates: Crystals,
    asked: Sequence[Asked],
    settings: Settings,
    machine: Machine,
    store: Store,
    merge: bool,
) -> tuple[Crystals, list[dict[str, str]]]:
    """Different candidates of each composition after relaxation, and what could not be relaxed.

    Methods propose more than were asked for, as energies may bring forward what seemed unlikely.
    Those relaxed before the run was interrupted are not relaxed again.
    """
    from crysgen.relaxation import relax
    from crysmetrics.geometry import min_distances

    energies = _energies(candidates, settings, machine)
    distances = min_distances(candidates, machine.workers)
    everything = [replace(one, sizes=((1, len(candidates)),)) for one in asked]
    order, _, _ = ranked(candidates, distances, energies, everything, merge, settings.tolerance)
    chosen = candidates[np.sort(order)]
    done = set(store.relaxed().ids)
    missing = [i for i, name in enumerate(chosen.ids) if name not in done]
    with task("Relaxing (CHGNet)", len(missing)) as advance:
        left = chosen[np.array(missing, dtype=int)]
        for one in relax(left, machine.device, settings.dispersion, machine.workers):
            store.add_relaxed(one)
            advance(1)
    found = store.relaxed()
    position = {name: i for i, name in enumerate(found.ids)}
    result = found[[position[name] for name in chosen.ids]]
    failed = {failure.file: failure.reason for failure in found.failures}
    failures = []
    for name, p in zip(chosen.ids, chosen.properties["asked"], strict=True):
        if name in failed:
            wanted = asked[int(p)]
            failures.append(
                {
                    "formula": wanted.formula.text,
                    "ref_id": wanted.ref_id,
                    "reason": failed[name],
                }
            )
    return result.with_failures(candidates.failures), failures


def ranked(
    candidates: Crystals,
    distances: NDArray[np.float64],
    energies: NDArray[np.float64],
    asked: Sequence[Asked],
    merge: bool,
    tolerance: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The best candidates of each asked composition, as many as it asked for.

    `crysgen.ranking.merge` merges equal structures and says which are likeliest; energies of
    relaxed ones change that (`crysgen.ranking.energy`); crystals with atoms on top of each other
    come last, where no network has learnt anything.

    Args:
        candidates: with the property `asked`.
        distances: (B,) shortest ones in Å.
        energies: (B,) predicted ones in eV/atom; NaN where there is none.
        asked: the compositions.
        merge: keep one of equal structures.
        tolerance: Å within which symmetry is found.

    Returns:
        Rows of the chosen candidates, composition after composition, the rank of each, from 1, and
        its score, NaN for what could not be ranked.
    """
    from crysgen.ranking.energy import boltzmann, complexities, lowest, simplest_first
    from crysgen.ranking.merge import rank
    from crysgen.relaxation import ENERGY

    relaxed = ENERGY in candidates.properties
    position = np.asarray(candidates.properties["asked"], dtype=np.int64)
    scores = np.asarray(candidates.properties["score"], dtype=np.float64)
    if relaxed:
        energies = np.asarray(candidates.properties[ENERGY], dtype=np.float64)
        scores = scores * boltzmann(energies, position)
    drawn = _drawn(candidates)
    rows, ranks, found = [], [], []
    for p, one in enumerate(asked):
        here = np.flatnonzero(position == p)
        here = here[np.lexsort((drawn[here], distances[here] <= SHORTEST_DISTANCE))]
        apart = distances[here] > SHORTEST_DISTANCE
        good = here[apart]
        complexity = complexities(candidates[good], tolerance) if relaxed else None
        shown = None if complexity is None else partial(lowest, energies[good], complexity)
        ranking = rank(candidates[good], scores[good], energies[good], merge=merge, shown=shown)
        best = ranking.order
        if complexity is not None and not one.is_exact:
            # Scores stay with the places: what comes forward is as likely as what it displaces.
            best = best[simplest_first(energies[good][best], complexity[best])]
        best = good[best]
        order = np.concatenate([best, here[~apart]])[: one.count]
        rows.append(order)
        ranks.append(np.arange(1, len(order) + 1))
        informed = np.isfinite(scores[good]).any() or np.isfinite(energies[good]).any()
        given = ranking.scores if informed else np.full(len(ranking.scores), np.nan)
        none = np.full(max(0, len(order) - len(given)), np.nan)
        found.append(np.concatenate([given, none])[: len(order)])
    return np.concatenate(rows), np.concatenate(ranks), np.concatenate(found)


def _drawn(candidates: Crystals) -> NDArray[np.int64]:
    """Where each candidate stands among all as they were asked for: pieces come by size."""
    names = [name.partition("/")[0].rpartition("-")[2] for name in candidates.ids]
    return np.array([int(n) if n.isdigit() else 0 for n in names], dtype=np.int64)


def _symmetric(candidates: Crystals, settings: Settings) -> Crystals:
    """With exact symmetry and only of the wanted space group, as far as either is asked for.

    Done before relaxation, which is for those that are wanted, and after it.

    Raises:
        UserError: if none has.
    """
    if not settings.makes_symmetric:
        return candidates
    from crysmetrics.io.symmetrized import symmetrized

    candidates = symmetrized(candidates, settings.tolerance)
    if settings.space_group is None:
        return candidates
    kept = _space_groups(candidates, settings) == settings.space_group
    if not kept.any():
        raise NothingMadeError(
            f"None of {len(candidates)} candidates has space group {settings.space_group}."
        )
    return candidates[kept].with_failures(candidates.failures)


def _space_groups(crystals: Crystals, settings: Settings) -> NDArray[np.int64]:
    """(B,) numbers: those that files state, or found within the tolerance where they are in P1."""
    from crysmetrics.io.symmetrized import hall_numbers
    from crysmetrics.symmetry import setting_of, space_groups

    if settings.makes_symmetric:
        numbers = [setting_of(hall).space_group for hall in hall_numbers(crystals)]
        return np.array(numbers, dtype=np.int64)
    return space_groups(crystals, settings.tolerance)


def _failures(
    candidates: Crystals, asked: Sequence[Asked], methods: Sequence[Method]
) -> list[dict[str, str]]:
    """What could not be made, in words, of compositions that have fewer candidates than asked."""
    found = []
    made = np.bincount(np.asarray(candidates.properties["asked"], dtype=int), minlength=len(asked))
    for failure in candidates.failures:
        name, _, piece = failure.file.partition("-")
        method = next(m for m in methods if m.name == name)
        position = method.asked_of(piece)
        one = asked[position]
        if made[position] >= one.count:
            continue
        found.append({"formula": one.formula.text, "ref_id": one.ref_id, "reason": failure.reason})
    return found


def _energies(candidates: Crystals, settings: Settings, machine: Machine) -> NDArray[np.float64]:
    """(B,) predicted formation energies in eV/atom; NaN where there is none, or none is wanted."""
    if not settings.energies:
        return np.full(len(candidates), np.nan)
    from crysmetrics.features.cache import open_cache
    from crysmetrics.features.extractor import Run
    from crysmetrics.features.sample import Sample
    from crysmetrics.metrics.alignn import energies

    how = Run(workers=machine.workers, cache=open_cache(machine.cache), device=machine.device)
    sample = Sample(candidates, "gen", run=how)
    values = energies(sample)
    for name, reason in sample.failed_features():
        log.info("no energy of %s: %s", name, reason)
    return values


def _labels(
    candidates: Crystals,
    order: NDArray[np.int64],
    ranks: NDArray[np.int64],
    asked: Sequence[Asked],
) -> list[str]:
    """Names for files: `Li2O_0001`, the best first; just the id, if one of a structure is asked."""
    position = candidates.properties["asked"][order]
    return [
        one.label if one.ref_id and one.count == 1 else f"{one.label}_{rank:04d}"
        for one, rank in ((asked[int(p)], rank) for p, rank in zip(position, ranks, strict=True))
    ]


def _table(
    crystals: Crystals, columns: Mapping[str, Any], asked: Sequence[Asked], settings: Settings
) -> pd.DataFrame:
    """The rows of `samples.csv`; they describe the files as they are written."""
    import pandas as pd

    from crysmetrics.io.writing import file_names
    from crysmetrics.metrics.emd import densities

    position = [int(p) for p in crystals.properties["asked"]]
    found = {
        "file": file_names(crystals.ids),
        "formula": [Formula.of_atoms(c.atomic_numbers).reduced.text for c in crystals],
        "num_atoms": crystals.num_atoms,
        "space_group": _space_groups(crystals, settings),
        "density": densities(crystals).round(5),
        "volume_per_atom": (crystals.volumes / crystals.num_atoms).round(5),
        "ref_id": [asked[p].ref_id for p in position],
        **{name: crystals.properties[name] for name in _KEPT},
        **columns,
    }
    return pd.DataFrame({name: found[name] for name in COLUMNS})
