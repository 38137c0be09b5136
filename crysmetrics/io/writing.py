"""`write`: Crystals to a file, a folder or a `.zip` in any format that can be written."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from crysmetrics.errors import UserError
from crysmetrics.io import archives
from crysmetrics.io.atomic import atomic_file, atomic_folder, refuse_existing
from crysmetrics.io.crystals import Crystals
from crysmetrics.io.file_names import file_names
from crysmetrics.io.formats import (
    format_of,
    searched_format,
    suffixes,
    uncompressed,
    written_formats,
)
from crysmetrics.io.formats.base import Format
from crysmetrics.io.formats.cif import FORMAT as CIF
from crysmetrics.io.formats.cif import cif_text
from crysmetrics.io.sources import has_suffix
from crysmetrics.progress import task

DEFAULT_TOLERANCE = 0.01
"""Distance in Å within which symmetry is found when asked for (spglib's and moyo's `symprec`)."""


def write(
    crystals: Crystals,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    symmetrize: bool = False,
    tolerance: float = DEFAULT_TOLERANCE,
    overwrite: bool = False,
) -> None:
    """Write all structures, whole or not at all.

    The name says the format: `.npz` (loss-free, failures included), `.xyz` or `.extxyz` (one
    frame each, ids and properties in the comment line), `.cif` (one block each), `.vasp`, `.poscar`
    or a name such as POSCAR (of one structure). Any other name is a folder with one file for each
    id, and `.zip` the same packed; these hold CIFs unless `format` says otherwise. Ids that no
    file could have as its name are changed to one (see `file_names`).

    Args:
        crystals: at least one structure.
        path: where to.
        format: a name of `written_formats`; by default what the name of `path` says, and CIF for
            folders.
        symmetrize: CIFs in the space group found within `tolerance`, in its conventional cell,
            not P1.
        tolerance: in Å.
        overwrite: replace what exists. A folder is only replaced if it holds nothing but files of
            the format; a link stays, and what it points to is replaced.

    Raises:
        UserError: if there is nothing to write, the path is taken, or its name is that of another
            format.
    """
    path = Path(path)
    if not len(crystals):
        raise UserError(f"There are no structures to write to {path}.")
    chosen, is_file = target_format(path, format)
    if symmetrize and chosen is not CIF:
        raise UserError(
            f"Symmetrised structures are written as CIF; {chosen.title} has no space groups."
        )
    if is_file and len(crystals) > 1 and not (chosen.save or chosen.join):
        raise UserError(
            f"{path}: a {chosen.title} holds one structure, not {len(crystals)}; name a folder or "
            f"a .zip, and give the format {chosen.name}."
        )
    refuse_existing(path, overwrite)
    if is_file and chosen.save is not None:
        chosen.save(crystals, path)
        return
    settings = None
    if symmetrize:
        from crysmetrics.io.symmetrized import hall_numbers, symmetrized

        crystals = symmetrized(crystals, tolerance)
        settings = hall_numbers(crystals)
    texts = cif_texts(crystals, settings) if chosen is CIF else format_texts(crystals, chosen)
    if is_file:
        _write_file(path, texts)
    elif path.suffix.lower() == ".zip":
        _write_zip(path, texts)
    else:
        _write_folder(path, texts, chosen)


def target_format(path: Path, format: str | None = None) -> tuple[Format, bool]:
    """Find the format of an output, and whether it is one file (else a folder or `.zip`).

    Raises:
        UserError: if it can't be written, or name and format contradict each other.
    """
    written = written_formats()
    given = None if format is None else written.get(format)
    named = format_of(path.name)
    can = f"can write {', '.join(suffixes(written.values()))}, .zip or a folder"
    if format is not None and given is None:
        raise UserError(f"There is no format {format!r} to write; {', '.join(written)} are.")
    packed = uncompressed(path.name) != path.name or has_suffix(path, archives.TAR_SUFFIXES)
    if packed or (named is not None and named.name not in written):
        raise UserError(f"{path}: {can}.")
    if named is not None:
        if given is not None and given is not named:
            raise UserError(f"{path} is the name of a {named.title} file, not of {given.title}.")
        return named, True
    chosen = given or CIF
    if chosen.text is None:
        raise UserError(
            f"{path}: the name of a file of {chosen.title} ends in {chosen.suffixes[0]}."
        )
    return chosen, False


def refuse_inside(source: str, target: str, format: str | None = None) -> None:
    """Refuse an output that would be read as a part of the input the next time.

    Raises:
        UserError: if `target` lies in the folder `source` and is found when that is searched.
    """
    folder, path = Path(os.path.realpath(source)), Path(os.path.realpath(target))
    if not folder.is_dir() or folder not in path.parents:
        return
    is_file = target_format(Path(target), format)[1] or path.suffix.lower() == ".zip"
    if not is_file or searched_format(path.name) is not None:
        raise UserError(
            f"{target} lies in {source} and would be read as a part of it the next time; choose a "
            "place outside."
        )


def cif_texts(
    crystals: Crystals, hall_numbers: Sequence[int] | None = None
) -> Iterator[tuple[str, str]]:
    """Yield (file name, CIF text) of each structure.

    Args:
        crystals: B structures.
        hall_numbers: (B,) see `cif_text`; P1 without.
    """
    names = file_names(crystals.ids)
    settings = [1] * len(crystals) if hall_numbers is None else hall_numbers
    with task("Writing CIFs", len(crystals)) as advance:
        for name, structure, setting in zip(names, crystals, settings, strict=True):
            yield name, cif_text(structure, setting)
            advance(1)


def format_texts(crystals: Crystals, chosen: Format) -> Iterator[tuple[str, str]]:
    """Yield (file name, text) of each structure in a format that holds one a file."""
    assert chosen.text is not None  # see `target_format`
    names = file_names(crystals.ids, chosen.suffixes[0])
    with task("Writing structures", len(crystals)) as advance:
        for name, structure in zip(names, crystals, strict=True):
            yield name, chosen.text(structure)
            advance(1)


def _write_folder(path: Path, texts: Iterator[tuple[str, str]], chosen: Format) -> None:
    if path.is_dir():
        files = [p for p in path.rglob("*") if not p.is_dir()]
        others = [p for p in files if not p.name.lower().endswith(chosen.suffixes)]
        if others:
            raise UserError(
                f"{path} holds other files than of {chosen.title} ({others[0].name}); not replaced."
            )
    with atomic_folder(path) as temporary:
        for name, text in texts:
            file = temporary / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")


def _write_zip(path: Path, texts: Iterator[tuple[str, str]]) -> None:
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, text in texts:
            # A fixed date, so that equal structures make equal archives.
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr = 0o644 << 16
            archive.writestr(info, text, compress_type=zipfile.ZIP_DEFLATED)


def _write_file(path: Path, texts: Iterator[tuple[str, str]]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for k, (_, text) in enumerate(texts):
            file.write(("\n" if k else "") + text)
