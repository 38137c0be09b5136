"""Documents of results that several test modules share."""

from __future__ import annotations

from typing import Any

from crysmetrics.metrics.intervals import Z95
from crysmetrics.metrics.registry import all_metrics


def document(n_gen: int = 100, **values: tuple[float | None, float | None]) -> dict[str, Any]:
    """Results with metrics given as (value, standard error)."""
    declared = all_metrics()
    return {
        "schema": "crysmetrics/1",
        "metrics": {
            key: {
                "value": value,
                "unit": declared[key].unit,
                "better": declared[key].better,
                "stderr": stderr,
                "ci95": None
                if value is None or stderr is None
                else [value - Z95 * stderr, value + Z95 * stderr],
                "n_gen": n_gen,
                "n_ref": 100,
                **({} if value is not None else {"reason": "too few structures"}),
            }
            for key, (value, stderr) in values.items()
        },
        "settings": {"seed": 0, "pairing": "auto", "protocol": "full"},
        "extractors": {"alignn": {"version": "a", "hash": "1"}},
        "inputs": {
            "gen": {"path": "gen", "read": n_gen, "failed": 0, "sha256": "g"},
            "ref": {"path": "ref", "read": 100, "failed": 0, "sha256": "r"},
        },
        "failures": [],
        "versions": {},
        "timing": {},
    }
