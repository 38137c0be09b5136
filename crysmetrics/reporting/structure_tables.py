"""Tables with one row for each structure of a set, and who failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from crysmetrics.features.sample import Sample
from crysmetrics.metrics.base import Outcome
from crysmetrics.metrics.description import describe

if TYPE_CHECKING:
    import pandas as pd


def failures(sample: Sample) -> Iterator[dict[str, str]]:
    """List every structure of a set that failed: `input`, `file`, `reason`."""
    for failure in (*sample.crystals.failures, *sample.failed_features()):
        yield {"input": sample.role, "file": failure[0], "reason": failure[1]}


def tables(samples: Sequence[Sample], outcomes: Sequence[Outcome]) -> dict[str, pd.DataFrame]:
    """Make tables with a row for each structure: those read, then those that failed."""
    import pandas as pd

    found = {}
    for sample in samples:
        columns: dict[str, Any] = {"id": list(sample.crystals.ids)}
        for outcome in outcomes:
            if sample.role == "gen":
                columns |= outcome.per_structure
            elif sample.role == "ref":
                columns |= outcome.per_reference
        table = pd.DataFrame(columns)
        reasons: dict[str, list[str]] = {}
        for name, reason in sample.failed_features():
            reasons.setdefault(name, []).append(reason)
        joined = {name: "; ".join(found) for name, found in reasons.items()}
        table["reason"] = table["id"].map(joined).fillna("")
        if sample.crystals.failures:
            # What can't be read is not valid, not unique, ...
            noes = dict.fromkeys(table.select_dtypes(bool).columns, False)
            # Whole numbers, or nothing: NaN would turn them all into 1.0, 2.0, ...
            table = table.astype(dict.fromkeys(table.select_dtypes("integer").columns, "Int64"))
            rows = [{"id": f.file, **noes, "reason": f.reason} for f in sample.crystals.failures]
            table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
        found[sample.role] = table
    return found


def described(table: pd.DataFrame, sample: Sample) -> pd.DataFrame:
    """Add to a table of structures what they are: formula, size, density, space group."""
    import pandas as pd

    known = describe(sample)
    columns: dict[str, Any] = {"id": table["id"]}
    for name, values in known.items():
        # Failed structures stand last, and are nothing that could be described.
        kind = "Int64" if values.dtype.kind == "i" else None  # whole numbers, or nothing
        columns[name] = pd.Series(values, index=range(len(sample)), dtype=kind)
    rest = table.drop(columns=[name for name in ("id", *known) if name in table])
    return pd.concat([pd.DataFrame(columns, index=table.index), rest], axis=1)
