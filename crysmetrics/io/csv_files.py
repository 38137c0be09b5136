"""CSV tables that a spreadsheet shows and does not run.

Spreadsheets take a cell that begins with `=`, `+`, `-`, `@`, a tab or a carriage return for a
formula, and ids and file names come from anywhere. An apostrophe before such a cell makes it text
(OWASP, "CSV Injection"). Numbers stay as they are. `unquoted` gives back what was written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import pandas as pd

# Cells that already begin with apostrophes get one more, so that the first can be taken away.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_QUOTED = re.compile(r"'+[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def quoted(cell: Any) -> Any:
    """Return a cell with an apostrophe before it, if it is text that a spreadsheet would run."""
    if not isinstance(cell, str) or not _FORMULA.match(cell) or _NUMBER.fullmatch(cell):
        return cell
    return f"'{cell}"


def unquoted(cell: str) -> str:
    """Return what `quoted` was given."""
    return cell[1:] if _QUOTED.match(cell) else cell


def write_csv(
    table: pd.DataFrame,
    file: str | Path | TextIO,
    *,
    index: bool = False,
    header: bool = True,
    columns: Sequence[str] | None = None,
) -> None:
    """Write a table, its text cells, row labels and column names as `quoted` gives them.

    Args:
        table: any.
        file: where it goes; see `atomic_file`.
        index: write the row labels too.
        header: write the column names.
        columns: which, and in which order; all by default.
    """
    if columns is not None:
        table = table[list(columns)]
    safe = table.copy(deep=False)
    for name in table.columns[[kind.kind == "O" for kind in table.dtypes]]:
        safe[name] = table[name].map(quoted)  # whole numbers with gaps would turn into floats
    safe = safe.rename(columns=quoted)
    if index:
        safe = safe.rename(index=quoted)
    safe.to_csv(file, index=index, header=header)
