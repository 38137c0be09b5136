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

from crysmetrics.io.cif import lattice_from_parameters, parse_cif
from crysmetrics.io.crystals import Failure, arrays_from_pymatgen
from crysmetrics.io.elements import ATOMIC_NUMBERS
from crysmetrics.io.parsed import Parsed, cart_to_frac, one_line, why_no_text

ID_KEYS = ("material_id", "id", "structure_id", "entry_id", "mp_id", "jid", "name")
"""Where an id is looked for in rows, frames and JSON records; the first one present is used."""

MAX_PROPERTY_TEXT = 256
"""Longer texts beside a structure (a second CIF, a list of sites) are no properties."""


def parse_extxyz(text: str, source: str) -> list[Parsed | Failure]:
    """All frames of an extended XYZ text; a damaged frame does not harm its neighbours."""
    reason = why_no_text(text)
    if reason is not None:
        return [Failure(source, reason)]
    results: list[Parsed | Failure] = []
    frames = list(_xyz_frames(text))
    for number, (comment, frame) in enumerate(frames, start=1):
        name = source if len(frames) == 1 else f"{source} frame {number}"
        if frame is None:
            results.append(Failure(name, comment))
            continue
        try:
            results.append(_parse_frame(comment, frame, name))
        except ValueError as error:
            results.append(Failure(name, one_line(error)))
    return results


def _xyz_frames(text: str) -> Iterator[tuple[str, str | None]]:
    """(comment line, whole frame), or (reason, None) where the frames come to grief."""
    # Not splitlines: an id may hold one of the exotic characters that it takes for line ends.
    lines = text.replace("\r\n", "\n").split("\n")
    while not lines[-1].strip():
        lines.pop()
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


def _parse_frame(comment: str, frame: str, source: str) -> Parsed:
    """One frame of extended XYZ.

    Raises:
        ValueError: with the reason, if it is no crystal.
    """
    from ase.io import read as ase_read

    columns = re.search(r'Properties="?([^\s"]+)', comment)
    if columns:
        # ase makes room for as many columns as are declared, be they more than memory can hold.
        declared = sum(int(n[:9]) for n in re.findall(r":(\d+)", columns[1]))
        if declared > (present := len(frame.split("\n")[2].split())):
            raise ValueError(f"declares {declared} columns where its rows have {present}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms = ase_read(io.StringIO(frame), format="extxyz")
    except Exception as error:  # ase raises whatever its parser ran into
        raise ValueError(f"can't be read as extended XYZ ({one_line(error)})") from error
    cell = atoms.cell.array
    if not np.any(cell):
        raise ValueError("has no Lattice, so it is no crystal")
    if not atoms.pbc.all():
        raise ValueError(f"is periodic in {int(atoms.pbc.sum())} directions, not in three")
    found = dict(atoms.info)
    if atoms.calc is not None:
        found |= {k: v for k, v in atoms.calc.results.items() if k == "energy"}
    id_key, name = _comment_id(comment)
    properties = {k: v for k, v in found.items() if k != id_key and _is_scalar(v)}
    frac = cart_to_frac(atoms.positions, cell)
    return Parsed(name, atoms.numbers, frac, cell, source, properties)


def _comment_id(comment: str) -> tuple[str | None, str | None]:
    """The id in a frame's comment line with its key, as text: 0012 stays 0012."""
    for key in ID_KEYS:
        match = re.search(rf'(?:^|\s){key}=(?:"((?:[^"\\]|\\.)*)"|(\S+))', comment)
        if match:
            quoted, bare = match.groups()
            return key, _unescape(quoted) if quoted is not None else bare
    return None, None


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: {"n": "\n", "r": "\r"}.get(match[1], match[1]), text)


def parse_poscar(text: str, source: str) -> list[Parsed | Failure]:
    """The structure of a POSCAR or CONTCAR that names its elements.

    VASP 5 has a line for them; files of VASP 4 are read if their first line lists one element
    for each number of atoms, or each position is followed by one. Anything else is a guess.
    """
    from pymatgen.io.vasp import Poscar

    reason = why_no_text(text)
    if reason is not None:
        return [Failure(source, reason)]
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if len(lines) < 8:
        return [Failure(source, "is truncated: a POSCAR has at least 8 lines")]
    stated = sum(int(n[:9]) for n in re.findall(r"(?<!\S)\d+(?!\S)", " ".join(lines[5:7])))
    if stated > len(lines):  # pymatgen would make room for all of them first
        return [Failure(source, f"is truncated: it states {stated} atoms in {len(lines)} lines")]
    if re.match(r"\d", lines[5]):
        counts, listed = lines[5].split(), lines[0].split()
        first = 8 if lines[6][:1].lower() == "s" else 7
        site = lines[first].split()
        if len(listed) == len(counts) and all(s in ATOMIC_NUMBERS for s in listed):
            lines.insert(5, " ".join(listed))
        elif not (len(site) > 3 and site[-1] in ATOMIC_NUMBERS):
            reason = "names no elements (a VASP 4 POSCAR); which they are would be a guess"
            return [Failure(source, reason)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            poscar = Poscar.from_str("\n".join(lines), read_velocities=False)
    except IndexError:
        return [Failure(source, "is truncated: it lists fewer positions than atoms")]
    except Exception as error:  # pymatgen raises whatever its parser ran into
        return [Failure(source, f"can't be read as POSCAR ({one_line(error)})")]
    try:
        return [Parsed(None, *arrays_from_pymatgen(poscar.structure), source)]
    except ValueError as error:
        return [Failure(source, str(error))]


def parse_json(text: str, source: str) -> list[Parsed | Failure]:
    """JSON of pymatgen structures: one, a list, a mapping from ids, or one per line."""
    reason = why_no_text(text)
    if reason is not None:
        return [Failure(source, reason)]
    lines: list[str] = []
    try:
        records = _records(_json(text))
    except ValueError as error:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) < 2:
            return [Failure(source, str(error))]
        records = [(None, line) for line in lines]
    results: list[Parsed | Failure] = []
    for number, (name, record) in enumerate(records, start=1):
        label = source if len(records) == 1 else f"{source} entry {number}"
        try:
            results.append(_parse_record(name, _json(record) if lines else record, label))
        except KeyError as error:
            results.append(Failure(label, f"lacks {error}, so it is no pymatgen structure"))
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            reason = one_line(error)
            if not re.match(r"(has|holds|is|lacks) ", reason):
                reason = f"is no pymatgen structure ({reason})"
            results.append(Failure(label, reason))
    return results or [Failure(source, "holds no structures")]


class _Repeated(dict[str, Any]):
    """A JSON object in which a key occurs twice; `pairs` has all of them."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Repeated(pairs)


def _json(text: str) -> Any:
    """The JSON value; of repeated keys none is lost.

    Raises:
        ValueError: if it is no JSON, or nested too deeply to be read.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except ValueError as error:
        raise ValueError(f"is no JSON ({one_line(error)})") from error
    except RecursionError as error:
        raise ValueError("is no JSON (it is nested too deeply)") from error


def _records(data: Any) -> list[tuple[str | None, Any]]:
    if isinstance(data, Mapping):
        if "lattice" in data or "structure" in data or "cif" in data:
            return [(None, data)]
        pairs = data.pairs if isinstance(data, _Repeated) else data.items()
        return [(str(name), record) for name, record in pairs]
    if isinstance(data, list):
        return [(None, record) for record in data]
    return [(None, data)]


def _parse_record(name: str | None, record: Any, source: str) -> Parsed | Failure:
    """One JSON record: a structure, a CIF text, or a row that holds either beside properties."""
    if isinstance(record, str):
        if record.lstrip()[:1] in ("{", "[", '"'):
            return _parse_record(name, _json(record), source)
        # The block's name is a formula more often than an id, so it is none here.
        found = parse_cif(record, source)
        if len(found) > 1:
            raise ValueError(f"holds {len(found)} structures in one CIF text")
        return found[0]._replace(name=name) if isinstance(found[0], Parsed) else found[0]
    if not isinstance(record, Mapping):
        raise ValueError(f"is a {type(record).__name__}, not a structure")
    id_key = next((k for k in ID_KEYS if record.get(k) is not None), None)
    if name is None and id_key is not None:
        name = str(record[id_key])
    inner = record.get("structure", record.get("cif"))
    if inner is not None:
        parsed = _parse_record(name, inner, source)
        if isinstance(parsed, Failure):
            return parsed
        row = {k: v for k, v in record.items() if k not in (id_key, "cif") and _is_scalar(v)}
        return parsed._replace(properties={**parsed.properties, **row})
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
    if isinstance(value, str):
        return len(value) <= MAX_PROPERTY_TEXT
    return isinstance(value, (int, float, bool, np.number, np.bool_))
