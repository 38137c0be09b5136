"""What is read, one by one: entries with their names and ids, before they are parsed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from crysmetrics.io.crystals import Failure
from crysmetrics.io.parsed import Parsed

Job = Callable[[int | None], Iterable[Parsed | Failure]]
"""Gives structures and failures, where larger cells than so many atoms may be failures; raises
`ValueError` with the reason if there are none."""


class Columns(NamedTuple):
    """Which columns of a table, or fields of JSON records, to read; None for those usual."""

    id: str | None = None
    """Ids."""
    structure: str | None = None
    """Structures: CIF texts, or JSON of pymatgen structures."""


class Entry(NamedTuple):
    """One text to be parsed, a structure already parsed, or the reason why there is none."""

    name: str
    """For failures: the path inside what is read, or the row."""
    format: str
    """Name of the text's format, or "" if there is no text."""
    id: str
    """The id of the structure; with several in one text, their prefix."""
    content: str | bytes = b""
    path: str | None = None
    """A file to be read, instead of `content`, by whoever parses it."""
    is_all: bool = False
    """Whether this one text is all that is read: ids inside it then go before `id`."""
    properties: Mapping[str, Any] = {}
    reason: str | None = None
    """Why there is nothing to parse."""
    job: Job | None = None
    """What gives the structures, instead of a text: a `functools.partial` of a module's function,
    so that other processes can call it."""


class Source(NamedTuple):
    """Entries to be read once, in order."""

    entries: Iterable[Entry]
    total: int | None
    """How many there are, where that is known beforehand."""
    ignored: list[str]
    """Names of files of other kinds."""
