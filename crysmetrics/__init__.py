"""Metrics for generative models of crystals.

>>> import crysmetrics
>>> report = crysmetrics.coverage("generated/", "reference.csv.gz", thresholds="mp20")
>>> report["cov_recall"]
"""

from importlib import import_module
from typing import Any

from crysmetrics._version import __version__

# Heavy imports happen when a name is first used, so that `import crysmetrics` stays cheap.
_WHERE = {
    "Crystals": "crysmetrics.io",
    "Failure": "crysmetrics.io",
    "read": "crysmetrics.io",
    "write": "crysmetrics.io",
    "Report": "crysmetrics.reporting.report",
    "Settings": "crysmetrics.metrics.base",
    "Thresholds": "crysmetrics.metrics.base",
    "UserError": "crysmetrics.errors",
    "InputError": "crysmetrics.errors",
    "evaluate": "crysmetrics.evaluation",
    "EvaluationCallback": "crysmetrics.callback",
    "validity": "crysmetrics.evaluation",
    "emd": "crysmetrics.evaluation",
    "coverage": "crysmetrics.evaluation",
    "frechet": "crysmetrics.evaluation",
    "diversity": "crysmetrics.evaluation",
    "fad": "crysmetrics.evaluation",
    "match": "crysmetrics.evaluation",
}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'crysmetrics' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
