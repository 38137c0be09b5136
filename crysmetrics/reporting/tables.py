"""Tables over models: CSV for programs, Markdown for people (LaTeX: `reporting.latex`).

All are made from `crysmetrics/1` documents, so that results of other days and machines enter too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from crysmetrics import console
from crysmetrics.metrics.registry import all_metrics
from crysmetrics.protocols import shortfalls
from crysmetrics.reporting.published import (
    PublishedRow,
    dataset_title,
    not_comparable,
    other_reference,
)

if TYPE_CHECKING:
    import pandas as pd

Document = Mapping[str, Any]

_WIDTH = 6
"""Metrics side by side in a table for people."""


def wide_table(documents: Mapping[str, Document]) -> pd.DataFrame:
    """Make a table with a row for each model: `model`, `n_gen`, metrics, standard errors, notes."""
    import pandas as pd

    rows = []
    for name, document in documents.items():
        inputs = document["inputs"]["gen"]
        row: dict[str, Any] = {"model": name, "n_gen": inputs["read"] + inputs["failed"]}
        for key, entry in document["metrics"].items():
            row[key], row[f"{key}_stderr"] = entry["value"], entry["stderr"]
        rows.append(row)
    table = pd.DataFrame(rows)
    notes = [" ".join(shortfall_notes({name: d})) for name, d in documents.items()]
    return table.assign(note=notes) if any(notes) else table


def shown(value: float | None, unit: str, error: float | None = None) -> str:
    """Write a value with its error, shares in percent."""
    if value is None:
        return "–"
    text = shown_like(value, value, unit)
    return text if error is None else f"{text} ± {shown_like(error, value, unit)}"


def shown_like(number: float, value: float, unit: str) -> str:
    """Write a number that belongs to a value, such as its error, with as many decimals as that."""
    scale, digits = (100, 2) if unit == "share" else (1, 4 if abs(value) < 10 else 2)
    return f"{scale * number:.{digits}f}"


def as_printed(value: float, unit: str, deviation: float | None = None) -> str:
    """Write a published value with the digits of its source, shares in percent."""
    scale = 100 if unit == "share" else 1
    text = f"{scale * value:.8g}"
    return text if deviation is None else f"{text} ± {scale * deviation:.8g}"


def heading(key: str) -> str:
    """Write a metric's name with unit and direction."""
    metric = all_metrics()[key]
    unit = {"share": " (%)", "1": ""}.get(metric.unit, f" ({metric.unit})")
    return f"{metric.label}{unit} {'↑' if metric.better == 'higher' else '↓'}"


def cells(
    documents: Mapping[str, Document], published: Iterable[PublishedRow] = ()
) -> tuple[list[str], list[tuple[str, dict[str, str], PublishedRow | None]]]:
    """Lay out a table: keys of metrics, and rows of name, texts by key, and source."""
    declared = all_metrics()
    keys = [
        key
        for key in declared
        if any(d["metrics"].get(key, {}).get("value") is not None for d in documents.values())
    ]
    rows: list[tuple[str, dict[str, str], PublishedRow | None]] = []
    for row in published:
        texts = {
            key: as_printed(row.values[key], declared[key].unit, row.deviations.get(key))
            + ("†" if key in not_comparable() else "")
            for key in keys
            if key in row.values
        }
        if texts:
            rows.append((row.model, texts, row))
    for name, document in documents.items():
        entries = document["metrics"]
        texts = {
            key: shown(entries[key]["value"], declared[key].unit, entries[key]["stderr"])
            for key in keys
            if key in entries
        }
        rows.append((f"{name} ‡" if shortfalls(document) else name, texts, None))
    return keys, rows


def markdown(documents: Mapping[str, Document], published: Sequence[PublishedRow] = ()) -> str:
    """Write tables in GitHub-flavoured Markdown, a few metrics side by side, with notes."""
    lines = []
    for keys, rows in _parts(documents, published):
        lines.append("| | " + " | ".join(heading(key) for key in keys) + " |")
        lines.append("| --- |" + " ---: |" * len(keys))
        for name, texts, source in rows:
            shown_name = escape_markdown(name)
            shown_name = shown_name if source else f"**{shown_name}**"
            texts_of_row = (texts.get(key, "") for key in keys)
            lines.append(f"| {shown_name} | " + " | ".join(texts_of_row) + " |")
        lines.append("")
    lines += [f"- {note}" for note in notes(documents, published)]
    return "\n".join(lines).rstrip() + "\n"


def notes(documents: Mapping[str, Document], published: Iterable[PublishedRow]) -> list[str]:
    """List what a reader must know: errors, protocols, sources, limits of comparison."""
    found = ["± is one standard error; of published rows, what their source says it is."]
    protocols = dict.fromkeys(d["settings"].get("protocol") for d in documents.values())
    found += [f"Protocol: {p}." for p in protocols if p]
    used = cells(documents, published)[1]
    if datasets := {row.dataset for _, _, row in used if row is not None}:
        titles = ", ".join(sorted(map(dataset_title, datasets)))
        found.append(f"Published rows are against the {titles}.")
        differences = (other_reference(s, d) for s in sorted(datasets) for d in documents.values())
        found += dict.fromkeys(text for text in differences if text)
    found += shortfall_notes(documents)
    sources: dict[tuple[str, str, str], list[str]] = {}
    for name, _, row in used:
        if row is not None:
            sources.setdefault((row.source, row.protocol, row.note), []).append(name)
    for (source, protocol, note), names in sources.items():
        found.append(
            f"{', '.join(names)}: {source}; protocol {protocol}.{' ' + note + '.' if note else ''}"
        )
    marked = {key for _, texts, row in used if row for key in texts} & set(not_comparable())
    found += [f"† {not_comparable()[key]}" for key in sorted(marked)]
    undefined = {
        f"{key} is undefined for {name}: {entry['reason']}."
        for name, document in documents.items()
        for key, entry in document["metrics"].items()
        if entry["value"] is None
    }
    return [*found, *sorted(undefined)]


def shortfall_notes(documents: Mapping[str, Document]) -> list[str]:
    """Say which rows are of fewer structures than their protocol takes; such rows have a ‡."""
    found = []
    for name, document in documents.items():
        keys_by_text: dict[str, list[str]] = {}
        for key, text in shortfalls(document).items():
            keys_by_text.setdefault(text, []).append(key)
        found += [f"‡ {name}: {', '.join(k)} {text}." for text, k in keys_by_text.items()]
    return found


def _parts(
    documents: Mapping[str, Document], published: Sequence[PublishedRow]
) -> Iterable[tuple[list[str], list[tuple[str, dict[str, str], PublishedRow | None]]]]:
    keys, rows = cells(documents, published)
    for start in range(0, len(keys), _WIDTH):
        part = keys[start : start + _WIDTH]
        # A published row enters where it has something to say.
        yield part, [row for row in rows if row[2] is None or any(k in row[1] for k in part)]


def escape_markdown(text: str) -> str:
    """Escape text for a cell of a Markdown table."""
    return "".join(
        f"\\{c}" if c in "\\|*_`<>[]#" else c for c in console.shown(text.replace("\n", " "))
    )
