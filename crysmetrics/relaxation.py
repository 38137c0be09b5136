"""Relaxation of crystals with CHGNet: positions and cell moved downhill until forces are small.

CHGNet (Deng et al., Nature Machine Intelligence 5, 1031 (2023)) was trained on the Materials
Project: what it relaxes or ranks is no honest prediction of compounds that are in there, and
benchmarks mark such rows. Its package carries the weights; they are read without unpickling.

It learned from a functional (PBE) that knows no dispersion: layers come out too far apart, soft
crystals too large, and loose structures too stable. Where an element is no metal, D3 with
Becke-Johnson damping (Grimme et al., J. Comput. Chem. 32, 1456 (2011)), made for that functional,
is added to energies, forces and stresses; in metals, whose electrons screen it, it would do harm.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np

from crysmetrics.device import torch_device
from crysmetrics.errors import UserError
from crysmetrics.io import Crystals, Failure
from crysmetrics.io.parsed import one_line
from crysmetrics.packages import how_to_install, require
from crysmetrics.parallel import cpu_count, in_processes

METHOD = 3
"""Counts up when relaxations come out differently, so that stored ones are not used."""
VERSION = "0.3.0"
"""Of the weights."""
FORCE = 0.03
"""eV/Å, the largest that is left (on the cell: per atom of it)."""
STEPS = 100
ENERGY = "relaxed_energy"
"""Property of relaxed crystals: total energy in eV/atom by CHGNet, with dispersion where that
belongs; NaN where relaxation failed."""
TWO_SPINS = (24, 25, 26, 27, 28)
"""Cr, Mn, Fe, Co, Ni: their ions are larger with high spin than with low spin, and both volumes can
be minima. Without dispersion, LiCoO2 relaxed from the larger stays 10 % too large and 0.016 eV/atom
too high."""
COMPRESSED = 0.9
"""Of the volume, from which crystals with such elements are relaxed a second time."""
MOST_PROCESSES, LEAST_OF_PROCESS = 8, 4
"""Processes, which take 0.7 GB each, and crystals that make it worth to begin one."""
LAST_ELEMENT = 94
"""Plutonium, beyond which CHGNet knows none."""
_LARGEST_CHANGE = 3.0
"""Of the volume: what swells or shrinks more has fallen apart."""


def identity(dispersion: bool = True) -> dict[str, str | int]:
    """Which weights and which dispersion these are; cheap.

    Raises:
        UserError: if CHGNet, or what computes dispersion, is not installed.
    """
    return {
        "weights": f"chgnet {VERSION}",
        "sha256": _digest(_weights()),
        "dispersion": f"D3(BJ), {_dispersion_version()}" if dispersion else "none",
        "method": METHOD,
    }


def relax(
    crystals: Crystals,
    device: str = "cpu",
    dispersion: bool = True,
    workers: int | None = 1,
) -> Iterator[Crystals]:
    """Each crystal on its own, relaxed, with the property `ENERGY`.

    Crystals with elements that have high and low spin start from two volumes; the lower energy
    counts.

    One that can't be relaxed comes back as it was, its energy NaN, with a failure that says why.

    Args:
        crystals: B.
        device: `auto`, `cpu` or `cuda`.
        dispersion: whether D3 is added where an element is no metal.
        workers: processes on a CPU; None for all cores, as far as it is worth it.

    Raises:
        UserError: if CHGNet, or what computes dispersion, is not installed.
    """
    device = torch_device(device)
    identity(dispersion)  # what is missing is said before anything begins
    jobs = [(crystals[i], device, dispersion) for i in range(len(crystals))]
    count = min(cpu_count(workers), MOST_PROCESSES, max(1, len(jobs) // LEAST_OF_PROCESS))
    yield from in_processes(_one, jobs, count if device == "cpu" else 1)


def _one(crystal: Crystals, device: str, dispersion: bool) -> Crystals:
    """See `relax`."""
    calculator = _calculator(device, dispersion and not is_metallic(crystal))
    try:
        relaxed, energy = _best(crystal, calculator)
        failures: tuple[Failure, ...] = ()
    except (ValueError, RuntimeError, ArithmeticError, np.linalg.LinAlgError) as error:
        relaxed, energy = crystal, np.nan
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        failures = (Failure(crystal.ids[0], f"could not be relaxed: {reason}"),)
    return Crystals(
        crystal.atomic_numbers,
        relaxed.frac_coords,
        relaxed.lattices,
        crystal.num_atoms,
        crystal.ids,
        {**crystal.properties, ENERGY: np.array([energy])},
        failures,
    )


def is_metallic(crystal: Crystals) -> bool:
    """Whether all elements of a crystal are metals."""
    from pymatgen.core import Element

    return all(Element.from_Z(int(z)).is_metal for z in np.unique(crystal.atomic_numbers))


def _best(crystal: Crystals, calculator: Any) -> tuple[Crystals, float]:
    """The crystal relaxed as it is, or from a smaller volume where that ends lower."""
    if crystal.atomic_numbers.max() > LAST_ELEMENT:
        raise ValueError("CHGNet knows no elements beyond plutonium")
    found = _relaxed(crystal, calculator)
    if np.isin(crystal.atomic_numbers, TWO_SPINS).any():
        smaller = replace(crystal, lattices=crystal.lattices * COMPRESSED ** (1 / 3))
        with suppress(ValueError, RuntimeError, ArithmeticError, np.linalg.LinAlgError):
            found = min(found, _relaxed(smaller, calculator), key=lambda end: end[1])
    return found


def _relaxed(crystal: Crystals, calculator: Any) -> tuple[Crystals, float]:
    from ase import Atoms
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    atoms = Atoms(
        crystal.atomic_numbers,
        cell=crystal.lattices[0],
        scaled_positions=crystal.frac_coords,
        pbc=True,
        calculator=calculator,
    )
    before = atoms.get_volume()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=FORCE, steps=STEPS)
    change = atoms.get_volume() / before
    if not 1 / _LARGEST_CHANGE < change < _LARGEST_CHANGE:
        raise ValueError(f"its volume became {change:.2g} times as large")
    energy = float(np.asarray(atoms.get_potential_energy()).reshape(-1)[0]) / len(atoms)
    if not np.isfinite(energy):
        raise ValueError("its energy is not a number")
    lattice = np.asarray(atoms.cell.array)
    frac = atoms.get_scaled_positions(wrap=True)
    return Crystals(
        crystal.atomic_numbers, frac, lattice[None], crystal.num_atoms, crystal.ids
    ), energy


@cache
def _calculator(device: str, dispersion: bool) -> Any:
    """Energies, forces and stresses by CHGNet, with D3 or without."""
    if dispersion:
        from ase.calculators.mixing import SumCalculator
        from dftd3.ase import DFTD3

        return SumCalculator([_calculator(device, False), DFTD3(method="PBE", damping="d3bj")])
    import torch

    path = _weights()
    from chgnet.model import CHGNet
    from chgnet.model.dynamics import CHGNetCalculator

    try:
        # It says on standard output that it is there, where JSON may be wanted.
        with redirect_stdout(StringIO()):
            state = torch.load(path, map_location="cpu", weights_only=True)
            model = CHGNet.from_dict(state["model"]).to(device).eval()
            return CHGNetCalculator(model, use_device=device, on_isolated_atoms="ignore")
    except (RuntimeError, KeyError, TypeError, UnpicklingError) as error:
        raise UserError(f"CHGNet can't be used: {one_line(error)}.") from error


def _dispersion_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"dftd3 {version('dftd3')}"
    except PackageNotFoundError:
        raise UserError(
            f"Dispersion needs dftd3: {how_to_install('relax')}; or --no-dispersion."
        ) from None


def _weights() -> Path:
    from importlib.util import find_spec

    require("chgnet", "relax", "Relaxation")
    found = find_spec("chgnet")
    if found is None or found.origin is None:
        raise UserError("The installed CHGNet is no package: pip install -U chgnet.")
    paths = sorted((Path(found.origin).parent / "pretrained" / VERSION).glob("*.pth.tar"))
    if not paths:
        raise UserError(f"This version of CHGNet has no weights {VERSION}.")
    return paths[0]


@cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
