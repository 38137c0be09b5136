"""File formats of structures: one file each, and one line in `FORMATS`."""

from __future__ import annotations

from collections.abc import Iterable

from crysmetrics.io.formats import cif, extxyz, json_records, npz, poscar, pt, table
from crysmetrics.io.formats.base import Format
from crysmetrics.io.texts import encoding_of
from crysmetrics.io.unpacking import SUFFIXES as COMPRESSED

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT
    for module in (cif, poscar, extxyz, npz, table, json_records, pt)
}
"""Formats by name. Where bytes look like those of several, the first one is taken."""


def searched_formats() -> list[Format]:
    """List formats that folders and archives are searched for; the others are read when given."""
    return [found for found in FORMATS.values() if found.parse and not found.open]


def written_formats() -> dict[str, Format]:
    """List formats that can be written, by name."""
    return {name: found for name, found in FORMATS.items() if found.text or found.save}


_COMPRESSED = (*COMPRESSED, *(f"{suffix}.zip" for suffix in table.FORMAT.suffixes))


def format_of(name: str, formats: Iterable[Format] = FORMATS.values()) -> Format | None:
    """Return the format that a file's name says, or None."""
    base = uncompressed(name.rpartition("/")[2].lower())
    known = tuple(formats)
    by_suffix = (f for f in known if base.endswith(f.suffixes))
    by_name = (f for f in known if f.is_name is not None and f.is_name(base))
    return next(by_suffix, None) or next(by_name, None)


def searched_format(name: str) -> Format | None:
    """Return the format that a file's name says, if folders and archives are searched for it."""
    return format_of(name, searched_formats())


def sniff(head: bytes) -> Format | None:
    """Find the format that the first bytes of a file look like, or None."""
    encoding = encoding_of(head)
    if encoding is not None:
        head = head.decode(encoding, errors="ignore").removeprefix("\ufeff").encode()
    return next((f for f in FORMATS.values() if f.sniff is not None and f.sniff(head)), None)


def without_suffix(name: str) -> str:
    """Return a file's name without the suffix of its format and of its compression."""
    bare = uncompressed(name)
    for found in FORMATS.values():
        for suffix in found.suffixes:
            if bare.lower().endswith(suffix) and len(bare) > len(suffix):
                return bare[: -len(suffix)]
    return bare


def uncompressed(name: str) -> str:
    """Return a file's name without the suffix of its compression (`.csv.zip` counts as one)."""
    lowered = name.lower()
    if not lowered.endswith(_COMPRESSED):  # nearly all of many thousand names
        return name
    for suffix in _COMPRESSED:
        if lowered.endswith(suffix):
            return name[: -len(suffix.rpartition(".")[2]) - 1]
    return name


def suffixes(formats: Iterable[Format] = FORMATS.values()) -> list[str]:
    """Return suffixes of formats, without those of compressed files."""
    return [suffix for found in formats for suffix in found.suffixes]
