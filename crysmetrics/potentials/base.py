"""What every interatomic potential gives, and says of itself."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io import Crystals
from crysmetrics.io.elements import SYMBOLS


class Prediction(NamedTuple):
    """Energies of B crystals with N atoms, and their derivatives."""

    energies: NDArray[np.float64]
    """(B,) total energies in eV/atom."""
    forces: NDArray[np.float64]
    """(N, 3) in eV/Å."""
    stresses: NDArray[np.float64]
    """(B, 3, 3) in eV/Å³, derivative of the energy by strain over the volume: negative where a cell
    wants to grow."""


NOTHING = Prediction(np.zeros(0), np.zeros((0, 3)), np.zeros((0, 3, 3)))
"""The prediction of an empty batch."""


class Potential(ABC):
    """A potential on a device. Made without loading weights, which happens when it is first used.

    Attributes:
        name: of the model with its version, such as `chgnet 0.3.0`.
        title: for people, such as `CHGNet`.
        elements: atomic numbers that it knows.
        corrected: whether its energies hold the Materials Project's corrections for anions and for
            mixing PBE with PBE+U (Wang et al., Sci. Rep. 11, 15496 (2021)).
        element_energies: atomic number -> energy in eV/atom that formation energies are relative
            to; None for those that `potentials.formation` has for its weights.
    """

    name: str
    title: str
    elements: frozenset[int]
    corrected: bool = False
    element_energies: Mapping[int, float] | None = None

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    @property
    @abstractmethod
    def sha256(self) -> str:
        """Return a hash of the weights.

        Raises:
            UserError: if the package that brings them is not installed.
        """

    @abstractmethod
    def evaluate(self, crystals: Crystals) -> Prediction:
        """Compute energies, forces and stresses of a batch of at least one crystal at once.

        Raises:
            UserError: if the potential can't be used here.
            ValueError, RuntimeError: if it can't handle a crystal.
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
        """Compute energies, forces and stresses of a batch at once.

        Raises:
            UserError: if the potential can't be used here.
            ValueError, RuntimeError: if it can't handle a crystal, as where it does not know an
                element.
        """
        if unknown := self.unknown_elements(crystals):
            raise ValueError(f"{self.title} knows no {SYMBOLS[unknown[0]]}")
        return self.evaluate(crystals) if len(crystals) else NOTHING


class AsePotential(Potential):
    """A potential that an ASE calculator computes, one crystal after the other."""

    @abstractmethod
    def calculator(self, crystal: Crystals) -> Any:
        """Make an ASE calculator that is fit for one crystal."""

    def evaluate(self, crystals: Crystals) -> Prediction:
        """See `Potential`."""
        found = [ase_prediction(crystal, self.calculator(crystal)) for crystal in crystals]
        return joined(found)


def ase_prediction(crystal: Crystals, calculator: Any) -> Prediction:
    """Compute the prediction of one crystal by an ASE calculator."""
    atoms = ase_atoms(crystal)
    atoms.calc = calculator
    energy = float(np.asarray(atoms.get_potential_energy()).reshape(-1)[0]) / len(atoms)
    forces = np.asarray(atoms.get_forces(), dtype=np.float64)
    stress = np.asarray(atoms.get_stress(voigt=False), dtype=np.float64)
    return Prediction(np.array([energy]), forces, stress[None])


def joined(predictions: list[Prediction]) -> Prediction:
    """Join predictions one after the other."""
    energies, forces, stresses = zip(NOTHING, *predictions, strict=True)
    return Prediction(np.concatenate(energies), np.concatenate(forces), np.concatenate(stresses))


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
