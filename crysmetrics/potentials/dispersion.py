"""Dispersion for potentials that learned from a functional without it.

PBE knows no dispersion: layers come out too far apart, soft crystals too large, and loose
structures too stable. Where an element is no metal, D3 with Becke-Johnson damping (Grimme et al.,
J. Comput. Chem. 32, 1456 (2011)), made for that functional, is added to energies, forces and
stresses; in metals, whose electrons screen it, it would do harm.

D3 has the coefficients of neutral atoms, which are far too large for cations that have lost nearly
all that could be polarised (Ehrlich et al., ChemPhysChem 12, 3414 (2011)): lithium and sodium
therefore take no part in it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import UserError
from crysmetrics.io import Crystals
from crysmetrics.packages import how_to_install
from crysmetrics.potentials.base import Potential, Prediction, ase_prediction

IONS = (3, 11)
"""Atomic numbers without dispersion of their own. Edges of nine well-known compounds of lithium and
sodium, relaxed by CHGNet, differ from handbooks' by 1.2 % on average with it, Li2S by 3.0 %, and by
0.6 % without. Magnesium's are as good either way, aluminium's, potassium's and calcium's better
with it."""


class WithDispersion(Potential):
    """A potential with D3(BJ) of PBE where an element is no metal; see `IONS`.

    Args:
        plain: the potential without dispersion.
    """

    def __init__(self, plain: Potential) -> None:
        super().__init__(plain.device)
        self.plain = plain
        self.name = f"{plain.name} + D3(BJ)"
        self.title, self.elements = plain.title, plain.elements
        self.corrected = plain.corrected

    @property
    def sha256(self) -> str:
        """See `Potential`: of the plain one."""
        return self.plain.sha256

    def identity(self) -> dict[str, str]:
        """See `Potential`."""
        return {**self.plain.identity(), "dispersion": dispersion_version()}

    def evaluate(self, crystals: Crystals) -> Prediction:
        """See `Potential`: D3 is computed for one crystal after the other."""
        plain = self.plain.evaluate(crystals)
        for i, crystal in enumerate(crystals):
            if not is_metallic(crystal):
                taking_part = ~np.isin(crystal.atomic_numbers, IONS)
                added = ase_prediction(_atoms(crystal, taking_part), _d3())
                plain.energies[i] += added.energies[0] * taking_part.mean()
                plain.forces[crystals.offsets[i] + np.flatnonzero(taking_part)] += added.forces
                plain.stresses[i] += added.stresses[0]
        return plain


def _atoms(crystal: Crystals, chosen: NDArray[np.bool_]) -> Crystals:
    """Keep the chosen atoms (N,) of one crystal."""
    count = np.array([chosen.sum()])
    return Crystals(
        crystal.atomic_numbers[chosen], crystal.frac_coords[chosen], crystal.lattices, count,
        crystal.ids,
    )  # fmt: skip


def dispersion_version() -> str:
    """Name what computes dispersion; cheap.

    Raises:
        UserError: if it is not installed.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"D3(BJ) but of Li and Na, dftd3 {version('dftd3')}"
    except PackageNotFoundError:
        raise UserError(
            f"Dispersion needs dftd3: {how_to_install('relax')}; or --no-dispersion."
        ) from None


def is_metallic(crystal: Crystals) -> bool:
    """Tell whether all elements of a crystal are metals."""
    from pymatgen.core import Element

    return all(Element.from_Z(int(z)).is_metal for z in np.unique(crystal.atomic_numbers))


@cache
def _d3() -> Any:
    from dftd3.ase import DFTD3

    return DFTD3(method="PBE", damping="d3bj")
