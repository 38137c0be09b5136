"""`Format`: the names, the reader and the writer of one file format."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from crysmetrics.io.crystals import Crystals, Failure
from crysmetrics.io.entries import Columns, Source
from crysmetrics.io.parsed import Parsed
from crysmetrics.io.pieces import Pieces

Parse = Callable[[str, str, int | None], Iterable[Parsed | Failure]]
"""(text, name for failures, atoms that a cell may have) -> structures and failures, in order."""
ParseLong = Callable[[Pieces, str, int | None], Iterable[Parsed | Failure]]
"""Likewise of a long text, which is given in pieces."""
Open = Callable[[Path, Columns], Source]
"""(file, columns) -> entries; raises `InputError` if there are none to be had."""


@dataclass(frozen=True)
class Format:
    """One file format. Reading, sniffing, writing, help and errors follow from it.

    Attributes:
        name: as in `--format`.
        title: as people call it.
        suffixes: of file names, in lower case; the first one is written. Any of them may be
            followed by the suffix of a compressed file.
        parse: structures of a text, for formats that folders and archives are searched for.
        parse_long: structures of a text that is too long to be held.
        open: entries of a file, for formats that are read only when given themselves.
        load: all crystals of a file at once, likewise.
        is_name: whether a base name in lower case is that of such a file, whatever its suffix.
        sniff: whether the first bytes of a file are this format's.
        text: the file of one structure.
        join: whether the files of several structures, one after another, are one as well.
        save: write many structures to one file, whole or not at all.
        note: a few words on what a file holds, for help texts.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    parse: Parse | None = None
    parse_long: ParseLong | None = None
    open: Open | None = None
    load: Callable[[Path], Crystals] | None = None
    is_name: Callable[[str], bool] | None = None
    sniff: Callable[[bytes], bool] | None = None
    text: Callable[[Crystals], str] | None = None
    join: bool = False
    save: Callable[[Crystals, Path], None] | None = None
    note: str = ""
