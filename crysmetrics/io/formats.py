"""Parsers of single texts: extended XYZ, POSCAR and JSON of pymatgen structures.

Each takes a text and the name to use in failures, and returns structures and failures in order.
Nothing read here can name a class to import or run code.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from crysmetrics.io.cif import lattice_from_parameters, parse_cif, why_no_text
from crysmetrics.io.crystals import Failure, arrays_from_pymatgen
from crysmetrics.io.elements import ATOMIC_NUMBERS
from crysmetrics.io.parsed import Parsed, cart_to_frac, one_line

ID_KEYS = ("material_id", "id", "structure_id", "mp_id", "jid", "name")
"""Where an id is looked for in rows, frames and JSON records; the first one present is used."""


def parse_extxyz(text: str, source: str) -> list[Parsed | Failure]:
    """All frames of an extended XYZ text; a damaged frame does not harm its neighbours."""
    from ase.io import read as ase_read

    results: list[Parsed | Failure] = []
    frames = list(_xyz_frames(text))
    for number, (comment, frame) in enumerate(frames, start=1):
        name = source if len(frames) == 1 else f"{source} frame {number}"
        if frame is None:
            results.append(Failure(name, comment))
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                atoms = ase_read(io.StringIO(frame), format="extxyz")
        except Exception as error:  # ase raises whatever its parser ran into
            results.append(Failure(name, f"can't be read as extended XYZ: {one_line(error)}"))
            continue
        if not np.any(atoms.cell.array):
            results.append(Failure(name, "has no Lattice, so it is no crystal"))
            continue
        try:
            frac = cart_to_frac(atoms.positions, atoms.cell.array)
        except ValueError as error:
            results.append(Failure(name, str(error)))
            continue
        found = dict(atoms.info)
        if atoms.calc is not None:
            found |= {k: v for k, v in atoms.calc.results.items() if k == "energy"}
        properties = {k: v for k, v in found.items() if k not in ID_KEYS and _is_scalar(v)}
        lattice = atoms.cell.array
        results.append(
            Parsed(_comment_id(comment), atoms.numbers, frac, lattice, name, properties)
        )
    return results or [Failure(source, "holds no frames")]


def _xyz_frames(text: str) -> Iterator[tuple[str, str | None]]:
    """(comment line, whole frame), or (reason, None) where the frames come to grief."""
    lines = text.splitlines()
    start = 0
    while start < len(lines):
        if not lines[start].strip():
            start += 1
            continue
        try:
            count = int(lines[start])
        except ValueError:
            yield f"has {lines[start][:40]!r} where a number of atoms should stand", None
            return
        end = start + 2 + count
        if count < 0 or end > len(lines):
            yield f"is truncated: {max(0, len(lines) - start - 2)} of {count} atoms", None
            return
        if count == 0:
            yield "has no atoms", None
        else:
            yield lines[start + 1], "\n".join(lines[start:end]) + "\n"
        start = end


def _comment_id(comment: str) -> str | None:
    """The id in a frame's comment line, as text: 0012 stays 0012."""
    for key in ID_KEYS:
        match = re.search(rf'(?:^|\s){key}=(?:"((?:[^"\\]|\\.)*)"|(\S+))', comment)
        if match:
            quoted, bare = match.groups()
            return re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else bare
    return None


def parse_poscar(text: str, source: str) -> list[Parsed | Failure]:
    """The structure of a POSCAR or CONTCAR that names its elements (VASP 5 or later)."""
    from pymatgen.io.vasp import Poscar

    lines = text.splitlines()
    if len(lines) < 8:
        return [Failure(source, "is truncated: a POSCAR has at least 8 lines")]
    if not re.match(r"\s*[A-Za-z]", lines[5]):
        return [Failure(source, "names no elements (a VASP 4 POSCAR); which they are is a guess")]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structure = Poscar.from_str(text, read_velocities=False).structure
        return [Parsed(None, *arrays_from_pymatgen(structure), source)]
    except Exception as error:  # pymatgen raises whatever its parser ran into
        return [Failure(source, f"can't be read as POSCAR: {one_line(error)}")]


def parse_json(text: str, source: str) -> list[Parsed | Failure]:
    """JSON of pymatgen structures: one, a list, a mapping from ids, or one per line."""
    reason = why_no_text(text)
    if reason is not None:
        return [Failure(source, reason)]
    try:
        records = _records(json.loads(text))
    except json.JSONDecodeError as whole:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2:
            return [Failure(source, f"is no JSON: {whole}")]
        records = [(None, line) for line in lines]
    results: list[Parsed | Failure] = []
    for number, (name, record) in enumerate(records, start=1):
        label = source if len(records) == 1 else f"{source} entry {number}"
        try:
            if isinstance(record, str) and not record.lstrip().startswith("data_"):
                record = json.loads(record)
            results.append(_parse_record(name, record, label))
        except json.JSONDecodeError as error:
            results.append(Failure(label, f"is no JSON: {error}"))
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            results.append(Failure(label, one_line(error)))
    return results or [Failure(source, "holds no structures")]


def _records(data: Any) -> list[tuple[str | None, Any]]:
    if isinstance(data, Mapping):
        if "lattice" in data or "structure" in data or "cif" in data:
            return [(None, data)]
        return [(str(name), record) for name, record in data.items()]
    if isinstance(data, list):
        return [(None, record) for record in data]
    return [(None, data)]


def _parse_record(name: str | None, record: Any, source: str) -> Parsed | Failure:
    """One JSON record: a structure, a CIF text, or a row that holds either beside properties."""
    if isinstance(record, str):
        return parse_cif(record, source)[0]
    if not isinstance(record, Mapping):
        raise ValueError(f"is a {type(record).__name__}, not a structure")
    if name is None:
        name = next((str(record[k]) for k in ID_KEYS if record.get(k) is not None), None)
    inner = record.get("structure", record.get("cif"))
    if inner is not None:
        parsed = _parse_record(name, inner, source)
        if isinstance(parsed, Failure):
            return parsed
        row = {k: v for k, v in record.items() if k not in ID_KEYS and _is_scalar(v)}
        row.pop("cif", None)
        return parsed._replace(name=name or parsed.name, properties={**row, **parsed.properties})
    if "lattice" not in record or "sites" not in record:
        raise ValueError("has no lattice and sites, so it is no pymatgen structure")
    cell = record["lattice"]
    lattice = cell.get("matrix") or lattice_from_parameters(
        *(float(cell[k]) for k in ("a", "b", "c", "alpha", "beta", "gamma"))
    )
    numbers = [_site_element(site) for site in record["sites"]]
    if all("abc" in site for site in record["sites"]):
        frac: Any = [site["abc"] for site in record["sites"]]
    else:
        frac = cart_to_frac([site["xyz"] for site in record["sites"]], lattice)
    properties = {k: v for k, v in (record.get("properties") or {}).items() if _is_scalar(v)}
    return Parsed(name, numbers, frac, lattice, source, properties)


def _site_element(site: Mapping[str, Any]) -> int:
    species = site["species"]
    if len(species) != 1 or abs(float(species[0].get("occu", 1)) - 1) > 1e-3:
        raise ValueError(f"is disordered: site {site.get('label', '?')} is partially occupied")
    symbol = str(species[0]["element"])
    if symbol not in ATOMIC_NUMBERS:
        raise ValueError(f"holds an unknown element {symbol!r}")
    return ATOMIC_NUMBERS[symbol]


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool, np.number, np.bool_))
