"""`read`: any collection of structures into `Crystals`, every failure named."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from crysmetrics.errors import InputError
from crysmetrics.io import archives
from crysmetrics.io.archives import archive_source
from crysmetrics.io.crystals import Crystals
from crysmetrics.io.entries import Columns, Entry, Source
from crysmetrics.io.formats import (
    format_of,
    searched_formats,
    sniff,
    suffixes,
    without_suffix,
)
from crysmetrics.io.formats.base import Format
from crysmetrics.io.loading import why_unreadable
from crysmetrics.io.parsing import parsed_parts
from crysmetrics.io.sources import COMPANIONS, folder_source, has_suffix
from crysmetrics.parallel import cpu_count
from crysmetrics.spill import Names

MAX_ATOMS = 5000
"""Cells with more atoms are failures unless the caller allows them: no generative model makes
them, and one of them can take longer than all others together."""

log = logging.getLogger(__name__)


def read(
    path: str | os.PathLike[str],
    *,
    id_column: str | None = None,
    cif_column: str | None = None,
    max_atoms: int | None = MAX_ATOMS,
    workers: int | None = None,
) -> Crystals:
    """Read structures from whatever `path` is.

    Takes a folder of CIF (or POSCAR, extended XYZ) files, searched recursively; a `.zip` or
    `.tar[.gz]` of such files; one CIF with one or many data blocks; extended XYZ with one or
    many frames; a CSV with a column of CIFs or JSON; JSON of pymatgen, JARVIS or OPTIMADE
    structures in any layout; a POSCAR; the `.pt` files of CDVAE and DiffCSP; our own `.npz`.
    Texts may be compressed by gzip, bzip2 or xz.

    Order is that of sorted names, or of rows. What can't be read, or is no ordered crystal,
    stands in `failures` with its reason.

    Args:
        path: the file or folder.
        id_column: of a CSV or of JSON records; by default `material_id`, `id` or the like.
        cif_column: their column of structures; by default `cif`, `structure` or the like.
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
    known = format_of(path.name) if stat.S_ISREG(mode) else None
    if known is not None and known.load is not None:
        crystals, ignored = known.load(path), []
    else:
        source = _source(path, Columns(id_column, cif_column))
        ignored = source.ignored
        others = [name for name in ignored if name.rpartition("/")[2] not in COMPANIONS]
        if others:
            log.info(_in_one_line(_say_ignored(path, others)))
        crystals = _parse_all(source, max_atoms, cpu_count(workers))
    if len(crystals):
        return crystals
    if not crystals.failures:
        raise InputError(_in_one_line(_say_nothing_found(path, ignored)))
    first, count = crystals.failures[0], len(crystals.failures)
    if count == 1:
        subject = f"{path}" if first.file == path.name else f"{path}: {first.file}"
        text = f"{subject} {first.reason}."
    else:
        text = f"None of the {count} structures of {path} can be read; "
        text += f"{first.file} {first.reason}."
    raise InputError(_in_one_line(text))


def takes(path: str | os.PathLike[str]) -> bool:
    """Tell whether `read` would look for structures in this, by its name or its first bytes.

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
    if format_of(path.name) is not None or has_suffix(path, archives.SUFFIXES):
        return True
    return _sniff(path) is not None


def read_parts(
    path: str | os.PathLike[str],
    size: int,
    *,
    id_column: str | None = None,
    cif_column: str | None = None,
    max_atoms: int | None = MAX_ATOMS,
    workers: int | None = None,
) -> Iterator[Crystals]:
    """Read as `read` does, in parts of at least `size` structures and failures (but the last).

    Only one part is held at a time, where the format allows it: a table is read row by row, of a
    folder or an archive the names are held, an `.npz` or a single XYZ file is held whole. Ids,
    which must be distinct, wait on disk.

    Raises:
        InputError: if `path` does not exist or can't be read.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    known = format_of(path.name) if path.is_file() else None
    if known is not None and known.load is not None:
        crystals = known.load(path)
        failures = crystals.failures
        for start in range(0, len(crystals), size):
            yield crystals[start : start + size].with_failures(failures)
            failures = ()
        return
    waiting: list[Crystals] = []
    columns = Columns(id_column, cif_column)
    for part in parsed_parts(_source(path, columns), max_atoms, cpu_count(workers), Names()):
        waiting.append(part)
        if sum(p.num_total for p in waiting) >= size:
            yield Crystals.concatenate(waiting)
            waiting = []
    if waiting:
        yield Crystals.concatenate(waiting)


def _source(path: Path, columns: Columns) -> Source:
    if path.is_dir():
        return folder_source(path)
    known = format_of(path.name)
    if known is None and has_suffix(path, archives.SUFFIXES):
        return archive_source(path)
    known = known or _sniff(path)
    if known is None:
        given = ", ".join((".zip", ".tar.gz", *suffixes()))
        raise InputError(f"{path} has no known format; give a folder or a file named {given}.")
    if known.open is not None:
        return known.open(path, columns)
    stem = without_suffix(path.name)
    return Source([Entry(path.name, known.name, stem, path=str(path), is_all=True)], 1, [])


def _sniff(path: Path) -> Format | None:
    """Find the format of a single file whose name does not say it."""
    try:
        with path.open("rb") as file:
            return sniff(file.read(4096))
    except OSError as error:
        raise InputError(f"{path} {why_unreadable(path, error)}.") from error


def _parse_all(source: Source, max_atoms: int | None, workers: int) -> Crystals:
    """Parse entries in order, in processes if there are many, and put the parts together."""
    return Crystals.concatenate(parsed_parts(source, max_atoms, workers, {}))


def _why_no_path(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return f"{str(path)!r} is no name that a file can have."
    return f"{path} {why_unreadable(path, error)}."


def _in_one_line(text: str) -> str:
    """Replace line ends, which names of files may hold."""
    return " ".join(text.splitlines())


def _say_ignored(path: Path, ignored: list[str]) -> str:
    shown = ", ".join(sorted(ignored)[:3]) + (", ..." if len(ignored) > 3 else "")
    return f"{path}: {len(ignored)} file(s) of other kinds are not read ({shown})"


def _say_nothing_found(path: Path, ignored: list[str]) -> str:
    if not ignored:
        return f"{path} is empty." if path.is_dir() else f"{path} holds no structures."
    wanted = ", ".join(suffixes(searched_formats()))
    return (
        f"{path} holds no structure files ({wanted}), only other ones such as "
        f"{sorted(ignored)[0]}; tables and JSON are read when given themselves."
    )
