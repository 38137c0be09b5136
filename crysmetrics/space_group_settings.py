"""Settings of space groups: symbols and operations, as files state them."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=230)
def short_symbol(number: int) -> str:
    """Name a space group in short Hermann-Mauguin notation: `Fm-3m` for 225."""
    import moyopy

    return str(moyopy.SpaceGroupType(number).hm_short).replace(" ", "")


@lru_cache(maxsize=230)
def point_group_order(number: int) -> int:
    """Count the operations of a space group's crystal class, 1 to 48."""
    import moyopy

    return len(moyopy.operations_from_number(number, primitive=True))


class Setting(NamedTuple):
    """A space group with its choice of axes and origin, as files state it."""

    space_group: int
    """1 to 230."""
    symbol: str
    """Short Hermann-Mauguin symbol without blanks, as `Fm-3m`."""
    hall_symbol: str
    """With axes and origin, as `-F 4 2 3`."""
    rotations: NDArray[np.int64]
    """(m, 3, 3), on columns of fractional coordinates; those of all centring vectors."""
    translations: NDArray[np.float64]
    """(m, 3)."""


@lru_cache(maxsize=530)
def setting_of(hall_number: int) -> Setting:
    """Look up a setting by its Hall number, 1 to 530."""
    import moyopy

    entry = moyopy.HallSymbolEntry(hall_number)
    operations = moyopy.operations_from_number(
        entry.number, setting=moyopy.Setting.hall_number(hall_number)
    )
    return Setting(
        int(entry.number),
        str(entry.hm_short).replace(" ", ""),
        str(entry.hall_symbol).replace("=", '"'),
        np.array(operations.rotations, dtype=np.int64),
        np.array(operations.translations, dtype=np.float64),
    )


@lru_cache(maxsize=530)
def operation_triplets(hall_number: int) -> tuple[str, ...]:
    """Write the operations of a setting as CIF has them: `-x+1/2, y, z`."""
    setting = setting_of(hall_number)
    return tuple(
        ", ".join(_coordinate(*row) for row in zip(rotation.tolist(), shift, strict=True))
        for rotation, shift in zip(setting.rotations, setting.translations.tolist(), strict=True)
    )


def _coordinate(factors: list[int], shift: float) -> str:
    terms = "".join(f"{'+-'[f < 0]}{axis}" for f, axis in zip(factors, "xyz", strict=True) if f)
    fraction = Fraction(shift).limit_denominator(24) % 1
    return terms.removeprefix("+") + (f"+{fraction}" if fraction else "")
