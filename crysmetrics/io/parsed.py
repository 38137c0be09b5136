"""What every format's parser yields: structures not yet checked, and failures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crysmetrics.io.crystals import CrystalsBuilder, Failure


class Parsed(NamedTuple):
    """One structure as a file holds it."""

    name: str | None
    """The id that the file itself gives it, if any."""
    numbers: ArrayLike
    frac_coords: ArrayLike
    lattice: ArrayLike
    source: str
    properties: Mapping[str, Any] = {}


def add_all(builder: CrystalsBuilder, ids: list[str], parsed: list[Parsed | Failure]) -> None:
    """Hand parsed structures, and failures, to the builder under these ids."""
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


def cart_to_frac(cart_coords: ArrayLike, lattice: ArrayLike) -> NDArray[np.float64]:
    """Fractional coordinates (n, 3) of Cartesian ones in Å.

    Raises:
        ValueError: if the cell is singular, so that there are none.
    """
    try:
        return np.linalg.solve(np.asarray(lattice, float).T, np.asarray(cart_coords, float).T).T
    except np.linalg.LinAlgError as error:
        raise ValueError("has a cell without volume") from error


def one_line(error: BaseException, limit: int = 160) -> str:
    """The first line of an error's text, cut to a readable length."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= limit else text[: limit - 1] + "…"
