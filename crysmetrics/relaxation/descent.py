"""Batched descent: every crystal by its own BFGS, energies and forces of all in one call.

The optimizer and the treatment of the cell are ASE's (`BFGS`, `FrechetCellFilter`), so that steps
are those that ASE takes with one crystal alone.
"""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.geometry import min_distances
from crysmetrics.io import Crystals
from crysmetrics.io.parsed import one_line
from crysmetrics.potentials.base import Potential, Prediction, ase_atoms

LARGEST_CHANGE = 3.0
"""Factor by which the volume of a crystal may change; what swells or shrinks more has fallen
apart."""
LEAST_DISTANCE = 0.5
"""Å between atoms at the end of a relaxation."""
TROUBLE = (
    *(ValueError, RuntimeError, ArithmeticError, IndexError, TimeoutError),
    np.linalg.LinAlgError,
)
"""What potentials raise of crystals that they can't handle."""


@dataclass(frozen=True)
class RelaxationSettings:
    """When a relaxation ends.

    Attributes:
        max_force: largest force that is left, in eV/Å (on the cell: per atom of it).
        max_steps: of BFGS.
        time_limit: seconds for one crystal: its share, by atoms, of the time that its batch takes.
            The only thing by which results can depend on the machine; an ordinary crystal takes a
            hundredth of it.
        keep_unfinished: whether a crystal that has run out of steps or time keeps the positions,
            cell and energy it has come to (an upper bound) beside its failure, instead of coming
            back as it was.
        fixed_cell: whether the cell stays as it is.
        two_volumes: whether crystals with elements that have high and low spin start from two
            volumes.
        deadline: time (as `time.time`) at which everything that is not finished is given up.
    """

    max_force: float = 0.03
    max_steps: int = 100
    time_limit: float = 600.0
    keep_unfinished: bool = False
    fixed_cell: bool = False
    two_volumes: bool = True
    deadline: float | None = None


class DeadlinePassed(Exception):
    """A relaxation was not finished at its deadline, and is given up."""


@dataclass(frozen=True)
class End:
    """Where one run of BFGS ended.

    Attributes:
        crystal: positions and cell then.
        energy: in eV/atom; NaN if the run broke off.
        start_energy: in eV/atom; NaN if there is none.
        steps: that were taken.
        why_unfinished: None if the forces left are small.
        why_broken: reason if the crystal can't be relaxed at all.
    """

    crystal: Crystals
    energy: float = float("nan")
    start_energy: float = float("nan")
    steps: int = 0
    why_unfinished: str | None = None
    why_broken: str | None = None


def descend(
    crystals: Sequence[Crystals], potential: Potential, settings: RelaxationSettings
) -> list[End]:
    """Relax some crystals together; each comes to its own end.

    Raises:
        DeadlinePassed: at the deadline, if there is one.
    """
    runs = [_Run(crystal, settings) for crystal in crystals]
    while active := [run for run in runs if run.end is None]:
        if settings.deadline is not None and time.time() >= settings.deadline:
            raise DeadlinePassed
        for run, found in zip(active, _predict(active, potential, settings), strict=True):
            run.take(found)
    return [run.end for run in runs if run.end is not None]


class _Run:
    """One crystal on its way."""

    def __init__(self, crystal: Crystals, settings: RelaxationSettings) -> None:
        from ase.optimize import BFGS

        self.start, self.settings = crystal, settings
        self.atoms = ase_atoms(crystal)
        self.volume = self.atoms.get_volume()
        # For ASE, the cell's forces are compared with those on atoms.
        self.moved = self.atoms if settings.fixed_cell else _cell_filter()(self.atoms)
        self.optimizer = BFGS(self.moved, logfile=None)
        self.steps, self.seconds = 0, 0.0
        self.energy = self.start_energy = float("nan")
        self.end: End | None = None

    def crystal(self) -> Crystals:
        """Return the crystal as it is now."""
        return Crystals(
            self.start.atomic_numbers,
            self.atoms.get_scaled_positions(wrap=True),
            np.asarray(self.atoms.cell.array)[None],
            self.start.num_atoms,
            self.start.ids,
        )

    def take(self, found: Prediction | str) -> None:
        """Take in the energy here, or why there is none, and go one step or end."""
        try:
            why = self._go_on(found)
            if why is not None:
                self._check_distances()
        except TROUBLE as error:
            self.end = End(
                self.start,
                start_energy=self.start_energy,
                steps=self.steps,
                why_broken=one_line(error),
            )
            return
        if why is not None:
            self.end = End(self.crystal(), self.energy, self.start_energy, self.steps, why or None)

    def _check_distances(self) -> None:
        """Refuse minima that are the potential's alone: it knows no atoms so close.

        Raises:
            ValueError: saying how close they are.
        """
        distance = float(min_distances(self.crystal(), 1)[0])
        if distance < LEAST_DISTANCE:
            raise ValueError(f"two of its atoms stay {distance:.2g} Å apart")

    def _go_on(self, found: Prediction | str) -> str | None:
        """Go one step; returns why not: empty if forces are small enough.

        Raises:
            ValueError: if the crystal falls apart, or has no energy.
        """
        from ase.calculators.singlepoint import SinglePointCalculator

        change = self.atoms.get_volume() / self.volume
        if not 1 / LARGEST_CHANGE < change < LARGEST_CHANGE:
            raise ValueError(f"its volume became {change:.2g} times as large")
        if isinstance(found, str):
            raise ValueError(found)
        if not all(np.isfinite(values).all() for values in found):
            raise ValueError("its energy is not a number")
        self.energy = float(found.energies[0])
        if self.steps == 0:
            self.start_energy = self.energy
        self.atoms.calc = SinglePointCalculator(
            self.atoms,
            energy=self.energy * len(self.atoms),
            forces=found.forces,
            stress=_voigt(found.stresses[0]),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            forces = self.moved.get_forces()
            if np.linalg.norm(forces, axis=1).max() < self.settings.max_force:
                return ""
            if self.steps >= self.settings.max_steps:
                return f"{self.settings.max_steps} steps were not enough"
            if self.seconds > self.settings.time_limit:
                return f"{self.settings.time_limit:g} s were not enough"
            self.optimizer.step()
        self.steps += 1
        return None


@cache
def _cell_filter() -> Any:
    """Make ASE's filter of cells, that computes the forces of a step only once."""
    from ase.filters import FrechetCellFilter

    class CellFilter(FrechetCellFilter):
        known: tuple[Any, Any] = (None, None)

        def get_forces(self, **options: Any) -> Any:
            """Return the forces that were found with the present calculator, one for each step."""
            if self.known[0] is not self.atoms.calc:
                self.known = self.atoms.calc, super().get_forces(**options)
            return self.known[1].copy()

    return CellFilter


def _predict(
    runs: Sequence[_Run], potential: Potential, settings: RelaxationSettings
) -> Iterator[Prediction | str]:
    """Compute all at once, or one by one where one of them makes trouble; charge the time."""
    crystals = Crystals.concatenate(
        [run.crystal().with_ids([str(i)]) for i, run in enumerate(runs)]
    )
    begun = time.monotonic()
    try:
        with _alarm(settings.time_limit):
            found = potential.predict(crystals)
    except TROUBLE as error:
        if len(runs) == 1:
            runs[0].seconds += time.monotonic() - begun
            yield one_line(error)
        else:
            for run in runs:
                yield from _predict([run], potential, settings)
        return
    taken = time.monotonic() - begun
    for i, run in enumerate(runs):
        atoms = slice(crystals.offsets[i], crystals.offsets[i + 1])
        run.seconds += taken * (atoms.stop - atoms.start) / len(crystals.atomic_numbers)
        yield Prediction(found.energies[i : i + 1], found.forces[atoms], found.stresses[i : i + 1])


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """End what hangs in this block, where the system can; at the next step of Python's.

    Raises:
        TimeoutError: after that time; that of one crystal is enough for the step of a batch.
    """
    here = threading.current_thread() is threading.main_thread()
    if seconds <= 0 or not here or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(*_: Any) -> None:
        raise TimeoutError(f"one step took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _voigt(stress: NDArray[np.float64]) -> NDArray[np.float64]:
    return stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
