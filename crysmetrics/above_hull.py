"""Energies above the hull of known phases, of relaxed crystals, by one potential or by several.

Each crystal is relaxed by the first potential, and from there by the next; its total energies
become formation energies on the Materials Project's scale (`potentials.formation`), which are
compared with the hull of known phases of its chemical system (`hull.table`). Energies are those of
the potential without dispersion, as the hull's are of PBE without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.device import torch_device
from crysmetrics.errors import UserError
from crysmetrics.hull import Mixture
from crysmetrics.hull.table import SHIPPED, HullTable, amounts_of, load_hull, reduced
from crysmetrics.io import Crystals
from crysmetrics.parallel import cpu_count, in_processes
from crysmetrics.potentials.formation import element_energies, formation_energies
from crysmetrics.potentials.registry import load_potential
from crysmetrics.progress import task
from crysmetrics.relaxation import (
    ATOMS_TOGETHER,
    ENERGY,
    METHOD,
    RelaxationSettings,
    batches,
    relax_all,
)

_RELAXATION = RelaxationSettings(max_force=0.05, max_steps=200, time_limit=300.0)


@dataclass(frozen=True)
class StabilitySettings:
    """How energies above the hull are found.

    Attributes:
        potentials: names of `crysmetrics.potentials.registry`; the first relaxes first.
        agree: whether the highest energy above the hull of all potentials counts, so that a
            crystal is stable where all say so; otherwise the first one's.
        relax: whether crystals are relaxed before.
        hull: table of known phases; None for the shipped one.
        relaxation: when a relaxation ends.
    """

    potentials: tuple[str, ...] = ("chgnet",)
    agree: bool = False
    relax: bool = True
    hull: Path | None = None
    relaxation: RelaxationSettings = _RELAXATION

    def __post_init__(self) -> None:
        if not self.potentials or len(set(self.potentials)) != len(self.potentials):
            raise UserError("Potentials are named once each, and at least one.")

    def identity(self) -> dict[str, Any]:
        """Say what must be equal for results to be the same.

        Raises:
            UserError: if a potential is not installed, or there is no such table.
        """
        path = self.hull or SHIPPED
        load_hull(path)
        known = [load_potential(name) for name in self.potentials]
        limits = self.relaxation
        return {
            "potentials": [potential.identity() for potential in known],
            "element_energies": [_hash(repr(element_energies(p)).encode()) for p in known],
            "hull_sha256": _file_hash(path, path.stat().st_mtime_ns),
            "agree": self.agree and len(known) > 1,
            "relax": [METHOD, limits.max_force, limits.max_steps] if self.relax else None,
        }


DEFAULT = StabilitySettings()


@dataclass(frozen=True)
class Stability:
    """What is known of B crystals; NaN where something failed, with the reason in `failures`.

    Attributes:
        relaxed: the crystals as the last potential left them.
        formation: potential -> (B,) formation energies in eV/atom.
        hull_energy: (B,) of the known phases, in eV/atom.
        e_above_hull: (B,) in eV/atom; negative below the hull of the known phases.
        competing: (B,) compositions of known phases in the chemical system.
        hull_error: (B,) mean size of the hull's error, in eV/atom, in systems with as many
            competing phases; 0 for compositions that the table has.
        mixtures: of known phases that a crystal would decompose into.
        failures: row -> why there is no energy above the hull.
    """

    relaxed: Crystals
    formation: Mapping[str, NDArray[np.float64]]
    hull_energy: NDArray[np.float64]
    e_above_hull: NDArray[np.float64]
    competing: NDArray[np.int64]
    hull_error: NDArray[np.float64]
    mixtures: tuple[Mixture, ...]
    failures: Mapping[int, str]


def stability(
    crystals: Crystals,
    settings: StabilitySettings = DEFAULT,
    *,
    device: str = "cpu",
    workers: int | None = 1,
) -> Stability:
    """Compute energies above the hull of known phases.

    Args:
        crystals: B, with distinct ids.
        settings: by which potentials, relaxed or not, against which table.
        device: `auto`, `cpu` or `cuda`.
        workers: processes on a CPU; None for all cores.

    Raises:
        UserError: if a potential is not installed, or there is no such table.
        DeadlinePassed: if the relaxation has a deadline.
    """
    settings.identity()  # what is missing is said before anything begins
    device = torch_device(device)
    formation: dict[str, NDArray[np.float64]] = {}
    reasons: dict[int, str] = {}
    now = crystals.with_ids([str(i) for i in range(len(crystals))]).with_failures(())
    for name in settings.potentials:
        potential = load_potential(name)
        if settings.relax:
            now, energies, failed = _relaxed(now, name, device, workers, settings.relaxation)
        else:
            energies, failed = single_points(now, name, device, workers)
        formation[name], more = formation_energies(now, energies, potential)
        reasons = {**more, **failed, **reasons}
    above, hull, competing, errors, mixtures = _against(
        now, formation, load_hull(settings.hull or SHIPPED), settings.agree
    )
    return Stability(
        now.with_ids(crystals.ids), formation, hull, above, competing, errors, mixtures, reasons
    )


def single_points(
    crystals: Crystals, potential: str, device: str = "cpu", workers: int | None = 1
) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Compute total energies (B,) in eV/atom of crystals as they are; reasons where that fails."""
    rows = list(batches(crystals.num_atoms, ATOMS_TOGETHER[device.partition(":")[0]]))
    still = RelaxationSettings(max_steps=0, keep_unfinished=True, fixed_cell=True)
    jobs = [(crystals[part], potential, device, still) for part in rows]
    count = min(cpu_count(workers), len(jobs)) if device == "cpu" else 1
    energies = np.full(len(crystals), np.nan)
    reasons: dict[int, str] = {}
    with task(f"Energies ({potential})", len(crystals)) as advance:
        for part, found in zip(rows, in_processes(_single, jobs, count), strict=True):
            energies[part] = found.properties[ENERGY]
            broken = {f.file: f.reason for f in found.failures}
            for row, name, energy in zip(part.tolist(), found.ids, energies[part], strict=True):
                if not np.isfinite(energy):
                    reasons[row] = broken.get(name, "it has no energy")
            advance(len(part))
    return energies, reasons


def _single(
    crystals: Crystals, potential: str, device: str, settings: RelaxationSettings
) -> Crystals:
    return relax_all(crystals, device, False, 1, potential=potential, settings=settings)


def _relaxed(
    crystals: Crystals,
    potential: str,
    device: str,
    workers: int | None,
    settings: RelaxationSettings,
) -> tuple[Crystals, NDArray[np.float64], dict[int, str]]:
    with task(f"Relaxing ({potential})", len(crystals)) as advance:
        found = relax_all(
            crystals,
            device,
            False,
            workers,
            potential=potential,
            settings=settings,
            on_batch=lambda batch: advance(len(batch)),
        )
    why = {failure.file: failure.reason for failure in found.failures}
    failed = {i: why[name] for i, name in enumerate(found.ids) if name in why}
    return found.with_failures(()), found.properties[ENERGY], failed


def _against(
    crystals: Crystals,
    formation: Mapping[str, NDArray[np.float64]],
    table: HullTable,
    agree: bool,
) -> tuple[
    NDArray[np.float64],
    NDArray[np.float64],
    NDArray[np.int64],
    NDArray[np.float64],
    tuple[Mixture, ...],
]:
    """Compare formation energies with a hull: see `Stability`."""
    compositions = [amounts_of(crystal.atomic_numbers) for crystal in crystals]
    mixtures = tuple(table.hull.mixture(composition) for composition in compositions)
    hull = np.array([mixture.energy for mixture in mixtures]).reshape(len(crystals))
    competing = np.array([table.competing(c) for c in compositions], dtype=np.int64)
    sizes = np.zeros(len(crystals))
    for i, composition in enumerate(compositions):
        if reduced(composition) not in table.known:
            error = table.error(int(competing[i]))
            sizes[i] = np.nan if error is None else error.mean
    by_potential = np.array(list(formation.values())) - hull
    above = by_potential.max(axis=0) if agree else by_potential[0]
    return above, hull, competing, sizes, mixtures


@cache
def _file_hash(path: Path, _: int) -> str:
    return _hash(path.read_bytes())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
