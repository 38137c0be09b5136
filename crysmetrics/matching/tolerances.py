"""How far two crystals may differ and still count as the same one.

Imports nothing heavy: `--help` reads it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from crysmetrics.errors import UserError


@dataclass(frozen=True)
class Tolerances:
    """Tolerances of pymatgen's StructureMatcher.

    Attributes:
        ltol: of cell lengths, as a share.
        stol: of positions, as a share of (V/N)^(1/3).
        angle_tol: of cell angles in degrees.
        name: of a usual choice in TOLERANCES.
    """

    ltol: float
    stol: float
    angle_tol: float
    name: str | None = None


TOLERANCES: dict[str, Tolerances] = {
    "pymatgen": Tolerances(0.2, 0.3, 5.0, "pymatgen"),
    "csp": Tolerances(0.3, 0.5, 10.0, "csp"),
}
"""pymatgen's defaults, by which S.U.N. rates, novelty and uniqueness are published (MatterGen, and
those that follow it), and the looser tolerances of published match rates (CDVAE, DiffCSP)."""


def parse_tolerances(text: str) -> Tolerances:
    """Read tolerances from the name of a usual choice, or from `LTOL,STOL,ANGLE`.

    Raises:
        UserError: if it is neither.
    """
    if text in TOLERANCES:
        return TOLERANCES[text]
    try:
        ltol, stol, angle_tol = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"Tolerances are {', '.join(TOLERANCES)}, or three numbers such as 0.2,0.3,5 (lengths, "
            f"positions, angles in degrees); not {text!r}."
        ) from None
    if not all(0 < value < math.inf for value in (ltol, stol, angle_tol)):
        raise UserError(f"Tolerances must be finite and positive; not {text!r}.")
    return Tolerances(ltol, stol, angle_tol)
