"""One LaTeX table of chosen metrics, and the BibTeX file of the works that it cites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crysmetrics.console import shown as harmless
from crysmetrics.metrics.registry import all_metrics
from crysmetrics.protocols import BRIEF_COLUMNS, shortfalls
from crysmetrics.reporting.published import (
    PublishedRow,
    dataset_title,
    not_comparable,
    other_reference,
    works,
)
from crysmetrics.reporting.tables import Document, heading, notes

MOST_COLUMNS = 8
"""Metrics of a protocol that are all taken, where no columns are chosen."""
_ESCAPED = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "±": r"$\pm$",
    "–": "--",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "∞": r"$\infty$",
    "³": r"$^3$",
    "²": r"$^2$",
    "Å": r"\AA{}",
}


def escape_latex(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(_ESCAPED.get(c, c) for c in harmless(text.replace("\n", " ")))


def latex_table(
    documents: Mapping[str, Document],
    published: Sequence[PublishedRow] = (),
    columns: Sequence[str] | None = None,
) -> str:
    """Write one table: a row for each model, the best of each column in bold, even decimals.

    Args:
        documents: `crysmetrics/1`, by name of the model.
        published: rows of other models, which come first and cite their source.
        columns: keys of metrics; by default those of a protocol that reports few, else those that
            most published rows have, and without such rows the short list of `--protocol brief`.
    """
    keys = chosen_columns(documents, published, columns)
    rows = [row for row in published if any(key in row.values for key in keys)]
    decimals = {key: _decimals(key, documents) for key in keys}
    best = {key: _best(key, documents, rows, decimals[key]) for key in keys}
    lines = [
        r"% Needs \usepackage{booktabs}; the works cited are in references.bib.",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_caption(documents, rows, keys)}}}",
        r"\label{tab:crystals}",
        rf"\begin{{tabular}}{{l{'r' * len(keys)}}}",
        r"\toprule",
        " & ".join(["Model", *(escape_latex(heading(key)) for key in keys)]) + r" \\",
        r"\midrule",
    ]
    for row in rows:
        cite = rf"~\cite{{{row.cite}}}" if row.cite else ""
        cells = [
            _cell(row.values.get(key), row.deviations.get(key), key, decimals[key], best[key])
            + (r"$^\dagger$" if key in not_comparable() and key in row.values else "")
            for key in keys
        ]
        lines.append(" & ".join([escape_latex(row.model) + cite, *cells]) + r" \\")
    if rows:
        lines.append(r"\midrule")
    for name, document in documents.items():
        mark = " ‡" if shortfalls(document) else ""
        entries = [document["metrics"].get(key, {}) for key in keys]
        cells = [
            _cell(entry.get("value"), entry.get("stderr"), key, decimals[key], best[key])
            for key, entry in zip(keys, entries, strict=True)
        ]
        lines.append(" & ".join([escape_latex(name + mark), *cells]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    lines += [f"% {harmless(note)}" for note in notes(documents, rows)]
    return "\n".join(lines) + "\n"


def bibliography(published: Sequence[PublishedRow]) -> str:
    """Write the works that rows cite in BibTeX, and this package's own entry."""
    keys = dict.fromkeys(row.cite for row in published if row.cite)
    entries = []
    for key in keys:
        fields = dict(works()[key])
        kind = fields.pop("type")
        # Double braces keep the capitals of names and formulas in titles.
        fields["title"] = f"{{{fields['title']}}}"
        inner = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        entries.append(f"@{kind}{{{key},\n{inner}\n}}")
    return "\n\n".join(entries) + "\n" if entries else "% No publication is cited.\n"


def chosen_columns(
    documents: Mapping[str, Document],
    published: Sequence[PublishedRow] = (),
    columns: Sequence[str] | None = None,
) -> list[str]:
    """Choose the metrics that stand side by side; see `latex_table`."""
    if columns is not None:
        return list(columns)
    present = [
        key
        for key in all_metrics()
        if any(d["metrics"].get(key, {}).get("value") is not None for d in documents.values())
    ]
    if len(present) <= MOST_COLUMNS:
        return present
    shared = {
        key: count
        for key in present
        if key not in not_comparable() and (count := sum(key in row.values for row in published))
    }
    usual = sorted(shared, key=lambda key: -shared[key])[:MOST_COLUMNS] or BRIEF_COLUMNS
    return [key for key in present if key in usual] or present[:MOST_COLUMNS]


def _cell(
    value: float | None, error: float | None, key: str, decimals: int, best: float | None
) -> str:
    if value is None:
        return "--"
    scale = _scale(key)
    number = f"{scale * value:.{decimals}f}"
    text = rf"\textbf{{{number}}}" if best is not None and float(number) == best else number
    return text if error is None else rf"{text} $\pm$ {scale * error:.{decimals}f}"


def _scale(key: str) -> int:
    return 100 if all_metrics()[key].unit == "share" else 1


def _decimals(key: str, documents: Mapping[str, Document]) -> int:
    """Choose how many decimals a column has: as published tables do, more for small errors."""
    if _scale(key) == 100:
        return 2
    errors = [d["metrics"][key]["stderr"] for d in documents.values() if key in d["metrics"]]
    return 4 if any(error and error < 0.001 for error in errors) else 3


def _best(
    key: str, documents: Mapping[str, Document], rows: Sequence[PublishedRow], decimals: int
) -> float | None:
    """Find the best of a column as it is printed; None where there is nothing to choose from."""
    values = [d["metrics"].get(key, {}).get("value") for d in documents.values()]
    if key not in not_comparable():
        values += [row.values.get(key) for row in rows]
    printed = [round(_scale(key) * v, decimals) for v in values if v is not None]
    if len(printed) < 2:
        return None
    choose: Any = max if all_metrics()[key].better == "higher" else min
    return float(f"{choose(printed):.{decimals}f}")


def _caption(
    documents: Mapping[str, Document], rows: Sequence[PublishedRow], keys: Sequence[str]
) -> str:
    """Explain what stands in the table: errors, bold, marks, the data of published rows."""
    text = (
        "Metrics of generated crystals. Arrows point to the better side, the best of each column "
        "is bold; shares are in percent. ± is one standard error over the structures of a set"
    )
    text += ", of published rows what their source says it is." if rows else "."
    if datasets := sorted({row.dataset for row in rows}):
        names = ", ".join(dataset_title(name) for name in datasets)
        text += f" Published rows are against the {names}."
        other = (other_reference(name, d) for name in datasets for d in documents.values())
        text += "".join(f" {sentence}" for sentence in dict.fromkeys(filter(None, other)))
    if any(key in not_comparable() and key in row.values for row in rows for key in keys):
        text += " †: made with another network, not comparable."
    if any(shortfalls(document) for document in documents.values()):
        text += " ‡: fewer structures than the protocol takes."
    return escape_latex(text)
