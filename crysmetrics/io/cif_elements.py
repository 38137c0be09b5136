"""Elements of CIF sites, from type symbols (`Fe3+`) and from labels (`Fe2A`)."""

from __future__ import annotations

import re
from functools import lru_cache

from crysmetrics.io.elements import ATOMIC_NUMBERS
from crysmetrics.io.parsed import shorten

MAX_SYMBOL = 40
"""Longest type symbol or label that is looked at; none that means an element is longer."""

_LAST_IN_CAPITALS = 94
"""Largest atomic number that two capitals may mean: CF is carbon or a group, never californium."""

# Groups of atoms that some programs give one site for; Nh and Bh in this spelling are elements.
_IMPLICIT_HYDROGEN = re.compile(
    r"(?i:wat|o-h|h2o)|(?i:oh[2-]?|nh[34]|ch[1-4]?)$|(?:NH|nh|BH|bh|SH)$"
)
_NO_ELEMENT = re.compile(r"(?:[Vv]ac?|VAC|[Dd]um?|DUM)$")
"""Vacancies and dummy atoms, which would be vanadium and deuterium by their first letter."""
_TYPE = re.compile(r"([A-Za-z]{1,2})[\d.]*[+-]?[\d.]*$")
_JOINED = re.compile(r"[+/][\d.\s()]*[A-Za-z]")


def strip_quotes(value: str) -> str:
    """Return a CIF value without quotes, blanks and the semicolons of a text field."""
    if value[:1] == ";":
        value = value[1:].rstrip().removesuffix(";")
    return value.strip("'\" \t\r\n")


@lru_cache(maxsize=4096)
def element_of_type(symbol: str) -> int:
    """Return the atomic number of a type symbol such as Fe, FE, Fe3+ or O2-.

    Raises:
        ValueError: if it is no single element.
    """
    bare = strip_quotes(symbol)
    _refuse_mixtures(bare)
    match = _TYPE.match(bare)
    number = _spelled(match[1]) if match else None
    if number is None:
        raise ValueError(f"holds an unknown element {shorten(bare)!r}")
    return number


@lru_cache(maxsize=4096)
def element_of_label(label: str, likely: frozenset[int] = frozenset()) -> int:
    """Return the atomic number of a site label such as Fe1, O2A or OW1; two letters go before one.

    Args:
        label: as the file has it.
        likely: elements of the stated formula; CA1 is carbon where there is no calcium.

    Raises:
        ValueError: if the element can't be told.
    """
    bare = strip_quotes(label)
    _refuse_mixtures(bare)
    letters = re.match(r"[A-Za-z]*", bare).group()  # type: ignore[union-attr]
    two = _spelled(letters[:2]) if len(letters) > 1 else None
    one = ATOMIC_NUMBERS.get(letters[:1].upper())
    if two is not None and letters[1].isupper() and one in likely and two not in likely:
        two = None
    if two is None and (one is None or _NO_ELEMENT.match(letters)):
        raise ValueError(f"holds an unknown element {bare!r}")
    rest = bare[1 if two is None else 2 :]
    if two is None and re.match(r"[Hh]|D(?![A-Za-z])", rest):
        raise ValueError(f"has a site {bare!r} with implicit hydrogens")
    second = re.match(r"-?([A-Z][a-z])", rest)
    if second and second[1] in ATOMIC_NUMBERS:
        raise ValueError(f"is disordered: a site of type {bare!r}")
    return one if two is None else two  # type: ignore[return-value]


def _refuse_mixtures(symbol: str) -> None:
    """Raise ValueError for a symbol of several elements, of a group of atoms, or no symbol."""
    if len(symbol) > MAX_SYMBOL:
        raise ValueError(f"holds an unknown element {shorten(symbol)!r}")
    if "," in symbol or ";" in symbol or _JOINED.search(symbol):
        raise ValueError(f"is disordered: a site of type {symbol!r}")
    if _IMPLICIT_HYDROGEN.match(symbol):
        raise ValueError(f"has a site {symbol!r} with implicit hydrogens")


def _spelled(letters: str) -> int | None:
    number = ATOMIC_NUMBERS.get(letters.title())
    if number is not None and number > _LAST_IN_CAPITALS and letters != letters.title():
        return None
    return number
