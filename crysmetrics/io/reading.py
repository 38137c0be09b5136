"""`read`: any collection of structures into `Crystals`, every failure named."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from crysmetrics.errors import InputError
from crysmetrics.io.cif import parse_cif
from crysmetrics.io.crystals import Crystals, CrystalsBuilder, Failure
from crysmetrics.io.formats import parse_extxyz, parse_json, parse_poscar
from crysmetrics.io.parsed import Parsed, add_all
from crysmetrics.io.sources import (
    JSON_SUFFIXES,
    TABLE_SUFFIXES,
    TAR_SUFFIXES,
    Entry,
    archive_entries,
    folder_entries,
    format_of,
    has_suffix,
    load,
    table_entries,
)
from crysmetrics.progress import task

MAX_ATOMS = 5000
"""Cells with more atoms are failures unless the caller allows them: no generative model makes
them, and one of them can take longer than all others together."""

_CHUNK = 500
_PARALLEL_FROM = 4000
"""Entries below which starting worker processes costs more than it saves."""

_PARSERS: dict[str, Callable[[str, str], list[Parsed | Failure]]] = {
    "cif": parse_cif,
    "poscar": parse_poscar,
    "extxyz": parse_extxyz,
    "json": parse_json,
}

log = logging.getLogger(__name__)


def read(
    path: str | os.PathLike[str],
    *,
    id_column: str | None = None,
    max_atoms: int | None = MAX_ATOMS,
    workers: int | None = None,
) -> Crystals:
    """Read structures from whatever `path` is.

    Takes a folder of CIF (or POSCAR, extended XYZ) files, searched recursively; a `.zip` or
    `.tar[.gz]` of such files; one CIF with one or many data blocks; extended XYZ with one or
    many frames; a CSV (`.csv`, `.csv.gz`) with a `cif` column; JSON of pymatgen structures (a
    list, a mapping from ids, or one per line); a POSCAR; our own `.npz`.

    Order is that of sorted names, or of rows. What can't be read, or is no ordered crystal,
    stands in `failures` with its reason.

    Args:
        path: the file or folder.
        id_column: of a CSV; by default `material_id`, `id` or the like.
        max_atoms: larger cells become failures; None allows all.
        workers: processes for parsing; by default all cores.

    Raises:
        InputError: if `path` does not exist or holds no structure that can be read.
    """
    path = Path(path)
    try:
        path.stat()
    except OSError as error:
        raise InputError(_why_no_path(path, error)) from error
    if has_suffix(path, (".npz",)):
        crystals = Crystals.load(path)
        if not len(crystals):
            raise InputError(f"{path} holds no structures.")
        return crystals
    entries, ignored = _entries(path, id_column)
    if ignored:
        log.info(_say_ignored(path, ignored))
    crystals = _parse_all(entries, max_atoms, workers)
    if len(crystals):
        return crystals
    if not crystals.failures:
        raise InputError(_say_nothing_found(path, ignored))
    first, count = crystals.failures[0], len(crystals.failures)
    subject = f"{path}" if first.file == path.name else f"{path}: {first.file}"
    if count == 1:
        raise InputError(f"{subject} {first.reason}.")
    raise InputError(f"None of the {count} structures of {path} can be read; {first.file} {first.reason}.")


def _entries(path: Path, id_column: str | None) -> tuple[Iterable[Entry], list[str]]:
    if path.is_dir():
        return folder_entries(path)
    if has_suffix(path, TABLE_SUFFIXES):
        return table_entries(path, id_column), []
    if has_suffix(path, (*TAR_SUFFIXES, ".zip")):
        return archive_entries(path)
    if has_suffix(path, JSON_SUFFIXES):
        kind: str | None = "json"
    else:
        kind = format_of(path.name) or _sniff(path)
    if kind is None:
        raise InputError(
            f"{path} has no known format; give a folder or a .cif, .zip, .tar.gz, .csv, .json, "
            ".xyz, .extxyz, .vasp or .npz file."
        )
    stem = path.name.split(".")[0] or path.name
    return [Entry(path.name, kind, path, stem, inner_ids=True)], []


def _sniff(path: Path) -> str | None:
    """The format of a single file whose name does not say it."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror}).") from error
    lines = [line.strip() for line in head.split(b"\n")]
    if any(line.lower().startswith(b"data_") for line in lines):
        return "cif"
    if head.lstrip()[:1] in (b"{", b"["):
        return "json"
    if lines[0].isdigit() and len(lines) > 1 and b"Lattice=" in lines[1]:
        return "extxyz"
    return None


def _parse_all(
    entries: Iterable[Entry], max_atoms: int | None, workers: int | None
) -> Crystals:
    """Parse entries in order, in processes if there are many, and put the parts together."""
    parts: list[Crystals] = []
    seen: dict[str, str] = {}
    total = len(entries) if isinstance(entries, list) else None
    chunks = _chunks(entries)
    with task("Reading structures", total) as advance:
        for part, sources in _parse_chunks(chunks, total, max_atoms, workers):
            parts.append(_without_duplicates(part, sources, seen))
            advance(len(sources))
    return Crystals.concatenate(parts)


def _chunks(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    iterator = iter(entries)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


def _parse_chunks(
    chunks: Iterator[list[Entry]], total: int | None, max_atoms: int | None, workers: int | None
) -> Iterator[tuple[Crystals, list[str]]]:
    import joblib

    workers = joblib.cpu_count() if workers is None else workers
    # A table's length is not known beforehand; the first chunks tell whether it is long.
    ahead = list(islice(chunks, _PARALLEL_FROM // _CHUNK))
    rest = next(chunks, None) if len(ahead) == _PARALLEL_FROM // _CHUNK else None
    if workers == 1 or rest is None:
        for chunk in ahead:
            yield _parse_chunk(chunk, max_atoms)
        if rest is not None:
            yield _parse_chunk(rest, max_atoms)
            for chunk in chunks:
                yield _parse_chunk(chunk, max_atoms)
        return
    every = (chunk for group in (ahead, [rest], chunks) for chunk in group)
    parallel = joblib.Parallel(n_jobs=workers, return_as="generator")
    yield from parallel(joblib.delayed(_parse_chunk)(chunk, max_atoms) for chunk in every)


def _parse_chunk(chunk: list[Entry], max_atoms: int | None) -> tuple[Crystals, list[str]]:
    """Crystals of some entries, and for each structure the name of its source."""
    builder = CrystalsBuilder(max_atoms)
    sources: dict[str, str] = {}
    for entry in chunk:
        parsed = _parse_entry(entry)
        ids = _ids_within(entry, parsed)
        for structure_id, item in zip(ids, parsed, strict=True):
            if isinstance(item, Parsed):
                sources.setdefault(structure_id, item.source)
        add_all(builder, ids, parsed)
    crystals = builder.build()
    return crystals, [sources[i] for i in crystals.ids]


def _parse_entry(entry: Entry) -> list[Parsed | Failure]:
    if entry.reason is not None or entry.content is None:
        return [Failure(entry.name, entry.reason or "is empty")]
    try:
        text = load(entry.content)
    except ValueError as error:
        return [Failure(entry.name, str(error))]
    if not text.strip():
        return [Failure(entry.name, "is empty")]
    parsed = _PARSERS[entry.format](text, entry.name)
    if not entry.properties:
        return parsed
    return [
        item._replace(properties={**item.properties, **entry.properties})
        if isinstance(item, Parsed)
        else item
        for item in parsed
    ]


def _ids_within(entry: Entry, parsed: list[Parsed | Failure]) -> list[str]:
    """Ids of an entry's structures.

    A text with one structure gives it the entry's id. Several have the names that the text
    gives them, if those are distinct, else their position; below the entry's id, unless the
    text is all that is read and names every structure itself.
    """
    names = [item.name if isinstance(item, Parsed) else None for item in parsed]
    is_cif = entry.format == "cif"
    if len(parsed) == 1:
        # A CIF block's name is a formula more often than an id.
        return [names[0] if entry.inner_ids and names[0] and not is_cif else entry.id]
    if entry.inner_ids and not is_cif:
        # Ids given by records are kept; one used twice is a failure, not a new id.
        return [name or f"{entry.id}-{k}" for k, name in enumerate(names)]
    counts = Counter(names)
    return [
        f"{entry.id}/{name}" if name and counts[name] == 1 else f"{entry.id}/{k}"
        for k, name in enumerate(names)
    ]


def _without_duplicates(part: Crystals, sources: list[str], seen: dict[str, str]) -> Crystals:
    """The part without structures whose id an earlier part used; those become failures."""
    keep, failures = [], list(part.failures)
    for k, (structure_id, source) in enumerate(zip(part.ids, sources, strict=True)):
        if structure_id in seen:
            reason = f"duplicate id {structure_id!r}, already used by {seen[structure_id]}"
            failures.append(Failure(source, reason))
        else:
            seen[structure_id] = source
            keep.append(k)
    if len(keep) == len(part):
        return part
    return part[keep].with_failures(failures)


def _why_no_path(path: Path, error: OSError) -> str:
    if path.is_symlink():
        return f"{path} is a broken link or one that leads back to itself."
    if isinstance(error, FileNotFoundError):
        return f"{path} does not exist."
    return f"{path} can't be read ({error.strerror})."


def _say_ignored(path: Path, ignored: list[str]) -> str:
    shown = ", ".join(sorted(ignored)[:3]) + (", ..." if len(ignored) > 3 else "")
    return f"{path}: {len(ignored)} file(s) of other kinds are not read ({shown})"


def _say_nothing_found(path: Path, ignored: list[str]) -> str:
    if not ignored:
        return f"{path} is empty." if path.is_dir() else f"{path} holds no structures."
    return (
        f"{path} holds no structure files (.cif, .vasp, .xyz, .extxyz), only other ones such as "
        f"{sorted(ignored)[0]}; tables and JSON are read when given themselves."
    )
