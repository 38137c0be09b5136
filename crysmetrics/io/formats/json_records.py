"""JSON: records of structures, in the layouts that programs and databases use.

A record is a structure (of pymatgen, JARVIS, ase or OPTIMADE), a CIF text, or a row that holds one
of these beside properties. Records stand in a list, in a mapping from ids, one per line, in a
table as pandas writes it, or below a key such as `structures` or `data`. Arrays of a whole set, as
generative models save them, are read too. Nothing read here can name a class or run code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from crysmetrics.io import limits
from crysmetrics.io.cif import parse_cif
from crysmetrics.io.crystals import Failure
from crysmetrics.io.elements import ATOMIC_NUMBERS
from crysmetrics.io.entries import Columns, Entry, Source
from crysmetrics.io.formats import arrays, json_layouts
from crysmetrics.io.formats.base import Format
from crysmetrics.io.formats.extxyz import FORMAT as EXTXYZ
from crysmetrics.io.formats.extxyz import parse_extxyz
from crysmetrics.io.formats.poscar import parse_poscar
from crysmetrics.io.json_text import load_json
from crysmetrics.io.lattice import lattice_from_parameters
from crysmetrics.io.loading import load_file
from crysmetrics.io.parsed import (
    ID_KEYS,
    STRUCTURE_KEYS,
    Parsed,
    cart_to_frac,
    is_scalar,
    one_line,
    why_no_text,
)

_MAX_LITERAL = 2_000_000
"""Longest text of a Python dictionary, in characters; Python's parser takes 100 times as much."""


def open_json(path: Path, columns: Columns) -> Source:
    """Read entries of all records of a JSON file.

    Args:
        path: the file, compressed or not.
        columns: fields of records that hold ids and structures.
    """
    stem = path.name.split(".")[0]
    try:
        text = load_file(path, unpacked_limit=limits.MAX_PLAIN_BYTES)  # read in parts if large
    except ValueError as error:
        return Source([Entry(path.name, "", stem, reason=str(error))], 1, [])
    return Source(_entries(text, path.name, stem, columns), None, [])


def parse_json(text: str, source: str, max_atoms: int | None = None) -> Iterator[Parsed | Failure]:
    """Read structures of a JSON text, such as the cell of a table."""
    for entry in _entries(text, source, "0", Columns()):
        if entry.job is None:
            yield Failure(entry.name, entry.reason or "holds no structures")
            continue
        try:
            yield from entry.job(max_atoms)
        except ValueError as error:
            yield Failure(entry.name, str(error))


def _entries(text: str, source: str, stem: str, columns: Columns) -> Iterator[Entry]:
    reason = why_no_text(text)
    if reason is None:
        try:
            records = json_layouts.records(text, columns)
            first = next(records, None)
            if first is not None:
                second = next(records, None)
                yield from _numbered(first, second, records, source, stem, columns)
                return
            reason = "holds no structures"
        except ValueError as error:
            reason = str(error)
    yield Entry(source, "", stem, reason=reason)


def _numbered(
    first: json_layouts.Record,
    second: json_layouts.Record | None,
    others: Iterable[json_layouts.Record],
    source: str,
    stem: str,
    columns: Columns,
) -> Iterator[Entry]:
    """List entries of records; one that is alone has the file's name."""
    found = [first] if second is None else [first, second]
    for number, record in enumerate(chain(found, others), start=1):
        label = source if second is None else f"{source} entry {number}"
        default = stem if second is None else f"{stem}-{number - 1}"
        if record.reason is not None:
            yield Entry(label, "", default, reason=record.reason)
            continue
        key, name = _id(record.data, columns)
        name = record.name if record.name is not None else name
        if isinstance(record.data, Mapping) and arrays.has_arrays(record.data):
            yield from _of_arrays(record.data, label, name or default, second is None)
            continue
        job = partial(parse_record, record.data, label, columns.structure, key)
        yield Entry(label, "", default if name is None else name, job=job)


def _of_arrays(data: Mapping[str, Any], label: str, name: str, is_alone: bool) -> Iterator[Entry]:
    """List entries of arrays; ids count from 0 in one set, and below the record's id in several."""
    single = np.ndim(data["num_atoms"]) == 0
    try:
        for entry in arrays.array_entries(data, label, "" if is_alone else f"{name}/"):
            yield entry._replace(id=name) if single else entry
    except ValueError as error:
        yield Entry(label, "", name, reason=str(error))


def _id(record: Any, columns: Columns) -> tuple[str | None, str | None]:
    """Find the key of a record's id, and the id."""
    if not isinstance(record, Mapping):
        return None, None
    keys = ID_KEYS if columns.id is None else (columns.id,)
    folded = _folded(record)
    for wanted in keys:
        key = wanted if wanted in record else folded.get(wanted.lower())
        if key is not None and record[key] is not None and is_scalar(record[key]):
            return key, str(record[key])
    return None, None


def parse_record(
    record: Any,
    source: str,
    structure_key: str | None,
    id_key: str | None,
    max_atoms: int | None = None,
) -> list[Parsed | Failure]:
    """Read the structure of one record: a mapping, or the text of any format.

    Args:
        record: as it stands in JSON or in the cell of a table.
        source: for failures.
        structure_key: of its structure; by default a usual one.
        id_key: of its id, which is no property.
        max_atoms: larger cells are failures.

    Raises:
        ValueError: with the reason, if it holds none.
    """
    try:
        return _read_record(record, source, max_atoms, structure_key, id_key)
    except KeyError as error:
        raise ValueError(f"lacks {error}, so it is no structure") from error
    except (ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        reason = one_line(error)
        if not re.match(r"(has|holds|is|lacks|names|looks|states|can't|lists) ", reason):
            reason = f"is no structure that can be read ({reason})"
        raise ValueError(reason) from error


def _read_record(
    record: Any,
    source: str,
    max_atoms: int | None,
    structure_key: str | None = None,
    id_key: str | None = None,
) -> list[Parsed | Failure]:
    if isinstance(record, str):
        return _one(_parse_text(record, source, max_atoms))
    if not isinstance(record, Mapping):
        raise ValueError(f"is {_kind_of(record)}, not a structure")
    key = structure_key or _structure_key(record)
    if key is not None and record.get(key) is not None:
        found = _read_record(record[key], source, max_atoms)
        row = {
            k: v
            for k, v in record.items()
            if k not in (id_key, key) and k not in ("cif", "cif_str") and is_scalar(v)
        }
        return [
            f._replace(properties={**f.properties, **row}) if isinstance(f, Parsed) else f
            for f in found
        ]
    for keys, read in _KINDS:
        if all(k in record for k in keys):
            return [read(record, source)]
    raise ValueError(json_layouts.describe(record))


def _parse_text(text: str, source: str, max_atoms: int | None) -> list[Parsed | Failure]:
    """Read structures of a text of any format: a CIF, JSON, a POSCAR or extended XYZ."""
    head = text[:4096].lstrip("\ufeff \t\r\n")
    if head[:1] in ("{", "[", '"'):
        return _of_value(_literal(text), source, max_atoms)
    if EXTXYZ.sniff is not None and EXTXYZ.sniff(head.encode(errors="replace")):
        return list(parse_extxyz(text.lstrip("\ufeff \t\r\n"), source, max_atoms))
    if head.startswith("Full Formula ("):
        raise ValueError("is the text that pymatgen prints of a structure; it can't be read back")
    if not re.search(r"(?im)^\s*(data_|loop_|_cell|_atom)", text[:100_000]):
        found = parse_poscar(text, source, max_atoms)
        if isinstance(found[0], Parsed):
            return list(found)
    return list(parse_cif(text, source, max_atoms))


def _of_value(value: Any, source: str, max_atoms: int | None) -> list[Parsed | Failure]:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return _read_record(value, source, max_atoms)


def _one(found: list[Parsed | Failure]) -> list[Parsed | Failure]:
    if len(found) > 1:
        raise ValueError(f"holds {len(found)} structures in one text")
    return found


def _literal(text: str) -> Any:
    """Parse a JSON value, or what Python prints of a dictionary.

    Raises:
        ValueError: with the reason, if it is neither.
    """
    try:
        return load_json(text)
    except ValueError:
        if "'" not in text or len(text) > _MAX_LITERAL or text.count("[") > 100_000:
            raise
        try:
            return ast.literal_eval(text.strip())
        except (SyntaxError, RecursionError, MemoryError, TypeError):
            pass
        except ValueError:
            raise ValueError("is the text of Python objects, not of plain values") from None
        raise


def _structure_key(record: Mapping[str, Any]) -> str | None:
    """Find the key of a record's structure; one that holds something else comes last."""
    folded = _folded(record)
    keys = [folded[k] for k in ("structure", *STRUCTURE_KEYS) if k in folded]
    keys = [k for k in keys if record[k] is not None]
    likely = [
        k
        for k in keys
        if isinstance(record[k], Mapping) or (isinstance(record[k], str) and len(record[k]) > 40)
    ]
    return next(iter((*likely, *keys)), None)


def _folded(record: Mapping[str, Any]) -> dict[str, str]:
    """Map keys of a record in lower case, without blanks around, to the first ones as they are."""
    return {str(key).strip().lower(): key for key in reversed(list(record))}


# --- kinds of structures ---------------------------------------------------------------------


def _pymatgen(record: Mapping[str, Any], source: str) -> Parsed:
    cell = record["lattice"]
    if isinstance(cell, Mapping):
        lattice = cell.get("matrix") or lattice_from_parameters(
            *(float(cell[k]) for k in ("a", "b", "c", "alpha", "beta", "gamma"))
        )
    else:
        lattice = np.reshape(cell, (3, 3))
    numbers = [_site_element(site) for site in record["sites"]]
    if all("abc" in site for site in record["sites"]):
        frac: Any = [site["abc"] for site in record["sites"]]
    else:
        frac = cart_to_frac([site["xyz"] for site in record["sites"]], lattice)
    properties = {k: v for k, v in (record.get("properties") or {}).items() if is_scalar(v)}
    return Parsed(None, numbers, frac, lattice, source, properties)


def _site_element(site: Mapping[str, Any]) -> int:
    species = site["species"]
    if len(species) != 1 or abs(float(species[0].get("occu", 1)) - 1) > 1e-3:
        raise ValueError(f"is disordered: site {site.get('label', '?')} is partially occupied")
    return _element(species[0]["element"])


def _element(symbol: Any) -> int:
    if symbol not in ATOMIC_NUMBERS:
        raise ValueError(f"holds an unknown element {str(symbol)[:20]!r}")
    return ATOMIC_NUMBERS[symbol]


def _jarvis(record: Mapping[str, Any], source: str) -> Parsed:
    numbers = [_element(str(symbol).strip()) for symbol in record["elements"]]
    lattice, coords = record["lattice_mat"], record["coords"]
    frac = cart_to_frac(coords, lattice) if record.get("cartesian") else coords
    return Parsed(None, numbers, frac, lattice, source)


def _optimade(record: Mapping[str, Any], source: str) -> Parsed:
    found = record["attributes"]
    numbers = _optimade_species(found)
    periodic = found.get("dimension_types") or [1, 1, 1]
    if list(periodic) != [1, 1, 1]:
        raise ValueError(f"is periodic in {sum(map(bool, periodic))} directions, not in three")
    lattice = found["lattice_vectors"]
    if found.get("fractional_site_positions"):
        frac: Any = found["fractional_site_positions"]
    else:
        frac = cart_to_frac(found["cartesian_site_positions"], lattice)
    skipped = ("nsites", "nelements", "id", "type")
    properties = {k: v for k, v in found.items() if k not in skipped and is_scalar(v)}
    return Parsed(None, numbers, frac, lattice, source, properties)


def _optimade_species(found: Mapping[str, Any]) -> list[int]:
    symbols: dict[str, str] = {}
    for kind in found.get("species") or ():
        parts = kind["chemical_symbols"]
        shares = kind.get("concentration") or [1.0] * len(parts)
        whole = [s for s, share in zip(parts, shares, strict=True) if abs(float(share) - 1) < 1e-3]
        if len(parts) != 1 or len(whole) != 1 or kind.get("attached"):
            raise ValueError(f"is disordered: species {str(kind['name'])[:20]!r} is no whole atom")
        symbols[kind["name"]] = whole[0]
    return [_element(symbols.get(name, name)) for name in found["species_at_sites"]]


def _optimade_attributes(record: Mapping[str, Any], source: str) -> Parsed:
    return _optimade({"attributes": record}, source)


def _ase(record: Mapping[str, Any], source: str) -> Parsed:
    numbers, lattice = _ase_array(record["numbers"]), _ase_array(record["cell"])
    frac = cart_to_frac(_ase_array(record["positions"]), lattice)
    return Parsed(None, numbers, frac, lattice, source)


def _ase_array(value: Any) -> Any:
    """Read numbers as ase writes them: a list, or shape, type and flat values."""
    if isinstance(value, Mapping):
        value = value.get("__ndarray__", value.get("array", value))
        if isinstance(value, Mapping):
            value = value["__ndarray__"]
        if isinstance(value, list) and len(value) == 3 and isinstance(value[1], str):
            value = np.asarray(value[2], dtype=float).reshape(value[0])
    return value


_KINDS: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, Any], str], Parsed]], ...] = (
    (("lattice", "sites"), _pymatgen),
    (("lattice_mat", "coords", "elements"), _jarvis),
    (("attributes",), _optimade),
    (("lattice_vectors", "species_at_sites"), _optimade_attributes),
    (("cell", "positions", "numbers"), _ase),
)
"""Keys of each kind of structure, and what reads it."""


def _kind_of(value: Any) -> str:
    if isinstance(value, bool):
        return "a truth"
    names = {int: "a number", float: "a number", list: "a list", type(None): "null"}
    return names.get(type(value), f"a {type(value).__name__}")


def _sniff(head: bytes) -> bool:
    return head.lstrip()[:1] in (b"{", b"[")


FORMAT = Format(
    name="json",
    title="JSON",
    suffixes=(".json", ".jsonl", ".ndjson"),
    parse=parse_json,
    open=open_json,
    sniff=_sniff,
    note="of pymatgen, JARVIS, OPTIMADE, pandas or a generative model's arrays",
)
