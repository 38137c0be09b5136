"""Gates: which metrics a comparison looks at, and how much worse it lets them get."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crysmetrics.errors import UserError
from crysmetrics.metrics.registry import all_metrics

LEVEL = 0.05
"""Chance that a run as good as its baseline fails, over all metrics of a gate together."""


@dataclass(frozen=True)
class Gate:
    """What a gate looks at, and how much worse it lets things get.

    Attributes:
        allow: key of metric -> how much worse it may get, in its unit.
        metrics: keys to look at, or `all`; None for the default gate and what `allow` names.
        level: chance of failing a run that is as good as its baseline.
    """

    allow: Mapping[str, float]
    metrics: tuple[str, ...] | Literal["all"] | None = None
    level: float = LEVEL


def load_gate(path: str | Path) -> Gate:
    """Read a gate from TOML: `[allow]`, a table of tolerances, `metrics`, a list of keys or
    "all", and `level`.

    Raises:
        UserError: if it can't be read or holds something else.
    """
    import tomllib

    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror or error}).") from error
    except ValueError as error:
        raise UserError(f"{path} is no TOML ({error}).") from error
    unknown = content.keys() - {"allow", "metrics", "level"}
    if unknown:
        names = ", ".join(sorted(unknown))
        raise UserError(f"{path} has {names}; a gate has [allow], metrics and level.")
    allow, metrics = content.get("allow", {}), content.get("metrics")
    if not isinstance(allow, dict) or not all(isinstance(v, (int, float)) for v in allow.values()):
        raise UserError(f"{path}: [allow] holds one number for each metric.")
    is_list = isinstance(metrics, list) and all(isinstance(m, str) for m in metrics) and metrics
    if metrics is not None and metrics != "all" and not is_list:
        raise UserError(f'{path}: metrics is a list of keys, or "all".')
    return Gate(
        {key: checked_tolerance(key, value) for key, value in allow.items()},
        tuple(metrics) if metrics and is_list else metrics,
        checked_level(content.get("level", LEVEL)),
    )


def parse_tolerance(text: str) -> tuple[str, float]:
    """Split a tolerance such as `fad=0.05` into key and number.

    Raises:
        UserError: if it is something else.
    """
    key, equals, number = text.partition("=")
    try:
        if not equals:
            raise ValueError
        return key.strip(), checked_tolerance(key.strip(), float(number))
    except ValueError:
        raise UserError(f"A tolerance is KEY=NUMBER, such as fad=0.05; not {text!r}.") from None


def checked_tolerance(key: str, value: float) -> float:
    """Return the tolerance of a metric as a number.

    Raises:
        UserError: if it is negative or not finite, or there is no such metric.
    """
    if key not in all_metrics():
        raise UserError(f"There is no metric {key!r} to allow a change of.")
    if isinstance(value, bool) or not (0 <= value < math.inf):
        raise UserError(f"The tolerance of {key} must be a number that is not negative.")
    return float(value)


def checked_level(value: object) -> float:
    """Return a family-wise level as a number.

    Raises:
        UserError: if it does not lie between 0 and 0.5.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (0 < value < 0.5):
        raise UserError(f"The level is a chance between 0 and 0.5; not {value!r}.")
    return float(value)
