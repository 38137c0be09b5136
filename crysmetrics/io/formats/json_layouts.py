"""How records of structures lie in a JSON text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from crysmetrics.io.entries import Columns
from crysmetrics.io.formats.arrays import KEYS as ARRAYS
from crysmetrics.io.formats.arrays import has_arrays
from crysmetrics.io.json_text import Repeated, load_json, spans, too_large
from crysmetrics.io.parsed import STRUCTURE_KEYS, lines_of

CONTAINERS = ("structures", "data", "results", "entries", "materials", "crystals", "documents")
"""Keys below which a list of records may stand."""

OWN_KEYS = (
    *("lattice", "sites", "lattice_mat", "lattice_vectors", "attributes", "frac_coords"),
    *("cell", "@class"),
)
"""Keys that a record of a structure itself has."""

_LOOKS = (
    (("schema", "metrics", "settings"), "a report of crysmetrics"),
    (("format", "kind", "config"), "the card of a model"),
    (("sites", "@module"), "a molecule of pymatgen (it has no lattice)"),
    (("sites",), "a molecule (it has no lattice)"),
    (("nbformat",), "a Jupyter notebook"),
    (("errors",), "the error message of a database"),
    (("error",), "the error message of a database"),
    (("features", "type"), "GeoJSON"),
    (("$schema",), "a JSON schema"),
    (("archive",), "an archive of NOMAD"),
)
"""Keys of other files that are often taken for structures, and what these are."""


class Record(NamedTuple):
    """One record, or the reason why it can't be read."""

    name: str | None
    """The id that the layout gives it."""
    data: Any
    reason: str | None = None


def records(text: str, columns: Columns) -> Iterator[Record]:
    """Read records of a JSON text, one at a time where it is large.

    Raises:
        ValueError: with the reason, if the text is no JSON, or can't be read in parts.
    """
    if too_large(text):
        yield from _large(text)
        return
    try:
        data = load_json(text)
    except ValueError:
        if not _has_lines(text):
            raise
    else:
        yield from _records(data, columns)
        return
    yield from _lines(text)


def _has_lines(text: str) -> bool:
    """Tell whether a text may hold one record per line: the first one is a whole one."""
    filled = (line for line in lines_of(text) if line.strip())
    first = next(filled, "")
    if next(filled, None) is None:
        return False
    try:
        load_json(first)
    except ValueError:
        return False
    return True


def _lines(text: str) -> Iterator[Record]:
    for line in lines_of(text):
        if line.strip():
            yield _record(None, line)


def _record(name: str | None, text: str) -> Record:
    try:
        return Record(name, load_json(text))
    except ValueError as error:
        return Record(name, None, str(error))


def _large(text: str) -> Iterator[Record]:
    """Read records of a text that is too large to be read at once."""
    if _has_lines(text):
        yield from _lines(text)
        return
    is_mapping, empty = text.lstrip()[:1] == "{", True
    for key, start, end in spans(text):
        if (key is None) == is_mapping:
            raise ValueError("is no JSON")
        name = None if key is None else str(load_json(key))
        if name in (*CONTAINERS, *STRUCTURE_KEYS):
            raise ValueError(
                f"is JSON of {len(text) / 1e6:.0f} MB in one table; give it as one record a line "
                "(.jsonl)"
            )
        yield _record(name, text[start:end])
        empty = False
    if empty:
        raise ValueError(f"is JSON of {len(text) / 1e6:.0f} MB without structures")


def _records(data: Any, columns: Columns) -> Iterator[Record]:
    if isinstance(data, list):
        yield from (Record(None, record) for record in data)
        return
    if not isinstance(data, Mapping) or _is_record(data, columns):
        yield Record(None, data)
        return
    table = _table(data, columns)
    if table is not None:
        yield from table
        return
    inner = next((data[key] for key in CONTAINERS if key in data), None)
    if isinstance(inner, str) and "DataFrame" in str(data.get("@class")):  # of monty
        yield from _records(load_json(inner), columns)
        return
    if isinstance(inner, (list, Mapping)) and not _is_mapping_of_records(data, columns):
        yield from _records(inner, columns)
        return
    if data and not any(map(_may_be_record, data.values())):
        yield Record(None, None, describe(data))
        return
    pairs = data.pairs if isinstance(data, Repeated) else data.items()
    yield from (Record(str(name), record) for name, record in pairs)


def _may_be_record(value: Any) -> bool:
    """Tell whether a value of a mapping could be a structure, so that its key is an id."""
    if isinstance(value, Mapping):
        return any(k in value for k in (*OWN_KEYS, *STRUCTURE_KEYS))
    return isinstance(value, str) and (len(value) > 100 or "\n" in value)


def describe(record: Mapping[str, Any]) -> str:
    """Say what a mapping that holds no structure looks like instead."""
    for keys, title in _LOOKS:
        if all(key in record for key in keys):
            return f"looks like {title}, not like structures"
    if "@class" in record:
        return f"looks like pymatgen's {str(record['@class'])[:40]}, which holds no structure"
    if "frac_coords" in record or "atom_types" in record:
        lacking = [k for k in (*ARRAYS, "lengths", "angles") if k not in record]
        return f"looks like arrays of a generative model, but lacks {', '.join(lacking)}"
    fields = ", ".join(map(str, list(record)[:6]))[:100].replace("\n", " ")
    return f"holds no structure (its fields: {fields})" if fields else "holds no structure"


def _structure_keys(columns: Columns) -> tuple[str, ...]:
    return STRUCTURE_KEYS if columns.structure is None else (columns.structure,)


def _is_record(data: Mapping[str, Any], columns: Columns) -> bool:
    """Tell whether a mapping is one record, not many of them."""
    if has_arrays(data) or ("lattice" in data and "sites" in data):
        return True
    if "attributes" in data or "lattice_mat" in data or "lattice_vectors" in data:
        return True
    if "cell" in data and ("numbers" in data or "positions" in data):
        return True
    for key in _structure_keys(columns):
        if isinstance(data.get(key), str):
            return True
        inner = data.get(key)
        if isinstance(inner, Mapping) and any(k in inner for k in OWN_KEYS):
            return True
    return False


def _is_mapping_of_records(data: Mapping[str, Any], columns: Columns) -> bool:
    """Tell whether all values are records, so that a key like `data` is an id."""
    return all(isinstance(v, Mapping) and _is_record(v, columns) for v in data.values())


def _table(data: Mapping[str, Any], columns: Columns) -> Iterator[Record] | None:
    """Read rows of a table that pandas wrote by columns or split into columns, index and data."""
    names, rows = data.get("columns"), data.get("data")
    if isinstance(names, list) and isinstance(rows, list):
        titles = [str(name) for name in names]
        return (
            Record(None, dict(zip(titles, row, strict=False)) if isinstance(row, list) else row)
            for row in rows
        )
    wanted = {key.lower() for key in _structure_keys(columns)}
    if not any(str(key).strip().lower() in wanted for key in data):
        return None
    if all(isinstance(values, list) for values in data.values()):
        lengths = {len(values) for values in data.values()}
        if len(lengths) == 1:
            return (Record(None, {k: v[i] for k, v in data.items()}) for i in range(*lengths))
    if all(isinstance(values, Mapping) for values in data.values()):
        labels = dict.fromkeys(label for values in data.values() for label in values)
        return (
            Record(None, {k: v[label] for k, v in data.items() if label in v}) for label in labels
        )
    return None
