"""Changes between results for people and for CI: a table, Markdown, JUnit XML, JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from crysmetrics.reporting.compare import Change, Verdict
from crysmetrics.reporting.gates import LEVEL
from crysmetrics.reporting.tables import escape_markdown

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = ("Metric", "Base", "Candidate", "Change", "± (SE)", "Allowed", "Verdict")
_MARKS = {"failed": "❌", "better": "✅", "within tolerance": "⚠️"}
_NOT_JUDGED: tuple[Verdict, ...] = ("new", "skipped", "not comparable")


def change_table(found: Sequence[Change]) -> Table:
    """Make a table for the terminal."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in _COLUMNS:
        right = title not in ("Metric", "Verdict")
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    styles = {"failed": "bold red", "better": "green", "within tolerance": "yellow"}
    for change in found:
        table.add_row(*_cells(change), style=styles.get(change.verdict))
    return table


def change_markdown(
    found: Sequence[Change], base: str, candidate: str, level: float = LEVEL
) -> str:
    """Write a section in GitHub-flavoured Markdown, for a job's summary or a comment."""
    failed = [change.key for change in found if change.failed]
    headline = f"{len(failed)} of {len(found)} metrics got worse" if failed else "No metric failed"
    lines = [
        f"### crysmetrics: {headline}",
        "",
        f"`{base}` against `{candidate}`",
        "",
        "| " + " | ".join(_COLUMNS) + " |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for change in found:
        key, *numbers, verdict = _cells(change)
        mark = _MARKS.get(change.verdict, "")
        verdict = f"{mark} {escape_markdown(verdict)}".strip()
        lines.append("| " + " | ".join([f"`{key}`", *numbers, verdict]) + " |")
    lines += [
        "",
        rule(level),
    ]
    return "\n".join(lines) + "\n"


def rule(level: float) -> str:
    """Say when a metric fails."""
    return (
        "A metric fails when it got worse by more than allowed and by more than chance explains: "
        f"a run as good as its baseline fails with a chance of at most {level:.2g} (Holm's "
        "procedure over the metrics shown)."
    )


def change_junit(found: Sequence[Change], base: str, candidate: str) -> str:
    """Write JUnit XML with one test case for each metric."""
    suite = ElementTree.Element(
        "testsuite",
        name="crysmetrics compare",
        tests=str(len(found)),
        failures=str(sum(change.failed for change in found)),
        errors="0",
        skipped=str(sum(change.verdict in _NOT_JUDGED for change in found)),
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (("base", base), ("candidate", candidate)):
        ElementTree.SubElement(properties, "property", name=name, value=_printable(value))
    for change in found:
        case = ElementTree.SubElement(
            suite, "testcase", classname="crysmetrics", name=_printable(change.key)
        )
        text = _sentence(change)
        if change.failed:
            ElementTree.SubElement(case, "failure", message=text, type="regression").text = text
        elif change.verdict in _NOT_JUDGED:
            ElementTree.SubElement(case, "skipped", message=text)
        else:
            ElementTree.SubElement(case, "system-out").text = text
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    body = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def change_json(
    found: Sequence[Change], base: str, candidate: str, level: float = LEVEL
) -> dict[str, Any]:
    """Make a document of schema `crysmetrics-compare/1`."""
    return {
        "schema": "crysmetrics-compare/1",
        "base": base,
        "candidate": candidate,
        "level": level,
        "failed": [change.key for change in found if change.failed],
        "changes": {
            change.key: {
                "base": change.base,
                "candidate": change.candidate,
                "difference": change.difference,
                "stderr": change.stderr,
                "significance": change.significance,
                "p_worse": change.p_worse,
                "allowed": change.allowed,
                "better": change.better,
                "unit": change.unit,
                "verdict": change.verdict,
                **({"reason": change.reason} if change.reason else {}),
            }
            for change in found
        },
    }


def _cells(change: Change) -> tuple[str, ...]:
    verdict = f"{change.verdict} ({change.reason})" if change.reason else change.verdict
    return (
        f"{change.key} {'↑' if change.better == 'higher' else '↓'}",
        _number(change.base),
        _number(change.candidate),
        _number(change.difference, signed=True),
        _number(change.stderr),
        f"{change.allowed:g}",
        verdict,
    )


def _number(value: float | None, signed: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value:+.4f}" if signed else f"{value:.4f}"


def _sentence(change: Change) -> str:
    key, base, candidate, difference, stderr, allowed, verdict = _cells(change)
    return (
        f"{key}: {base} -> {candidate}, change {difference}, standard error {stderr}, "
        f"allowed {allowed}: {verdict}"
    )


def _printable(text: str) -> str:
    """Remove characters that XML can't hold."""
    return "".join(c if c.isprintable() else "?" for c in text)
