"""All potentials by name."""

from __future__ import annotations

from importlib import import_module

from crysmetrics.errors import UserError
from crysmetrics.potentials.base import Potential

POTENTIALS = {
    "chgnet": "crysmetrics.potentials.chgnet:CHGNet",
    "7net-0": "crysmetrics.potentials.sevennet:SevenNet0",
    "7net-l3i5": "crysmetrics.potentials.sevennet:SevenNetL3i5",
}
"""Name -> module and class of each."""


def load_potential(name: str, device: str = "cpu", dispersion: bool = False) -> Potential:
    """Make a potential; weights are read when it is first used.

    Args:
        name: a key of `POTENTIALS`.
        device: `cpu`, `cuda` or `cuda:N`.
        dispersion: whether D3 is added where an element is no metal.

    Raises:
        UserError: if there is none of this name.
    """
    if name not in POTENTIALS:
        raise UserError(f"Potentials are {', '.join(POTENTIALS)}; not {name!r}.")
    module, _, kind = POTENTIALS[name].partition(":")
    potential: Potential = getattr(import_module(module), kind)(device)
    if not dispersion:
        return potential
    from crysmetrics.potentials.dispersion import WithDispersion

    return WithDispersion(potential)
