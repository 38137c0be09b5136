"""`read`: any collection of structures into `Crystals`, every failure named."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import chain, islice
from pathlib import Path

from crysmetrics.errors import InputError
from crysmetrics.io.archives import archive_source
from crysmetrics.io.builder import CrystalsBuilder, say_duplicate
from crysmetrics.io.cif import parse_cif
from crysmetrics.io.crystals import Crystals, Failure
from crysmetrics.io.formats import parse_extxyz, parse_json, parse_poscar
from crysmetrics.io.parsed import Parsed, printable
from crysmetrics.io.sources import (
    COMPANIONS,
    JSON_SUFFIXES,
    TABLE_SUFFIXES,
    TAR_SUFFIXES,
    Entry,
    Source,
    folder_source,
    format_of,
    has_suffix,
    load,
    why_unreadable,
    without_suffix,
)
from crysmetrics.io.tables import table_entries
from crysmetrics.parallel import cpu_count, process_pool, submit
from crysmetrics.progress import task
from crysmetrics.scratch import Names

MAX_ATOMS = 5000
"""Cells with more atoms are failures unless the caller allows them: no generative model makes
them, and one of them can take longer than all others together."""

_CHUNK = 200
_PATIENCE = 3.0
"""Seconds of reading after which processes are started, which itself takes a second or more."""

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
    if not os.fspath(path):
        raise InputError("An empty name was given where a file or folder is wanted.")
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(_why_no_path(path, error)) from error
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):  # a pipe would be waited for for ever
        raise InputError(f"{path} is neither a file nor a folder.")
    if has_suffix(path, (".npz",)) and stat.S_ISREG(mode):
        crystals, ignored = Crystals.load(path), []
    else:
        source = _source(path, id_column)
        ignored = source.ignored
        others = [name for name in ignored if name.rpartition("/")[2] not in COMPANIONS]
        if others:
            log.info(_say_ignored(path, others))
        crystals = _parse_all(source, max_atoms, cpu_count(workers))
    if len(crystals):
        return crystals
    if not crystals.failures:
        raise InputError(_say_nothing_found(path, ignored))
    first, count = crystals.failures[0], len(crystals.failures)
    if count == 1:
        subject = f"{path}" if first.file == path.name else f"{path}: {first.file}"
        text = f"{subject} {first.reason}."
    else:
        text = f"None of the {count} structures of {path} can be read; "
        text += f"{first.file} {first.reason}."
    raise InputError(text.replace("\n", " "))  # names may hold line ends


def takes(path: str | os.PathLike[str]) -> bool:
    """Whether `read` would look for structures in this, by its name or its first bytes.

    Raises:
        InputError: if it does not exist, or can't be opened.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return True
        path.stat()
    except (OSError, ValueError) as error:
        raise InputError(_why_no_path(path, error)) from error
    known = (*TABLE_SUFFIXES, *TAR_SUFFIXES, *JSON_SUFFIXES, ".zip", ".npz")
    return has_suffix(path, known) or (format_of(path.name) or _sniff(path)) is not None


def read_parts(
    path: str | os.PathLike[str],
    size: int,
    *,
    max_atoms: int | None = MAX_ATOMS,
    workers: int | None = None,
) -> Iterator[Crystals]:
    """What `read` reads, in parts of at least `size` structures and failures (but the last).

    Only one part is held at a time, where the format allows it: a table is read row by row, of a
    folder or an archive the names are held, an `.npz` or a single XYZ file is held whole. Ids,
    which must be distinct, wait on disk.

    Raises:
        InputError: if `path` does not exist or can't be read.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if has_suffix(path, (".npz",)) and path.is_file():
        crystals = Crystals.load(path)
        failures = crystals.failures
        for start in range(0, len(crystals), size):
            yield crystals[start : start + size].with_failures(failures)
            failures = ()
        return
    waiting: list[Crystals] = []
    for part in _parsed(_source(path, None), max_atoms, cpu_count(workers), Names()):
        waiting.append(part)
        if sum(p.num_total for p in waiting) >= size:
            yield Crystals.concatenate(waiting)
            waiting = []
    if waiting:
        yield Crystals.concatenate(waiting)


def _source(path: Path, id_column: str | None) -> Source:
    if path.is_dir():
        return folder_source(path)
    if has_suffix(path, TABLE_SUFFIXES):
        return Source(table_entries(path, id_column), None, [])
    if has_suffix(path, (*TAR_SUFFIXES, ".zip")):
        return archive_source(path)
    if has_suffix(path, JSON_SUFFIXES):
        kind: str | None = "json"
    else:
        kind = format_of(path.name) or _sniff(path)
    if kind is None:
        raise InputError(
            f"{path} has no known format; give a folder or a .cif, .zip, .tar.gz, .csv, .json, "
            ".xyz, .extxyz, .vasp or .npz file."
        )
    stem = path.name.split(".")[0] if kind == "json" else without_suffix(path.name)
    return Source([Entry(path.name, kind, stem, path=str(path), is_all=True)], 1, [])


def _sniff(path: Path) -> str | None:
    """The format of a single file whose name does not say it."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise InputError(f"{path} {why_unreadable(path, error)}.") from error
    head = head.removeprefix(b"\xef\xbb\xbf")
    lines = [line.strip() for line in head.split(b"\n")]
    if any(line.lower().startswith(b"data_") for line in lines):
        return "cif"
    if head.lstrip()[:1] in (b"{", b"["):
        return "json"
    if lines[0].isdigit() and len(lines) > 1 and b"Lattice=" in lines[1]:
        return "extxyz"
    return None


def _parse_all(source: Source, max_atoms: int | None, workers: int) -> Crystals:
    """Parse entries in order, in processes if there are many, and put the parts together."""
    return Crystals.concatenate(_parsed(source, max_atoms, workers, {}))


def _parsed(
    source: Source, max_atoms: int | None, workers: int, seen: dict[str, str] | Names
) -> Iterator[Crystals]:
    """Small parts in order; ids are distinct over all of them, for which `seen` keeps them."""
    with task("Reading structures", source.total) as advance:
        for part, sources in _parse_chunks(_chunks(source.entries), max_atoms, workers):
            yield _without_duplicates(part, sources, seen)
            advance(part.num_total)


def _chunks(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    iterator = iter(entries)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


def _parse_chunks(
    chunks: Iterator[list[Entry]], max_atoms: int | None, workers: int
) -> Iterator[tuple[Crystals, list[str]]]:
    begun = time.monotonic()
    for chunk in chunks:
        if workers > 1 and time.monotonic() - begun > _PATIENCE:
            chunks = chain([chunk], chunks)
            break
        yield _parse_chunk(chunk, max_atoms)
    else:
        return
    # This pool belongs to this call alone, so that calls in several threads do not interfere.
    with process_pool(workers) as pool:
        pending: deque[Future[tuple[Crystals, list[str]]]] = deque()
        try:
            for chunk in chunks:
                pending.append(submit(pool, _parse_chunk, chunk, max_atoms))
                if len(pending) > 3 * workers:  # bounds the memory that waiting texts take
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            # After an error or Ctrl-C: what has not begun need not. (Killing what has begun would
            # save less than a second, and makes loky's own thread print a traceback at times.)
            for future in pending:
                future.cancel()


def _parse_chunk(chunk: list[Entry], max_atoms: int | None) -> tuple[Crystals, list[str]]:
    """Crystals of some entries, and for each structure the name of its source."""
    builder = CrystalsBuilder(max_atoms)
    for entry in chunk:
        parsed = _parse_entry(entry, max_atoms)
        ids = map(printable, _ids_within(entry, parsed))
        for structure_id, item in zip(ids, parsed, strict=True):
            if isinstance(item, Failure):
                builder.fail(item.file, item.reason)
            else:
                builder.add(
                    structure_id,
                    item.numbers,
                    item.frac_coords,
                    item.lattice,
                    source=item.source,
                    properties=item.properties,
                )
    return builder.build_with_sources()


def _parse_entry(entry: Entry, max_atoms: int | None) -> list[Parsed | Failure]:
    if entry.reason is not None:
        return [Failure(entry.name, entry.reason)]
    try:
        text = load(entry)
    except ValueError as error:
        return [Failure(entry.name, str(error))]
    if entry.format == "cif":  # whose cells may be refused before symmetry expands them
        parsed = parse_cif(text, entry.name, max_atoms)
    else:
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
        return [names[0] if entry.is_all and names[0] and not is_cif else entry.id]
    if entry.is_all and not is_cif:
        # Ids given by records are kept; one used twice is a failure, not a new id.
        return [name or f"{entry.id}-{k}" for k, name in enumerate(names)]
    counts = Counter(names)
    return [
        f"{entry.id}/{name}" if name and counts[name] == 1 else f"{entry.id}/{k}"
        for k, name in enumerate(names)
    ]


def _without_duplicates(
    part: Crystals, sources: list[str], seen: dict[str, str] | Names
) -> Crystals:
    """The part without structures whose id an earlier part used; those become failures."""
    keep, failures = [], list(part.failures)
    for k, (structure_id, source) in enumerate(zip(part.ids, sources, strict=True)):
        if (first := seen.get(structure_id)) is not None:
            failures.append(Failure(source, say_duplicate(structure_id, first)))
        else:
            seen[structure_id] = source
            keep.append(k)
    if len(keep) == len(part):
        return part
    return part[keep].with_failures(failures)


def _why_no_path(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return f"{str(path)!r} is no name that a file can have."
    return f"{path} {why_unreadable(path, error)}."


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
