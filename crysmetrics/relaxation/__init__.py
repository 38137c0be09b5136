"""Relaxation of crystals: positions and cell moved downhill until forces are small.

By BFGS with a potential of `crysmetrics.potentials`, some crystals of similar size at a time. What
does not come to an end is said: a crystal that falls apart, hangs, or runs out of time or of steps
is a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.device import torch_device
from crysmetrics.io import Crystals, Failure
from crysmetrics.io.elements import SYMBOLS
from crysmetrics.parallel import cpu_count, in_processes
from crysmetrics.potentials.base import Potential
from crysmetrics.potentials.registry import load_potential
from crysmetrics.relaxation.descent import DeadlinePassed as DeadlinePassed
from crysmetrics.relaxation.descent import End, RelaxationSettings, descend

METHOD = 5
"""Counts up when relaxations come out differently, so that stored ones are not used."""
ENERGY = "relaxed_energy"
"""Property of relaxed crystals: total energy in eV/atom by the potential, NaN where relaxation
failed."""
START_ENERGY = "unrelaxed_energy"
"""Property of relaxed crystals: total energy in eV/atom before the first step."""
CONVERGED = "relaxed_to_end"
"""Property of relaxed crystals: whether the forces left are small."""
STEPS = "relaxation_steps"
"""Property of relaxed crystals: steps to where they are now."""
RMSD = "relaxation_rmsd"
"""Property of relaxed crystals: see `displacement`; NaN where relaxation failed."""
TWO_SPINS = (24, 25, 26, 27, 28)
"""Cr, Mn, Fe, Co, Ni: their ions are larger with high spin than with low spin, and both volumes can
be minima. Without dispersion, LiCoO2 relaxed from the larger stays 10 % too large and 0.016 eV/atom
too high."""
COMPRESSED = 0.9
"""Of the volume, from which crystals with such elements are relaxed a second time."""
MOST_PROCESSES = 8
"""Processes, which take 0.7 GB each."""
ATOMS_TOGETHER = {"cpu": 64, "cuda": 8192}
"""Atoms of a batch, on a CPU and on a GPU; a larger crystal is a batch by itself."""
LEAST_VOLUME = 2.0
"""Å³ per atom; nothing denser is looked at, as each atom would have thousands of neighbours."""

_DEFAULT = RelaxationSettings()


def identity(potential: str = "chgnet", dispersion: bool = True) -> dict[str, str | int]:
    """Say which weights, which dispersion and which way to relax these are; cheap.

    Raises:
        UserError: if the potential, or what computes dispersion, is not installed.
    """
    weights = load_potential(potential, dispersion=dispersion).identity()
    return {"dispersion": "none", **weights, "method": METHOD}


def relax(
    crystals: Crystals,
    device: str = "cpu",
    dispersion: bool = True,
    workers: int | None = 1,
    *,
    potential: str = "chgnet",
    settings: RelaxationSettings = _DEFAULT,
    done: Collection[str] = (),
) -> Iterator[Crystals]:
    """Relax crystals, and yield each batch as it is done, each crystal under its id.

    Crystals with elements that have high and low spin start from two volumes; the lower energy
    counts. Each comes back with the properties `ENERGY`, `START_ENERGY`, `CONVERGED`, `STEPS` and
    `RMSD`. One that can't be relaxed comes back as it was, its energy NaN, with a failure that says
    why; see also `settings`.

    Args:
        crystals: B, with distinct ids.
        device: `auto`, `cpu` or `cuda`.
        dispersion: whether D3 is added where an element is no metal.
        workers: processes on a CPU; None for all cores, as far as it is worth it.
        potential: a name of `crysmetrics.potentials.registry`.
        settings: when a relaxation ends.
        done: ids of batches that were yielded before, and are not made again. Batches depend on
            `crystals` alone, so results are the same however often the work was interrupted.

    Raises:
        UserError: if the potential, or what computes dispersion, is not installed.
        DeadlinePassed: if the settings have a deadline; batches done before it are yielded.
    """
    identity(potential, dispersion)  # what is missing is said before anything begins
    device = torch_device(device)
    jobs = [
        (crystals[rows], potential, device, dispersion, settings)
        for rows in batches(crystals.num_atoms, ATOMS_TOGETHER[device.partition(":")[0]])
        if not all(crystals.ids[row] in done for row in rows)
    ]
    count = min(cpu_count(workers), MOST_PROCESSES, len(jobs))
    count = count if device == "cpu" else 1
    yield from in_processes(_relax_together, jobs, count, in_order=False)


def relax_all(
    crystals: Crystals,
    *args: Any,
    on_batch: Callable[[Crystals], object] = lambda _: None,
    **options: Any,
) -> Crystals:
    """Relax crystals; returns them in their order. Other arguments are those of `relax`.

    Args:
        on_batch: called with each batch as it is done.
    """
    made = [Crystals.empty()]
    for batch in relax(crystals, *args, **options):
        made.append(batch)
        on_batch(batch)
    found = Crystals.concatenate(made[1:] or made)
    row = {name: i for i, name in enumerate(found.ids)}
    place = {name: i for i, name in enumerate(crystals.ids)}
    failures = sorted(found.failures, key=lambda failure: place[failure.file])
    return found[[row[name] for name in crystals.ids]].with_failures(failures)


def batches(num_atoms: NDArray[np.int64], most: int) -> Iterator[NDArray[np.int64]]:
    """Divide crystals (B,) into batches of similar size: rows, small cells first.

    Args:
        num_atoms: (B,) of each.
        most: atoms of a batch, unless one crystal alone has more.
    """
    order = np.argsort(num_atoms, kind="stable")
    start = 0
    for stop in range(1, len(order) + 1):
        full = stop == len(order) or num_atoms[order[start : stop + 1]].sum() > most
        if full:
            yield order[start:stop]
            start = stop


def displacement(start: Crystals, end: Crystals) -> float:
    """Compute how far (Å) atoms moved in a cell of one crystal: the root of the mean square.

    Displacements are those of fractional coordinates to the nearest image, without their mean,
    in the cell of the end: a crystal that only swells, or is shifted as a whole, has none.
    """
    moved = end.frac_coords - start.frac_coords
    moved -= moved[0]
    moved -= np.round(moved)
    moved -= moved.mean(axis=0)
    cart = moved @ end.lattices[0]
    return float(np.sqrt((cart**2).sum(axis=1).mean()))


def _relax_together(
    crystals: Crystals, name: str, device: str, dispersion: bool, settings: RelaxationSettings
) -> Crystals:
    """Relax one batch, see `relax`."""
    potential = _loaded(name, device, dispersion)
    reasons = [_refused(crystal, potential) for crystal in crystals]
    starts = [crystals[i] for i, reason in enumerate(reasons) if reason is None]
    ends = iter(_best_ends(starts, potential, settings))
    made = [
        _result(crystal, End(crystal, why_broken=reason) if reason else next(ends), settings)
        for crystal, reason in zip(crystals, reasons, strict=True)
    ]
    return Crystals.concatenate(made)


@lru_cache(maxsize=8)
def _loaded(name: str, device: str, dispersion: bool) -> Potential:
    return load_potential(name, device, dispersion)


def _refused(crystal: Crystals, potential: Potential) -> str | None:
    """Say why a crystal is not given to a potential; None if it is."""
    volume = float(crystal.volumes[0]) / len(crystal.atomic_numbers)
    if not volume > LEAST_VOLUME:
        return f"it has {volume:.2g} Å³ per atom"
    unknown = potential.unknown_elements(crystal)
    return f"{potential.title} knows no {SYMBOLS[unknown[0]]}" if unknown else None


def _best_ends(
    crystals: list[Crystals], potential: Potential, settings: RelaxationSettings
) -> list[End]:
    """Relax crystals as they are, or from a smaller volume where that ends lower."""
    twice = [
        i
        for i, crystal in enumerate(crystals)
        if settings.two_volumes
        and not settings.fixed_cell
        and np.isin(crystal.atomic_numbers, TWO_SPINS).any()
    ]
    shrunk = [
        replace(crystals[i], lattices=crystals[i].lattices * COMPRESSED ** (1 / 3)) for i in twice
    ]
    found = descend([*crystals, *shrunk], potential, settings)
    ends = found[: len(crystals)]
    for i, other in zip(twice, found[len(crystals) :], strict=True):
        if ends[i].why_broken is None and other.why_broken is None:
            # An end that is one comes before a lower energy that is on its way.
            best = min(ends[i], other, key=lambda e: (e.why_unfinished is not None, e.energy))
            ends[i] = replace(best, start_energy=ends[i].start_energy)
    return ends


def _result(crystal: Crystals, end: End, settings: RelaxationSettings) -> Crystals:
    reason = ""
    if end.why_broken is not None:
        reason = f"could not be relaxed: {end.why_broken}"
    elif end.why_unfinished is not None:
        reason = f"was not relaxed to the end: {end.why_unfinished}"
    kept = not reason or (end.why_broken is None and settings.keep_unfinished)
    relaxed = end.crystal if kept else crystal
    properties = {
        ENERGY: end.energy if kept else np.nan,
        START_ENERGY: end.start_energy,
        CONVERGED: not reason,
        STEPS: end.steps,
        RMSD: displacement(crystal, relaxed) if kept else np.nan,
    }
    return Crystals(
        crystal.atomic_numbers,
        relaxed.frac_coords,
        relaxed.lattices,
        crystal.num_atoms,
        crystal.ids,
        {**crystal.properties, **{k: np.array([v]) for k, v in properties.items()}},
        (Failure(crystal.ids[0], reason),) if reason else (),
    )
