"""Space groups that a CIF names without listing their operations: which setting is meant.

A name may leave open where the origin is (Fd-3m), on which axes a rhombohedral lattice stands
(R-3m), which axis is the unique one (number 14). The cell decides about axes; about origins the
caller must, by the formula, with what `possible_operations` returns.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io.cif_elements import strip_quotes
from crysmetrics.io.cif_symmetry import Operations, Rotations

HALL_TAGS = ("_space_group_name_Hall", "_symmetry_space_group_name_Hall")
NAME_TAGS = (
    "_symmetry_space_group_name_H-M",
    "_symmetry_space_group_name_H_M",
    "_space_group_name_H-M_alt",
    "_space_group_name_H-M_full",
    "_space_group_name_H-M_ref",
)
NUMBER_TAGS = ("_space_group_IT_number", "_symmetry_Int_Tables_number")
CODE_TAG = "_space_group_IT_coordinate_system_code"

MAX_NAME = 60
"""Longest name of a space group (characters) that is looked at."""
_CELL_TOLERANCE = 0.02
"""How far a cell may be from what an operation asks, relative to its lengths."""
_SETTINGS = 600
"""Settings that are remembered: those of the tables, and some."""
_UNKNOWN = ("", "?", ".")
_ALL_TAGS = (*HALL_TAGS, *NAME_TAGS, *NUMBER_TAGS, CODE_TAG)


def possible_operations(
    find_value: Callable[[str], str | None], lattice: NDArray[np.float64]
) -> list[Operations | None]:
    """Return what the stated space group can mean in this cell; None is P1, without operations.

    More than one if the block leaves the choice of the origin open, or contradicts itself.

    Args:
        find_value: gives a tag's value, or None.
        lattice: (3, 3) rows in Å.

    Raises:
        ValueError: if no such space group is known, or the cell has not its symmetry.
    """
    stated = {tag: strip_quotes(find_value(tag) or "") for tag in _ALL_TAGS}
    if max(map(len, stated.values())) > MAX_NAME:
        raise ValueError("has a space group whose name is too long")
    known = {tag: value for tag, value in stated.items() if value not in _UNKNOWN}
    code = known.pop(CODE_TAG, "")
    if not known:
        return [None]
    with np.errstate(all="ignore"):  # absurd cells are refused elsewhere
        metric = lattice @ lattice.T
        halls = _halls(tuple(known.items()), code, metric.tobytes())
    return [None if len(found) == 1 else found for found in map(_operations, halls)]


@lru_cache(maxsize=1024)
def _halls(known: tuple[tuple[str, str], ...], code: str, metric: bytes) -> tuple[str, ...]:
    """List Hall symbols of the settings that tags can mean in a cell of this metric tensor."""
    shown = repr(known[0][1])
    choices = _choices(known, code)
    if not choices:
        raise ValueError(f"can't be expanded: its space group {shown} comes without operations")
    tensor = np.frombuffer(metric)
    found: dict[str, None] = {}
    for alternatives in choices:
        for origins in alternatives:
            fitting = [s.hall for s in origins if _allows(s.hall, tensor)]
            if fitting:
                found |= dict.fromkeys(fitting)
                break
    if not found:
        raise ValueError(f"has a cell without the symmetry of its space group {shown}")
    return tuple(found)


class _Setting(NamedTuple):
    number: int
    hall: str
    code: str
    """1, 2, H, R or a code of axes such as b1."""


_Alternatives = tuple[tuple[_Setting, ...], ...]
"""Settings on other axes, the first that fits the cell is meant; each with all its origins."""


@lru_cache(maxsize=1024)
def _choices(known: tuple[tuple[str, str], ...], code: str) -> list[_Alternatives]:
    """List what the tags mean, each of them if they contradict each other."""
    precise, numbers = [], []
    for tag, value in known:
        if tag in HALL_TAGS:
            precise.append(_by_hall(value))
        elif tag in NAME_TAGS and not value.isdigit():
            precise.append(_by_name(value))
        else:
            numbers.append(_by_number(value))
    precise, numbers = [p for p in precise if p], [n for n in numbers if n]
    choices = precise[:1]
    for other in precise[1:]:
        both = _common(choices[-1], other)
        if both:
            choices[-1] = both
        elif other not in choices:
            choices.append(other)
    groups = {choice[0][0].number for choice in choices}
    choices += [n for n in numbers if n[0][0].number not in groups | {0} or not choices]
    coded = [_common_code(choice, code.upper()) for choice in choices] if code else []
    return [c or choice for c, choice in zip_longest(coded, choices)]


def _common(some: _Alternatives, others: _Alternatives) -> _Alternatives:
    """Return the settings that are in both."""
    halls = {setting.hall for origins in others for setting in origins}
    kept = (tuple(s for s in origins if s.hall in halls) for origins in some)
    return tuple(origins for origins in kept if origins)


def _common_code(choice: _Alternatives, code: str) -> _Alternatives:
    kept = (tuple(s for s in origins if s.code == code) for origins in choice)
    return tuple(origins for origins in kept if origins)


@lru_cache(maxsize=1024)
def _by_hall(symbol: str) -> _Alternatives:
    import gemmi

    bare = " ".join(symbol.replace("_", " ").split())
    setting = _by_their_hall().get(bare)
    if setting is not None:
        return ((setting,),)
    try:
        gemmi.symops_from_hall(bare)
    except (ValueError, RuntimeError):
        return ()
    return ((_Setting(0, bare, ""),),)


@lru_cache(maxsize=1024)
def _by_number(value: str) -> _Alternatives:
    match = re.match(r"(\d{1,3})(\.0*)?$", value)
    number = int(match[1]) if match else 0
    settings = [s for s in _table() if s.number == number]
    if 3 <= number <= 15:  # the first cell choice on each unique axis
        return tuple((s,) for s in settings if s.code in ("B", "B1", "C", "C1", "A", "A1"))
    if not settings:
        return ()
    if settings[0].code == "H":
        return (settings[0],), (settings[1],)
    return (tuple(settings[:2]) if settings[0].code == "1" else (settings[0],),)


@lru_cache(maxsize=1024)
def _by_name(name: str) -> _Alternatives:
    """List settings of a Hermann-Mauguin symbol, in the spellings of databases and programs."""
    import gemmi

    bare = re.sub(r"(?i)\s*\(?\s*(?:no\.?|#)\s*\d+\s*\)?$", "", name)
    bare = re.sub(r"\((\d)\)", r"\1", bare.replace("_", "").replace("−", "-"))
    bare = " ".join(bare.split())
    # ICSD writes S and Z for the first and second origin, others O1 and O2.
    match = re.match(
        r"(?i)(.+?)\s*(?::\s*(?:O|origin\s*)?([12HRSZ])|\s?O([12])|\s?([SZ])|( ?[HR]))$", bare
    )
    chosen = ""
    if match:
        chosen = next(g for g in match.groups()[1:] if g).strip().upper()
        chosen, bare = {"S": "1", "Z": "2"}.get(chosen, chosen), match[1]
    elif bare[:1] in "Hh":
        chosen = "H"
    found = gemmi.find_spacegroup_by_name(bare)
    short = re.sub(r"\s", "", bare).lower()
    same = [s for s in _short_names().get(short, ()) if found is None or s.number == found.number]
    if found is None:
        return tuple((s,) for s in same)
    hm = found.hm
    settings = [s for s, other in zip(_table(), _names(), strict=True) if other == hm]
    settings = [s for s in settings if s.number == found.number]
    if chosen:
        settings = [s for s in settings if s.code == chosen]
        return (tuple(settings),) if settings else ()
    if settings[0].code == "H":
        return tuple((s,) for s in settings)
    return (tuple(settings), *((s,) for s in same if s not in settings))


@lru_cache(maxsize=1)
def _table() -> tuple[_Setting, ...]:
    import gemmi

    return tuple(
        _Setting(g.number, g.hall, (g.qualifier if g.ext == "\0" else g.ext).upper())
        for g in gemmi.spacegroup_table()
    )


@lru_cache(maxsize=1)
def _by_their_hall() -> dict[str, _Setting]:
    """Map Hall symbols to settings; the first of several with one symbol stays."""
    return {setting.hall: setting for setting in reversed(_table())}


@lru_cache(maxsize=1)
def _names() -> tuple[str, ...]:
    import gemmi

    return tuple(g.hm for g in gemmi.spacegroup_table())


@lru_cache(maxsize=1)
def _short_names() -> dict[str, list[_Setting]]:
    """List monoclinic settings by their symbols without the axes of no symmetry: p21/c."""
    shorts: dict[str, list[_Setting]] = {}
    for setting, hm in zip(_table(), _names(), strict=True):
        if 3 <= setting.number <= 15:
            short = "".join(part for part in hm.split() if part != "1")
            shorts.setdefault(short.lower(), []).append(setting)
    return shorts


@lru_cache(maxsize=_SETTINGS)
def _operations(hall: str) -> Operations:
    import gemmi

    bare, shift = _without_shift(hall)
    if shift is not None:
        return _operations(bare).shifted(shift)
    group = gemmi.symops_from_hall(hall)
    scale = float(gemmi.Op.DEN)
    operations = list(group.sym_ops)
    rotations = np.array([operation.rot for operation in operations]) / scale
    translations = np.array([operation.tran for operation in operations])
    centerings = np.array(list(group.cen_ops))
    # One centering after the other, as gemmi itself goes through them.
    translations = (translations + centerings[:, None]) % gemmi.Op.DEN / scale
    rotations = np.tile(rotations, (len(centerings), 1, 1))
    return Operations(Rotations(rotations), translations.reshape(-1, 3), is_group=True)


def _without_shift(hall: str) -> tuple[str, NDArray[np.float64] | None]:
    """Return a Hall symbol without the shift of its origin, and that shift (in 24ths) or None.

    A shift stands at the end of the symbol: in 12ths as (0 0 1), or in a change of basis such as
    (-y,x,z+1/12), of which the rest stays.
    """
    import gemmi

    match = re.match(r"([^()]*)\(([^()]*)\)$", hall)
    if match is None:
        return hall, None
    bare, change = match.groups()
    if re.fullmatch(r"-?\d+ -?\d+ -?\d+", change):
        return bare.rstrip(), 2.0 * np.array([int(n) % 12 for n in change.split()])
    if "," not in change:
        return hall, None
    basis = gemmi.Op(change)
    shift = np.array(basis.tran, dtype=np.float64)
    if not shift.any():
        return hall, None
    basis.tran = [0, 0, 0]
    return f"{bare}({basis.triplet()})", shift


def _allows(hall: str, metric: NDArray[np.float64]) -> bool:
    """Tell whether a cell with this metric tensor (9 numbers) has the symmetry of a setting."""
    changes = np.abs((_operations(hall).rotations.on_metrics @ metric).reshape(-1, 9) - metric)
    lengths = np.sqrt(metric[::4])
    return bool((changes <= _CELL_TOLERANCE * np.outer(lengths, lengths).reshape(9)).all())
