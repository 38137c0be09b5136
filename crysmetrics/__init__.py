"""Metrics for generative models of crystals.

>>> import crysmetrics
>>> report = crysmetrics.coverage("generated/", "reference.csv.gz", thresholds="mp20")
>>> report["cov_recall"]
"""

from importlib import import_module
from typing import Any

from crysmetrics._version import __version__ as __version__

# Heavy imports happen when a name is first used, so that `import crysmetrics` stays cheap.
_WHERE = {
    "Crystals": "crysmetrics.io",
    "Failure": "crysmetrics.io",
    "read": "crysmetrics.io",
    "write": "crysmetrics.io",
    "Report": "crysmetrics.reporting.report",
    "EvaluationSettings": "crysmetrics.metrics.settings",
    "Thresholds": "crysmetrics.metrics.settings",
    "UserError": "crysmetrics.errors",
    "InputError": "crysmetrics.errors",
    "evaluate": "crysmetrics.evaluation",
    "EvaluationCallback": "crysmetrics.callback",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    if name == "__all__":
        return __dir__()
    if not name.startswith("_") and name in _families():
        return import_module("crysmetrics.functions").function_of(name)
    raise AttributeError(f"module 'crysmetrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({"__version__", *_WHERE, *_families()})


def _families() -> tuple[str, ...]:
    """List names of the families of metrics, each of which is a function."""
    names: tuple[str, ...] = import_module("crysmetrics.metrics.registry").family_names()
    return names
