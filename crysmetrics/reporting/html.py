"""`report.html`: one file that opens offline, in any browser, on any screen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from crysmetrics._version import __version__
from crysmetrics.metrics.base import Value
from crysmetrics.metrics.registry import all_metrics
from crysmetrics.metrics.settings import ROLE_TITLES
from crysmetrics.protocols import PROTOCOLS
from crysmetrics.reporting import figures
from crysmetrics.reporting.hull_figures import hull_figures
from crysmetrics.reporting.published import (
    PublishedRow,
    dataset_title,
    not_comparable,
    other_reference,
    published_rows,
)
from crysmetrics.reporting.sameness_figures import sameness_figures
from crysmetrics.reporting.structures import shown_structures
from crysmetrics.reporting.tables import cells, heading, notes, shown, shown_like

if TYPE_CHECKING:
    from crysmetrics.reporting.report import Report


def render(report: Report, name: str | None = None) -> str:
    """Write the page, complete with styles, script and viewer.

    Args:
        report: of `crysmetrics.evaluate`, or of any other function; what it does not hold is
            left out.
        name: of the generated set; its path if not given.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(report_asset("report.html.j2"))
    structures = shown_structures(report)
    viewer = report_asset("3Dmol-min.js") if structures else ""
    return template.render(
        name=name or str(report.inputs["gen"]["path"] or "generated structures"),
        report=report,
        role_titles=ROLE_TITLES,
        version=__version__,
        protocol=PROTOCOLS.get(str(report.settings.get("protocol"))),
        style=report_asset("report.css"),
        script=report_asset("viewer.js") + report_asset("report.js"),
        # The library's licence asks for its notice wherever it goes.
        viewer=viewer and f"/*\n{report_asset('3Dmol-LICENSE.txt')}\n*/\n{viewer}",
        structures=structures,
        structures_json=json_for_script(structures),
        metrics=[_metric_row(key, value) for key, value in report.metrics.items()],
        published=_published(report, name or "this set"),
        distributions=figures.distributions(report),
        sweeps=figures.coverage_sweeps(report),
        by_size=figures.fad_by_size(report),
        sameness=sameness_figures(report),
        hulls=hull_figures(report),
        failures=_failures(report.failures),
        timing=sorted(report.timing.items(), key=lambda item: -item[1]),
        settings=json.dumps(report.settings, indent=1, ensure_ascii=False),
    )


def small_table(report: Report) -> str:
    """Write the metrics as an HTML table for a notebook's cell."""
    import jinja2

    template = jinja2.Environment(autoescape=True).from_string(report_asset("table.html.j2"))
    rows = [_metric_row(key, value) for key, value in report.metrics.items()]
    return template.render(metrics=rows, inputs=report.inputs, failures=len(report.failures))


def report_asset(name: str) -> str:
    """Read a style, script or template of the report."""
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


_NO_BREAK = "\N{NO-BREAK SPACE}"


def json_for_script(value: Any) -> str:
    """Write JSON that can't end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _metric_row(key: str, value: Value) -> dict[str, str]:
    metric = all_metrics()[key]
    error = interval = ""
    if value.value is not None and value.stderr is not None:
        error = shown_like(value.stderr, value.value, metric.unit)
    if value.value is not None and value.ci95 is not None:
        low, high = (shown_like(bound, value.value, metric.unit) for bound in value.ci95)
        interval = f"{low} – {high}"
    unit = {"share": "%", "1": ""}.get(metric.unit, metric.unit)
    return {
        "key": key,
        "label": metric.label,
        "value": shown(value.value, metric.unit),
        "error": error,
        "interval": interval,
        "unit": unit,
        "arrow": "↑" if metric.better == "higher" else "↓",
        "better": f"{metric.better} is better",
        "count": " / ".join(f"{n:,}" for n in (value.n_gen, value.n_ref) if n is not None),
        "note": value.reason or value.note or "",
        "source": metric.source,
        "definition": metric.definition,
    }


def _published(report: Report, name: str) -> dict[str, Any] | None:
    """Show the table beside published rows, or None where there are none."""
    dataset = None if report.thresholds is None else report.thresholds.name
    rows = published_rows(dataset, report.settings.get("protocol"))
    documents = {name: report.as_json()}
    keys, texts = cells(documents, rows)
    published_keys = {key for _, values, row in texts if row for key in values}
    keys = [key for key in keys if key in published_keys]
    if not keys:
        return None
    reference = other_reference(str(dataset), documents[name])
    above = (reference, f"Published rows are against the {dataset_title(str(dataset))}.")
    return {
        "dataset": dataset_title(str(dataset)),
        "reference": reference or "Compare only if your reference is the same.",
        # A direction on a line of its own would belong to nothing.
        "headings": [_NO_BREAK.join(heading(key).rsplit(" ", 1)) for key in keys],
        "rows": [
            {
                "model": model,
                "cells": [values.get(key, "") for key in keys],
                "source": row.source if row else "",
                "protocol": row.protocol if row else report.settings.get("protocol") or "",
                "ours": row is None,
            }
            for model, values, row in sorted(texts, key=_ours_first)
        ],
        "notes": [note for note in notes(documents, rows) if note not in above],
        "marked": not_comparable(),
    }


def _ours_first(row: tuple[str, Mapping[str, str], PublishedRow | None]) -> bool:
    return row[2] is not None


def _failures(failures: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Show failures by set and reason, the most frequent reason first; every file is named."""
    groups: dict[tuple[str, str], list[str]] = {}
    for failure in failures:
        groups.setdefault((failure["input"], failure["reason"]), []).append(failure["file"])
    ordered = sorted(groups.items(), key=lambda item: (item[0][0], -len(item[1]), item[0][1]))
    return [
        {"input": ROLE_TITLES[role], "reason": reason, "names": names}
        for (role, reason), names in ordered
    ]
