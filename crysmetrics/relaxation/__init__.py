"""Relaxation of crystals: positions and cell moved downhill until forces are small.

By ASE's BFGS with a potential of `crysmetrics.potentials`, each crystal on its own. What does not
come to an end is said: a crystal that falls apart, runs out of time or of steps is a failure.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from crysmetrics.device import torch_device
from crysmetrics.io import Crystals, Failure
from crysmetrics.io.elements import SYMBOLS
from crysmetrics.io.parsed import one_line
from crysmetrics.parallel import cpu_count, in_processes
from crysmetrics.potentials.base import Potential, ase_atoms
from crysmetrics.potentials.registry import load_potential

METHOD = 4
"""Counts up when relaxations come out differently, so that stored ones are not used."""
ENERGY = "relaxed_energy"
"""Property of relaxed crystals: total energy in eV/atom by the potential, NaN where relaxation
failed."""
CONVERGED = "relaxed_to_end"
"""Property of relaxed crystals: whether the forces left are small."""
TWO_SPINS = (24, 25, 26, 27, 28)
"""Cr, Mn, Fe, Co, Ni: their ions are larger with high spin than with low spin, and both volumes can
be minima. Without dispersion, LiCoO2 relaxed from the larger stays 10 % too large and 0.016 eV/atom
too high."""
COMPRESSED = 0.9
"""Of the volume, from which crystals with such elements are relaxed a second time."""
MOST_PROCESSES, LEAST_OF_PROCESS = 8, 4
"""Processes, which take 0.7 GB each, and crystals that make it worth to begin one."""
LARGEST_CHANGE = 3.0
"""Factor by which the volume of a crystal may change; what swells or shrinks more has fallen
apart."""
LEAST_VOLUME = 2.0
"""Å³ per atom; nothing denser is looked at, as each atom would have thousands of neighbours."""
_TROUBLE = (ValueError, RuntimeError, ArithmeticError, IndexError, np.linalg.LinAlgError)
"""What potentials raise of crystals that they can't handle."""


@dataclass(frozen=True)
class RelaxationSettings:
    """When a relaxation ends.

    Attributes:
        max_force: largest force that is left, in eV/Å (on the cell: per atom of it).
        max_steps: of BFGS.
        time_limit: seconds for one crystal, looked at after every step. The only thing by which
            results can depend on the machine; an ordinary crystal takes a hundredth of it.
        keep_unfinished: whether a crystal that has run out of steps or time keeps the positions,
            cell and energy it has come to (an upper bound) beside its failure, instead of coming
            back as it was.
    """

    max_force: float = 0.03
    max_steps: int = 100
    time_limit: float = 600.0
    keep_unfinished: bool = False


_DEFAULT = RelaxationSettings()


class _End(NamedTuple):
    """Where one run of BFGS ended."""

    crystal: Crystals
    energy: float
    why_unfinished: str | None
    """None if the forces left are small."""


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
) -> Iterator[Crystals]:
    """Relax crystals, each on its own, and yield one after the other.

    Crystals with elements that have high and low spin start from two volumes; the lower energy
    counts. Each comes back with the properties `ENERGY` and `CONVERGED`. One that can't be relaxed
    comes back as it was, its energy NaN, with a failure that says why; see also `settings`.

    Args:
        crystals: B.
        device: `auto`, `cpu` or `cuda`.
        dispersion: whether D3 is added where an element is no metal.
        workers: processes on a CPU; None for all cores, as far as it is worth it.
        potential: a name of `crysmetrics.potentials.registry`.
        settings: when a relaxation ends.

    Raises:
        UserError: if the potential, or what computes dispersion, is not installed.
    """
    identity(potential, dispersion)  # what is missing is said before anything begins
    device = torch_device(device)
    jobs = [(crystals[i], potential, device, dispersion, settings) for i in range(len(crystals))]
    count = min(cpu_count(workers), MOST_PROCESSES, max(1, len(jobs) // LEAST_OF_PROCESS))
    yield from in_processes(_relax_one, jobs, count if device == "cpu" else 1)


def _relax_one(
    crystal: Crystals, name: str, device: str, dispersion: bool, settings: RelaxationSettings
) -> Crystals:
    """See `relax`."""
    potential = _loaded(name, device, dispersion)
    relaxed, energy, converged, reason = crystal, np.nan, False, ""
    try:
        end = _best_end(crystal, potential, settings)
        converged = end.why_unfinished is None
        if not converged:
            reason = f"was not relaxed to the end: {end.why_unfinished}"
        if converged or settings.keep_unfinished:
            relaxed, energy = end.crystal, end.energy
    except _TROUBLE as error:
        reason = f"could not be relaxed: {one_line(error)}"
    return Crystals(
        crystal.atomic_numbers,
        relaxed.frac_coords,
        relaxed.lattices,
        crystal.num_atoms,
        crystal.ids,
        {**crystal.properties, ENERGY: np.array([energy]), CONVERGED: np.array([converged])},
        (Failure(crystal.ids[0], reason),) if reason else (),
    )


@lru_cache(maxsize=8)
def _loaded(name: str, device: str, dispersion: bool) -> Potential:
    return load_potential(name, device, dispersion)


def _best_end(crystal: Crystals, potential: Potential, settings: RelaxationSettings) -> _End:
    """The crystal relaxed as it is, or from a smaller volume where that ends lower.

    Raises:
        ValueError: if it is too dense, has elements that the potential does not know, or falls
            apart.
    """
    volume = float(crystal.volumes[0]) / len(crystal.atomic_numbers)
    if not volume > LEAST_VOLUME:
        raise ValueError(f"it has {volume:.2g} Å³ per atom")
    unknown = potential.unknown_elements(crystal)
    if unknown:
        raise ValueError(f"{potential.title} knows no {SYMBOLS[unknown[0]]}")
    deadline = time.monotonic() + settings.time_limit
    end = _run(crystal, potential, settings, deadline)
    if np.isin(crystal.atomic_numbers, TWO_SPINS).any():
        smaller = replace(crystal, lattices=crystal.lattices * COMPRESSED ** (1 / 3))
        with suppress(*_TROUBLE):
            other = _run(smaller, potential, settings, deadline)
            # An end that is one comes before a lower energy that is on its way.
            end = min(end, other, key=lambda e: (e.why_unfinished is not None, e.energy))
    return end


def _run(
    crystal: Crystals, potential: Potential, settings: RelaxationSettings, deadline: float
) -> _End:
    """One run of BFGS.

    Raises:
        ValueError: if the crystal falls apart.
    """
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    atoms = ase_atoms(crystal)
    atoms.calc = potential.calculator(crystal)
    before = atoms.get_volume()
    optimizer = BFGS(FrechetCellFilter(atoms), logfile=None)
    why: str | None = f"{settings.max_steps} steps were not enough"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for converged in optimizer.irun(fmax=settings.max_force, steps=settings.max_steps):
            change = atoms.get_volume() / before
            if not 1 / LARGEST_CHANGE < change < LARGEST_CHANGE:
                raise ValueError(f"its volume became {change:.2g} times as large")
            if converged:
                why = None
            elif time.monotonic() > deadline:
                why = f"{settings.time_limit:g} s were not enough"
                break
    energy = float(np.asarray(atoms.get_potential_energy()).reshape(-1)[0]) / len(atoms)
    if not np.isfinite(energy):
        raise ValueError("its energy is not a number")
    return _End(
        Crystals(
            crystal.atomic_numbers,
            atoms.get_scaled_positions(wrap=True),
            np.asarray(atoms.cell.array)[None],
            crystal.num_atoms,
            crystal.ids,
        ),
        energy,
        why,
    )
