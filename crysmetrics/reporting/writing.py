"""Folders of results: everything that one evaluation leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from crysmetrics.errors import UserError
from crysmetrics.io.atomic import is_temporary, remove_left
from crysmetrics.io.csv_files import write_csv
from crysmetrics.reporting.comparison_page import render_comparison
from crysmetrics.reporting.html import render
from crysmetrics.reporting.latex import bibliography, latex_table
from crysmetrics.reporting.published import PublishedRow, published_rows
from crysmetrics.reporting.report import Report
from crysmetrics.reporting.tables import Document, markdown, wide_table

RESULT_FILES = (
    *("metrics.json", "metrics.csv", "per_structure.csv"),
    *("table.tex", "references.bib", "table.md", "report.html"),
)
"""Files of one result."""
JOINT_FILES = ("table.csv", "table.tex", "references.bib", "table.md", "report.html")
"""Files over the results of several models."""


def write_results(
    report: Report, folder: Path, name: str, columns: Sequence[str] | None = None
) -> None:
    """Write RESULT_FILES into an existing folder.

    Args:
        report: of `crysmetrics.evaluate`.
        folder: where the files go.
        name: of the model, in tables.
        columns: of the LaTeX table, see `latex_table`.
    """
    document = report.as_json()
    rows = rows_beside(report)
    _write(folder / "metrics.json", report.to_json())
    write_csv(report.to_pandas(), folder / "metrics.csv", index=True)
    if not (folder / "per_structure.csv").exists():  # a stream has written it on the way
        write_csv(report.per_structure["gen"], folder / "per_structure.csv")
    _write_tables({name: document}, rows, folder, columns)
    _write(folder / "report.html", render(report, name))


def write_comparison(
    reports: Mapping[str, Report], folder: Path, columns: Sequence[str] | None = None
) -> None:
    """Write JOINT_FILES over several models, whose results lie in folders of their names."""
    documents = {name: report.as_json() for name, report in reports.items()}
    rows = rows_beside(next(iter(reports.values())))
    write_csv(wide_table(documents), folder / "table.csv")
    _write_tables(documents, rows, folder, columns)
    _write(folder / "report.html", render_comparison(documents))


def _write_tables(
    documents: Mapping[str, Document],
    rows: Sequence[PublishedRow],
    folder: Path,
    columns: Sequence[str] | None,
) -> None:
    _write(folder / "table.tex", latex_table(documents, rows, columns))
    _write(folder / "references.bib", bibliography(rows))
    _write(folder / "table.md", markdown(documents, rows))


def rows_beside(report: Report) -> list[PublishedRow]:
    """List the published rows of the data set that the thresholds belong to."""
    dataset = None if report.thresholds is None else report.thresholds.name
    return published_rows(dataset, report.settings.get("protocol"))


def refuse_foreign(folder: Path) -> None:
    """Raise `UserError` if a folder to be replaced holds other things than results.

    Folders inside it may be results of several models.
    """
    if not folder.is_dir():
        return
    remove_left(folder)
    for child in folder.iterdir():
        if is_temporary(child):
            raise UserError(f"Another run is writing to {folder} ({child.name}).")
        if child.is_dir() and (child / "metrics.json").is_file():
            refuse_foreign(child)
        elif child.name not in (*RESULT_FILES, *JOINT_FILES):
            raise UserError(f"{folder} holds other things than results; not replaced.")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
