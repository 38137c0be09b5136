"""Generators of crystals for an exact composition.

>>> import crysgen
>>> result = crysgen.generate(["Li2O"], count=16)
>>> result.crystals, result.table
"""

from importlib import import_module
from typing import Any

from crysmetrics._version import __version__

# Heavy imports happen when a name is first used, so that `import crysgen` stays cheap.
_WHERE = {
    "Formula": "crysgen.compositions.formulas",
    "parse_formula": "crysgen.compositions.formulas",
    "generate": "crysgen.generation",
    "Result": "crysgen.samples",
    "SamplingSettings": "crysgen.settings",
    "Resources": "crysgen.settings",
    "load_model": "crysgen.checkpoints",
    "known_models": "crysgen.checkpoints",
}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'crysgen' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
