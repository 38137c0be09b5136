"""Two sets of results against each other: what changed, and whether it got worse."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from crysmetrics.errors import InputError, UserError
from crysmetrics.metrics.base import all_metrics
from crysmetrics.metrics.intervals import Z95
from crysmetrics.reporting.report import SCHEMA

Verdict = Literal["better", "same", "within tolerance", "failed", "new"]

_BIASED = ("fad", "fd_crystalnn", "fd_cgcnn", "uniqueness", "metre", "cov_recall")
"""Metrics whose value depends on the number of generated structures."""


@dataclass(frozen=True)
class Change:
    """One metric in both results.

    Attributes:
        key, better, unit: of the metric.
        base, candidate: values; None where undefined.
        difference: candidate minus base.
        stderr: standard error of the difference; None where one of both has none.
        allowed: how much worse it may get.
        verdict: `same` if it changed by no more than 1.96 standard errors, else `better`,
            `within tolerance` if it got worse by no more than allowed, or `failed`; `new` if it
            has no base.
        reason: why a value is undefined, or what to keep in mind.
    """

    key: str
    better: str
    unit: str
    base: float | None
    candidate: float | None
    difference: float | None
    stderr: float | None
    allowed: float
    verdict: Verdict
    reason: str = ""

    @property
    def failed(self) -> bool:
        """Whether this metric fails a gate."""
        return self.verdict == "failed"

    @property
    def significance(self) -> float | None:
        """The difference in standard errors."""
        if self.difference is None or not self.stderr:
            return None
        return self.difference / self.stderr


class IncomparableError(UserError):
    """Results that say nothing about each other."""


def load_document(path: str | Path) -> dict[str, Any]:
    """A `crysmetrics/1` document.

    Args:
        path: the file, or the folder of results that holds it.

    Raises:
        InputError: if there is none.
    """
    path = Path(path)
    file = path / "metrics.json" if path.is_dir() else path
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file} can't be read ({error.strerror or error}).") from error
    except ValueError as error:
        raise InputError(f"{file} is no JSON ({error}).") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise InputError(f"{file} holds no results of schema {SCHEMA}.")
    entries = document.get("metrics")
    if not isinstance(entries, dict) or not isinstance(document.get("inputs"), dict):
        raise InputError(f"{file} lacks metrics or inputs.")
    for key, entry in entries.items():
        if not isinstance(entry, dict) or "value" not in entry:
            raise InputError(f"{file} has no value of {key}.")
        for name in ("value", "stderr"):
            if not isinstance(entry.get(name), (int, float, type(None))):
                raise InputError(f"{file} has a {name} of {key} that is no number.")
    return document


def check_comparable(documents: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise `IncomparableError` unless all results have been made alike.

    Protocols, settings, extractors of features and references must be the same wherever two
    results both have them.
    """
    items = list(documents.items())
    first_name, first = items[0]
    for name, other in items[1:]:
        differences = list(_differences(first, other))
        if differences:
            raise IncomparableError(
                f"{first_name} and {name} can't be compared: {'; '.join(differences)}."
            )


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterable[str]:
    ours, theirs = a.get("settings", {}), b.get("settings", {})
    for name in dict.fromkeys((*ours, *theirs)):
        one, two = ours.get(name), theirs.get(name)
        shared = name in ours and name in theirs
        if one != two and (shared or name in ("protocol", "limit")):
            title = "protocol" if name == "protocol" else f"setting {name.replace('_', ' ')}"
            yield f"{title} {_say(one)} against {_say(two)}"
    extractors = a.get("extractors", {}), b.get("extractors", {})
    for name in extractors[0].keys() & extractors[1].keys():
        one, two = extractors[0][name], extractors[1][name]
        if one.get("hash") != two.get("hash"):
            yield f"features {name} by {one.get('version')!r} against {two.get('version')!r}"
    references = [d["inputs"].get("ref") for d in (a, b)]
    if all(references) and references[0]["sha256"] != references[1]["sha256"]:
        one, two = (r.get("path") or "a set without a name" for r in references)
        yield f"references {one} and {two} differ"


def _say(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def changes(
    base: Mapping[str, Any],
    candidate: Mapping[str, Any],
    allow: Mapping[str, float] | None = None,
    metrics: Sequence[str] | None = None,
) -> list[Change]:
    """What became of each metric.

    Args:
        base, candidate: `crysmetrics/1` documents that can be compared.
        allow: key of metric -> how much worse it may get, in its unit; 0 where not given.
        metrics: keys to look at; all by default.

    Raises:
        UserError: if a metric or tolerance names nothing that is there, or the candidate lacks a
            metric of the base.
    """
    allow = dict(allow or {})
    before, after = base["metrics"], candidate["metrics"]
    wanted = list(dict.fromkeys(metrics or (*before, *after)))
    for key in (*allow, *wanted):
        if key not in before and key not in after:
            raise UserError(f"Neither result holds a metric {key!r}.")
    missing = [key for key in wanted if key in before and key not in after]
    if missing:
        raise IncomparableError(
            f"The candidate lacks {', '.join(missing)}; evaluate it with the same metrics, or "
            "choose some with --metrics."
        )
    order = {key: k for k, key in enumerate(all_metrics())}
    wanted.sort(key=lambda key: order.get(key, len(order)))
    return [_change(key, before.get(key), after[key], allow.get(key, 0.0)) for key in wanted]


def _change(
    key: str, before: Mapping[str, Any] | None, after: Mapping[str, Any], allowed: float
) -> Change:
    better, unit = after.get("better", "lower"), after.get("unit", "")
    new = after["value"]
    if before is None or before["value"] is None:
        reason = after.get("reason", "") if new is None else ""
        return Change(key, better, unit, None, new, None, None, allowed, "new", reason)
    old = float(before["value"])
    if new is None:
        reason = f"undefined now: {after.get('reason', 'no reason given')}"
        return Change(key, better, unit, old, None, None, None, allowed, "failed", reason)
    difference = float(new) - old
    errors = [e["stderr"] for e in (before, after) if e.get("stderr") is not None]
    stderr = math.hypot(*errors) if len(errors) == 2 else None
    # Without a standard error every change counts.
    significant = abs(difference) > Z95 * (stderr or 0.0)
    worse_by = difference if better == "lower" else -difference
    verdict: Verdict
    if not significant:
        verdict = "same"
    elif worse_by <= 0:
        verdict = "better"
    else:
        verdict = "failed" if worse_by > allowed else "within tolerance"
    reason = "" if stderr is not None else "no standard error is known"
    sizes = [e["n_gen"] for e in (before, after) if isinstance(e.get("n_gen"), int)]
    if key in _BIASED and len(sizes) == 2 and abs(sizes[0] - sizes[1]) > 0.1 * max(sizes):
        reason = f"depends on the number of structures, {sizes[0]:,} against {sizes[1]:,}"
    return Change(key, better, unit, old, float(new), difference, stderr, allowed, verdict, reason)


@dataclass(frozen=True)
class Gate:
    """What a gate looks at, and how much worse it lets things get."""

    allow: Mapping[str, float]
    metrics: tuple[str, ...] | None = None


def load_gate(path: str | Path) -> Gate:
    """A gate from TOML: a table `[allow]` of tolerances, and `metrics`, a list of keys.

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
    unknown = content.keys() - {"allow", "metrics"}
    if unknown:
        raise UserError(f"{path} has {', '.join(sorted(unknown))}; a gate has [allow] and metrics.")
    allow, metrics = content.get("allow", {}), content.get("metrics")
    if not isinstance(allow, dict) or not all(isinstance(v, (int, float)) for v in allow.values()):
        raise UserError(f"{path}: [allow] holds one number for each metric.")
    if metrics is not None and not (
        isinstance(metrics, list) and metrics and all(isinstance(m, str) for m in metrics)
    ):
        raise UserError(f"{path}: metrics is a list of keys.")
    return Gate(
        {key: checked_tolerance(key, value) for key, value in allow.items()},
        None if metrics is None else tuple(metrics),
    )


def parse_tolerance(text: str) -> tuple[str, float]:
    """`fad=0.05` as a key and a number.

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
    """The tolerance, if it is one.

    Raises:
        UserError: if it is negative or not finite, or there is no such metric.
    """
    if key not in all_metrics():
        raise UserError(f"There is no metric {key!r} to allow a change of.")
    if isinstance(value, bool) or not (0 <= value < math.inf):
        raise UserError(f"The tolerance of {key} must be a number that is not negative.")
    return float(value)
