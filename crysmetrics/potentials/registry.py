"""All potentials by name: those that come with the package, and those of other packages.

A package adds its own by an entry point: a class below `base.Potential`, in its `pyproject.toml`

    [project.entry-points."crysmetrics.potentials"]
    mine = "my_package.potential:Mine"
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from crysmetrics.errors import UserError
from crysmetrics.io.parsed import one_line
from crysmetrics.potentials.base import Potential

POTENTIALS = {
    "chgnet": "crysmetrics.potentials.chgnet:CHGNet",
    "7net-0": "crysmetrics.potentials.sevennet:SevenNet0",
    "7net-l3i5": "crysmetrics.potentials.sevennet:SevenNetL3i5",
}
"""Name -> module and class of each that comes with the package."""
GROUP = "crysmetrics.potentials"
"""Entry points by which other packages add potentials."""


def known_potentials() -> dict[str, str]:
    """List the names of all potentials that are registered, with module and class of each."""
    added = {entry.name: entry.value for entry in entry_points(group=GROUP)}
    return {**POTENTIALS, **{n: value for n, value in added.items() if n not in POTENTIALS}}


def load_potential(name: str, device: str = "cpu", dispersion: bool = False) -> Potential:
    """Make a potential; weights are read when it is first used.

    Args:
        name: a key of `known_potentials()`.
        device: `cpu`, `cuda` or `cuda:N`.
        dispersion: whether D3 is added where an element is no metal.

    Raises:
        UserError: if there is none of this name, or its package can't be imported.
    """
    known = POTENTIALS if name in POTENTIALS else known_potentials()
    if name not in known:
        raise UserError(f"Potentials are {', '.join(known)}; not {name!r}.")
    module, _, kind = known[name].partition(":")
    try:
        made: type[Potential] = getattr(import_module(module), kind)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"The potential {name!r} can't be loaded from {known[name]} ({one_line(error)})."
        ) from error
    potential = made(device)
    if not dispersion:
        return potential
    from crysmetrics.potentials.dispersion import WithDispersion

    return WithDispersion(potential)
