"""What every interatomic potential gives, and says of itself."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io import Crystals


class Prediction(NamedTuple):
    """Energies of B crystals with N atoms, and their derivatives."""

    energies: NDArray[np.float64]
    """(B,) total energies in eV/atom."""
    forces: NDArray[np.float64]
    """(N, 3) in eV/Å."""
    stresses: NDArray[np.float64]
    """(B, 3, 3) in eV/Å³, derivative of the energy by strain over the volume: negative where a cell
    wants to grow."""


class Potential(ABC):
    """A potential on a device. Made without loading weights, which happens when it is first used.

    Attributes:
        name: of the model with its version, such as `chgnet 0.3.0`.
        title: for people, such as `CHGNet`.
        elements: atomic numbers that it knows.
    """

    name: str
    title: str
    elements: frozenset[int]

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    @property
    @abstractmethod
    def sha256(self) -> str:
        """Hash of the weights.

        Raises:
            UserError: if the package that brings them is not installed.
        """

    @abstractmethod
    def calculator(self, crystal: Crystals) -> Any:
        """Make an ASE calculator that is fit for one crystal.

        Raises:
            UserError: if the potential can't be used here.
        """

    def identity(self) -> dict[str, str]:
        """Say what must be equal for results to be the same; cheap.

        Raises:
            UserError: if the package that brings the weights is not installed.
        """
        return {"weights": self.name, "sha256": self.sha256}

    def unknown_elements(self, crystal: Crystals) -> list[int]:
        """List the atomic numbers in a crystal that this potential does not know."""
        return sorted({int(z) for z in crystal.atomic_numbers} - self.elements)

    def predict(self, crystals: Crystals) -> Prediction:
        """Compute energies, forces and stresses of a batch.

        Raises:
            UserError: if the potential can't be used here.
            ValueError: if a crystal has elements that it does not know.
        """
        energies, forces, stresses = [], [np.zeros((0, 3))], []
        for crystal in crystals:
            if unknown := self.unknown_elements(crystal):
                raise ValueError(f"{self.title} knows no element {unknown[0]}")
            atoms = ase_atoms(crystal)
            atoms.calc = self.calculator(crystal)
            energies.append(_scalar(atoms.get_potential_energy()) / len(atoms))
            forces.append(np.asarray(atoms.get_forces(), dtype=np.float64))
            stresses.append(np.asarray(atoms.get_stress(voigt=False), dtype=np.float64))
        return Prediction(
            np.array(energies, dtype=np.float64),
            np.concatenate(forces),
            np.array(stresses, dtype=np.float64).reshape(-1, 3, 3),
        )


def ase_atoms(crystal: Crystals) -> Any:
    """Convert one crystal to `ase.Atoms`."""
    from ase import Atoms

    return Atoms(
        crystal.atomic_numbers,
        cell=crystal.lattices[0],
        scaled_positions=crystal.frac_coords,
        pbc=True,
    )


@cache
def file_sha256(path: Path) -> str:
    """Hash a file of weights, once in a process."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _scalar(value: Any) -> float:
    return float(np.asarray(value).reshape(-1)[0])
