"""Compare two sets of results: which metrics changed, and which got worse.

Over many metrics some differ by two standard errors by chance alone. So a gate has a level for
all of its metrics together, kept by Holm's procedure (Holm 1979), whatever their dependence:
docs/comparing.md has the measured rate of false alarms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from crysmetrics.errors import UserError
from crysmetrics.metrics.intervals import Z95
from crysmetrics.metrics.registry import all_metrics
from crysmetrics.reporting.documents import IncomparableError, sizes_differ
from crysmetrics.reporting.gates import LEVEL

Verdict = Literal[
    "better", "same", "within tolerance", "failed", "new", "skipped", "not comparable"
]


@dataclass(frozen=True)
class Change:
    """One metric in both results.

    Attributes:
        key, better, unit: of the metric.
        base, candidate: values; None where undefined.
        difference: candidate minus base.
        stderr: standard error of the difference; None where one of both has none.
        allowed: how much worse it may get.
        verdict: `same` if chance explains the change, else `better`, `within tolerance` if it got
            worse by no more than allowed, or `failed`; `new` without a base, `skipped` if a
            package is not installed, `not comparable` if the numbers of structures differ and
            the metric depends on them.
        reason: why a value is undefined, or what to keep in mind.
        p_worse: chance of a change for the worse at least as large, were both runs equally good.
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
    p_worse: float | None = None

    @property
    def failed(self) -> bool:
        """Tell whether this metric fails a gate."""
        return self.verdict == "failed"

    @property
    def significance(self) -> float | None:
        """Return the difference in standard errors."""
        if self.difference is None or not self.stderr:
            return None
        return self.difference / self.stderr

    @property
    def worse_by(self) -> float:
        """Compute how much worse the candidate is in the metric's unit; negative if better."""
        difference = self.difference or 0.0
        return difference if self.better == "lower" else -difference


def default_gate() -> tuple[str, ...]:
    """List the keys that a gate looks at unless it names others."""
    return tuple(key for key, metric in all_metrics().items() if metric.gated)


def chosen_keys(
    base: Mapping[str, Any],
    candidate: Mapping[str, Any],
    metrics: Sequence[str] | Literal["all"] | None = None,
    allow: Mapping[str, float] | None = None,
) -> list[str]:
    """Choose the keys of the metrics to compare, in the order of tables.

    Args:
        base, candidate: documents.
        metrics: keys, `all`, or None for the default gate and the keys of `allow`; all where
            neither document holds one of these.
        allow: tolerances.

    Raises:
        UserError: if a metric or a tolerance names nothing that either document holds.
    """
    present = list(dict.fromkeys((*base["metrics"], *candidate["metrics"])))
    named = metrics if metrics is not None and metrics != "all" else ()
    for key in (*(allow or {}), *named):
        if key not in present:
            raise UserError(f"Neither result holds a metric {key!r}.")
    if metrics == "all":
        wanted = present
    elif metrics is not None:
        wanted = list(dict.fromkeys(metrics))
    else:
        wanted = [k for k in present if k in default_gate() or k in (allow or {})] or present
    order = {key: k for k, key in enumerate(all_metrics())}
    return sorted(wanted, key=lambda key: order.get(key, len(order)))


def changes(
    base: Mapping[str, Any],
    candidate: Mapping[str, Any],
    allow: Mapping[str, float] | None = None,
    metrics: Sequence[str] | Literal["all"] | None = None,
    level: float = LEVEL,
) -> list[Change]:
    """Compare metric by metric.

    Args:
        base, candidate: `crysmetrics/1` documents that can be compared.
        allow: key of metric -> how much worse it may get, in its unit; 0 where not given.
        metrics: keys to look at, or `all`; by default those of `chosen_keys`.
        level: chance that at least one metric fails, or is better, by chance alone.

    Raises:
        UserError: if a metric or tolerance names nothing that is there, or the candidate lacks a
            metric of the base, or what was named can't be compared at these numbers of
            structures.
    """
    allow = dict(allow or {})
    before, after = base["metrics"], candidate["metrics"]
    keys = chosen_keys(base, candidate, metrics, allow)
    missing = [key for key in keys if key in before and key not in after]
    if missing:
        raise IncomparableError(
            f"The candidate lacks {', '.join(missing)}; evaluate it with the same metrics, or "
            "choose some with --metrics."
        )
    found = [_change(key, before.get(key), after[key], allow.get(key, 0.0)) for key in keys]
    refused = [change for change in found if change.verdict == "not comparable"]
    if refused and (len(refused) == len(found) or metrics not in (None, "all")):
        names = ", ".join(change.key for change in refused)
        raise IncomparableError(f"{names} can't be compared: {refused[0].reason}.")
    return _judged(found, level)


def _change(
    key: str, before: Mapping[str, Any] | None, after: Mapping[str, Any], allowed: float
) -> Change:
    """Describe the change of one metric, not judged yet: `same` where it can be judged."""
    metric = all_metrics()[key]
    old = None if before is None else before["value"]
    change = Change(
        key, metric.better, metric.unit, old, after["value"], None, None, allowed, "same"
    )
    if after.get("skipped"):
        return replace(change, verdict="skipped", reason=after["reason"])
    if before is None or old is None:
        return replace(change, verdict="new", reason=after.get("reason", ""))
    if after["value"] is None:
        reason = f"undefined now: {after.get('reason', 'no reason given')}"
        return replace(change, verdict="failed", reason=reason)
    sizes = [e["n_gen"] for e in (before, after) if e.get("n_gen") is not None]
    if metric.biased and sizes_differ(sizes):
        reason = f"it depends on the number of structures, {sizes[0]:,} against {sizes[-1]:,}"
        return replace(change, verdict="not comparable", reason=reason)
    change = replace(change, difference=float(after["value"]) - float(old))
    errors = [e["stderr"] for e in (before, after)]
    if None in errors:
        return replace(change, reason="no standard error is known")
    change = replace(change, stderr=math.hypot(*errors))
    p_worse = _chance(change.worse_by, before, after, metric.better)
    return replace(change, p_worse=p_worse)


def _chance(
    worse_by: float, before: Mapping[str, Any], after: Mapping[str, Any], better: str
) -> float:
    """Compute the chance of a change for the worse at least as large, were both runs equally good.

    Each value may be off toward the other by its interval on that side, which for shares is
    Wilson's: near 0 and 1 the normal error vanishes, and a single failure more would count
    (Newcombe 1998, method 10). Never by less than its standard error.
    """
    up = before["value"] <= after["value"]
    sides = [_error(before, up), _error(after, not up)]
    error = math.hypot(*sides)
    if worse_by == 0:
        return 0.5
    score = math.copysign(math.inf, worse_by) if error == 0 else worse_by / error
    return 0.5 * math.erfc(score / math.sqrt(2))


def _error(entry: Mapping[str, Any], up: bool) -> float:
    """Compute the standard error of a value toward one side."""
    stderr = float(entry["stderr"])
    if entry.get("ci95") is None:
        return stderr
    low, high = entry["ci95"]
    return max(stderr, (high - entry["value"] if up else entry["value"] - low) / Z95)


def _judged(found: Sequence[Change], level: float) -> list[Change]:
    """Judge changes, by Holm's procedure for worse and for better separately."""
    open_ones = [c for c in found if c.verdict == "same"]
    # Without a standard error every change counts.
    worse, better = {}, {}
    for change in open_ones:
        chance = change.p_worse
        if chance is None:
            chance = 0.0 if change.worse_by > 0 else 1.0
        worse[change.key] = chance
        better[change.key] = 1 - chance if change.difference else 1.0
    got_worse, got_better = _holm(worse, level), _holm(better, level)
    judged = []
    for change in found:
        verdict = change.verdict
        if change.key in got_worse:
            verdict = "failed" if change.worse_by > change.allowed else "within tolerance"
        elif change.key in got_better:
            verdict = "better"
        judged.append(replace(change, verdict=verdict))
    return judged


def _holm(chances: Mapping[str, float], level: float) -> set[str]:
    """List keys whose hypothesis is rejected at a family-wise level (Holm 1979)."""
    rejected: set[str] = set()
    for k, key in enumerate(sorted(chances, key=lambda key: chances[key])):
        if chances[key] > level / (len(chances) - k):
            break
        rejected.add(key)
    return rejected
