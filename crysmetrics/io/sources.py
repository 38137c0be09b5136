"""Structure files in folders, and the ids that file names give."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from crysmetrics.errors import InputError
from crysmetrics.io.entries import Entry, Source
from crysmetrics.io.formats import searched_format, searched_formats, without_suffix
from crysmetrics.io.loading import why_unreadable
from crysmetrics.io.parsed import printable

SAMPLES_TABLE = "samples.csv"
"""Stands beside structures: which was made for what (see `crysmetrics.matching.pairing`)."""
COMPANIONS = (SAMPLES_TABLE, "request.json", "candidates.html", "optimized.csv")
"""What crysgen writes beside structures: that these are not read is not worth a word."""


def is_hidden(part: str) -> bool:
    """Tell whether a file or folder of this name is a system's, not the user's."""
    return part.startswith(".") or part == "__MACOSX"


def has_suffix(path: Path, suffixes: Iterable[str]) -> bool:
    """Tell whether the file's name ends in one of these, in any case."""
    return path.name.lower().endswith(tuple(suffixes))


def format_name(name: str) -> str:
    """Name of the format of a file that folders and archives are searched for, or ""."""
    found = searched_format(name)
    return "" if found is None else found.name


def file_ids(names: list[str]) -> dict[str, str]:
    """Make the ids of files: relative paths without suffix, without the folders that all share.

    The shared folders go so that a folder and an archive that wraps it in one have equal ids.
    Where two files differ in the suffix alone, they keep it.
    """
    folders = {name.rpartition("/")[0] for name in names}
    # Relative paths without "..": the names' own case and slashes are kept.
    shared = posixpath.commonpath(folders) if folders else ""
    cut = len(shared) + 1 if shared else 0
    stems = {name: without_suffix(name[cut:]) for name in names}
    clashes = Counter(stems.values())
    return {name: stem if clashes[stem] == 1 else name[cut:] for name, stem in stems.items()}


def copies(names: Iterable[str], others: Iterable[str]) -> set[str]:
    """Find the files that hold structures which stand in another format beside them.

    `crysgen sample --format cif,poscar` writes a structure as X.cif and X.vasp, so that wherever
    its table `samples.csv` lies, one file of each stem is read: that of the first format.

    Args:
        names: of structure files, relative paths with `/`.
        others: names of all other files.
    """
    folders = [n.rpartition("/")[0] for n in others if n.rpartition("/")[2] == SAMPLES_TABLE]
    if not folders:
        return set()
    order = {found.name: k for k, found in enumerate(searched_formats())}
    first: dict[str, str] = {}
    below = tuple(folder and f"{folder}/" for folder in folders)
    for name in sorted(names, key=lambda name: (order[format_name(name)], name)):
        if name.startswith(below):
            first.setdefault(without_suffix(name), name)
    kept = set(first.values())
    return {name for name in names if name.startswith(below) and name not in kept}


# --- folders -------------------------------------------------------------------------------


def folder_source(root: str | Path) -> Source:
    """List the entries of all structure files below a folder, sorted by name.

    Raises:
        InputError: if the folder itself can't be listed.
    """
    files, reasons, ignored = _walk(str(root))
    if "" in reasons:
        raise InputError(f"{root} {reasons['']}.")
    for name in copies(list(files), ignored):
        del files[name]
    ids = file_ids(list(files))
    entries = [Entry(n, format_name(n), ids[n], path=path) for n, path in files.items()]
    entries += [Entry(n, "", n, reason=reason) for n, reason in reasons.items()]
    entries.sort(key=lambda entry: entry.name)
    return Source(entries, len(entries), ignored)


def _walk(root: str) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """List structure files (name -> path), what can't be opened (name -> reason), other names.

    Links are followed, but not back to a folder above them.
    """
    files: dict[str, str] = {}
    reasons: dict[str, str] = {}
    ignored: list[str] = []
    stack: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(root, "", frozenset())]
    while stack:
        folder, prefix, above = stack.pop()
        try:
            info = os.stat(folder)  # noqa: PTH116
            here = (info.st_dev, info.st_ino)
            if here in above:
                reasons[prefix[:-1]] = "is a link that leads back to a folder above it"
                continue
            with os.scandir(folder) as children:
                found = list(children)
        except OSError as error:
            reasons[prefix[:-1]] = why_unreadable(folder, error)
            continue
        for child in found:
            name = prefix + printable(child.name)
            if is_hidden(child.name):
                ignored.append(name)
            elif _is_folder(child):
                stack.append((child.path, name + "/", above | {here}))
            elif searched_format(name) is not None:
                files[name] = child.path
            elif child.is_symlink() and not Path(child.path).exists():
                reasons[name] = "is a broken link or one that leads back to itself"
            else:
                ignored.append(name)
    return files, reasons, ignored


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # a looping link: its reason is found when it is opened
        return False
