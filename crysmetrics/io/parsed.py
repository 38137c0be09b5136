"""What every format's parser yields: structures not yet checked, and what they all need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crysmetrics.io.texts import encoding_of

ID_KEYS = ("material_id", "id", "structure_id", "entry_id", "mp_id", "jid", "name")
"""Where an id is looked for in rows, frames and JSON records; the first one present is used."""

STRUCTURE_KEYS = ("cif", "structure", "cif_str", "cif_string", "poscar", "atoms", "final_structure")
"""Where a structure is looked for in rows and JSON records, in this order."""

MAX_PROPERTY_TEXT = 256
"""Longer texts beside a structure (a second CIF, a list of sites) are no properties."""


class Parsed(NamedTuple):
    """One structure as a file holds it."""

    name: str | None
    """The id that the file itself gives it, if any."""
    numbers: ArrayLike
    """(n,) atomic numbers."""
    frac_coords: ArrayLike
    """(n, 3), not yet wrapped."""
    lattice: ArrayLike
    """(3, 3) rows in Å."""
    source: str
    """Its name if it fails a check: the file, with row, frame or block."""
    properties: Mapping[str, Any] = {}


def why_no_text(text: str) -> str | None:
    """Say why a file's content can't be any structure format; None if it can."""
    head = text[:512].lstrip()
    if not head and not text.strip():
        return "is empty"
    if head.startswith("<"):
        return "is an HTML or XML page, not a structure"
    if "\0" in head:
        return "is a binary file, not text"
    return None


def why_no_bytes(head: bytes) -> str | None:
    """Say why a file that begins with these bytes can't be any structure format; None if it can."""
    if encoding_of(head) is not None:
        return None
    if b"\0" in head[:512]:
        return "is a binary file, not text"
    if head[:512].lstrip().startswith(b"<"):
        return "is an HTML or XML page, not a structure"
    return None


def cart_to_frac(cart_coords: ArrayLike, lattice: ArrayLike) -> NDArray[np.float64]:
    """Compute fractional coordinates (n, 3) of Cartesian ones in Å.

    Raises:
        ValueError: if the shapes are wrong, or the cell is singular, so that there are none.
    """
    cart, cell = np.asarray(cart_coords, float), np.asarray(lattice, float)
    if cell.shape != (3, 3) or cart.ndim != 2 or cart.shape[1] != 3:
        raise ValueError("has a cell or positions that are not three numbers each")
    try:
        return np.linalg.solve(cell.T, cart.T).T
    except np.linalg.LinAlgError as error:
        raise ValueError("has a cell without volume") from error


def number(word: str) -> float:
    """Parse a number as people and Fortran write it (1.0D-3 is 0.001).

    Raises:
        ValueError: if it is no number.
    """
    if "_" in word:  # Python's own literals may hold them
        raise ValueError(f"{word[:40]!r} is no number")
    try:
        return float(word)
    except ValueError:
        return float(word.replace("d", "e").replace("D", "e"))


def lines_of(text: str, end: int | None = None, start: int = 0) -> Iterator[str]:
    """Yield lines of a text from position `start` up to `end`, without their ends, one at a time.

    Only line feeds end a line (with a carriage return before them or not): an id may hold one of
    the exotic characters that `splitlines` takes for line ends. Nothing is held but the line.
    """
    end = len(text) if end is None else end
    while start <= end:
        stop = text.find("\n", start, end)
        stop = end if stop < 0 else stop
        yield text[start:stop].removesuffix("\r")
        start = stop + 1


def one_line(error: BaseException, limit: int = 160) -> str:
    """Return the first line of an error's text, cut to a readable length."""
    return shorten((str(error).strip() or type(error).__name__).splitlines()[0], limit)


def shorten(text: str, limit: int = 40) -> str:
    """Cut a text to a length at which a sentence can quote it."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def printable(text: str) -> str:
    r"""Make a text fit to print and store: bytes that were no UTF-8 become `\udcff`."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def is_scalar(value: Any) -> bool:
    """Tell whether a value beside a structure can be one of its properties."""
    if isinstance(value, str):
        return len(value) <= MAX_PROPERTY_TEXT
    return isinstance(value, (int, float, bool, np.number, np.bool_))
