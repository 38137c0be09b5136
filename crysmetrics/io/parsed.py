"""What every format's parser yields: structures not yet checked, and what they all need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
    """The reason why a file's content can't be any structure format, or None."""
    head = text[:512].lstrip()
    if not head and not text.strip():
        return "is empty"
    if head.startswith("<"):
        return "is an HTML or XML page, not a structure"
    if "\0" in head:
        return "is a binary file, not text"
    return None


def cart_to_frac(cart_coords: ArrayLike, lattice: ArrayLike) -> NDArray[np.float64]:
    """Fractional coordinates (n, 3) of Cartesian ones in Å.

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


def one_line(error: BaseException, limit: int = 160) -> str:
    """The first line of an error's text, cut to a readable length."""
    return shorten((str(error).strip() or type(error).__name__).splitlines()[0], limit)


def shorten(text: str, limit: int = 40) -> str:
    """The text, cut to a length at which a sentence can quote it."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def printable(text: str) -> str:
    r"""The text as it can be printed and stored: bytes that were no UTF-8 become `\udcff`."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
