"""Chemical formulas, read the way people write them.

`LiFePO4`, `Ca(OH)2`, `K4[ON(SO3)2]2`, `CuSO4·5H2O`, `CuSO4.5H2O`, `Li 2 O` and `Li₂O` are
compositions with whole numbers of atoms. Other texts are refused with one sentence that says how
it would have to be written.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import gcd, lcm

from crysmetrics.errors import UserError
from crysmetrics.io.elements import SYMBOLS

_NUMBERS = {symbol: z for z, symbol in enumerate(SYMBOLS) if z > 0}
_ISOTOPES = ("D", "T")
_OPEN = {"(": ")", "[": "]", "{": "}"}
_CLOSE = {close: opened for opened, close in _OPEN.items()}
_DOTS = "·•∙⋅・*×"
"""Signs that join the parts of an adduct, besides the full stop."""
_LONGEST = 200
_MOST_ATOMS = 10_000
_LARGEST_WHOLE = 100
"""Largest number of formula units in which fractions are still shown as whole numbers."""
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"
_CHARGE = re.compile(rf"\^|[{_SUPERSCRIPTS}]|(?<=[A-Za-z0-9)\]}}])([+-]+|[+-]\d+)$")
_WATER = re.compile(r"\d*(\.\d+)?\(?(H2O|OH2)\)?($|[.·])")
_RARE = frozenset({43, 61, *range(84, 90), 91, *range(93, 119)})
"""Very radioactive elements, which hardly anybody means where two spellings are possible."""


@dataclass(frozen=True)
class Formula:
    """A chemical formula: elements with whole, positive numbers of atoms.

    Attributes:
        elements: atomic numbers, from the least electronegative element to the most (the order
            in which formulas are written).
        amounts: atoms of each, as they were written; `Li4O2` is not reduced.
    """

    elements: tuple[int, ...]
    amounts: tuple[int, ...]

    @classmethod
    def of(cls, counts: Mapping[int, int]) -> Formula:
        """Make the formula with these numbers of atoms by atomic number."""
        ordered = sorted((z for z, n in counts.items() if n), key=_writing_order)
        return cls(tuple(ordered), tuple(int(counts[z]) for z in ordered))

    @classmethod
    def of_atoms(cls, atomic_numbers: Iterable[int]) -> Formula:
        """Make the formula of all these atoms together."""
        return cls.of(Counter(int(z) for z in atomic_numbers))

    @property
    def counts(self) -> dict[int, int]:
        """Number of atoms of each element, by atomic number."""
        return dict(zip(self.elements, self.amounts, strict=True))

    @property
    def num_atoms(self) -> int:
        """Number of atoms of the formula as written."""
        return sum(self.amounts)

    @property
    def units(self) -> int:
        """Number of reduced formulas in it: 2 for Li4O2."""
        return gcd(*self.amounts)

    @property
    def reduced(self) -> Formula:
        """Formula with the smallest whole numbers."""
        return Formula(self.elements, tuple(n // self.units for n in self.amounts))

    @property
    def anonymous(self) -> tuple[int, ...]:
        """Reduced amounts in ascending order: (1, 2) for Li2O, TiO2 and MgCl2 alike."""
        return tuple(sorted(self.reduced.amounts))

    def times(self, units: int) -> Formula:
        """Multiply the formula."""
        return Formula(self.elements, tuple(units * n for n in self.amounts))

    @property
    def atoms(self) -> tuple[int, ...]:
        """Atomic number of every atom, element after element."""
        pairs = zip(self.elements, self.amounts, strict=True)
        return tuple(z for z, n in pairs for _ in range(n))

    @property
    def text(self) -> str:
        """Text as written, without brackets: `CaO2H2`. Fit for file names."""
        pairs = zip(self.elements, self.amounts, strict=True)
        return "".join(f"{SYMBOLS[z]}{n if n > 1 else ''}" for z, n in pairs)

    @property
    def hill(self) -> str:
        """Text in Hill's order: carbon, hydrogen, the alphabet; without carbon the alphabet."""
        counts = {SYMBOLS[z]: n for z, n in self.counts.items()}
        first = [s for s in ("C", "H") if s in counts] if "C" in counts else []
        order = [*first, *sorted(s for s in counts if s not in first)]
        return " ".join(f"{s}{counts[s] if counts[s] > 1 else ''}" for s in order)

    @cached_property
    def reduced_formula(self) -> str:
        """Text as pymatgen and the Materials Project write it: `LiFePO4`, `Ca(HO)2`, `Na2O2`."""
        from pymatgen.core import Composition

        return str(Composition({SYMBOLS[z]: n for z, n in self.counts.items()}).reduced_formula)

    def __str__(self) -> str:
        return self.text


def _writing_order(z: int) -> tuple[float, str]:
    from crysmetrics.features._element_data import ELECTRONEGATIVITY

    value = float(ELECTRONEGATIVITY[z])
    return (value if value == value else float("inf"), SYMBOLS[z])


def parse_formula(text: str) -> Formula:
    """Parse a formula.

    Args:
        text: element symbols with whole numbers, brackets of three kinds, parts joined by a dot.

    Raises:
        UserError: saying what is wrong, and how it should be written.
    """
    shown = _shown(text)
    bare = _plain(text, shown)
    _refuse_what_is_no_formula(bare, shown)
    amounts = _Reader(bare, shown).read()
    if any(n.denominator != 1 for n in amounts.values()):
        raise UserError(_say_fraction(amounts, shown))
    counts = {z: int(n) for z, n in amounts.items()}
    if sum(counts.values()) > _MOST_ATOMS:
        raise UserError(f"{shown} has more than {_MOST_ATOMS} atoms.")
    return Formula.of(counts)


def parse_system(text: str) -> tuple[int, ...]:
    """Parse a chemical system into atomic numbers, such as `Li-Fe-O`, without repeats, as given.

    Raises:
        UserError: if it is none.
    """
    names = [name.strip() for name in re.split(r"[-–,\s]+", text.strip()) if name.strip()]
    if not names:
        raise UserError("A chemical system is elements joined by hyphens, such as Li-Fe-O.")
    for name in names:
        if name not in _NUMBERS:
            hint = f"; did you mean {name.capitalize()}?" if name.capitalize() in _NUMBERS else "."
            raise UserError(f"--system takes elements such as Li-Fe-O; {name!r} is none{hint}")
    return tuple(dict.fromkeys(_NUMBERS[name] for name in names))


def _shown(text: str) -> str:
    """Shorten a text as messages name it: on one line, not too long."""
    one_line = " ".join(text.split())
    return repr(one_line if len(one_line) <= 60 else one_line[:57] + "...")


def _plain(text: str, shown: str) -> str:
    """Remove blanks, and replace digits, brackets and dots by plain ones."""
    if len(text) > _LONGEST:
        raise UserError(f"{shown} is too long for a formula.")
    if re.fullmatch(r"\s*[a-z_]+[-_]\d+\s*", text):
        raise UserError(f"{shown} looks like an id; write the formula, such as Li2O.")
    if _CHARGE.search(text.strip()):
        raise UserError(
            f"{shown} carries a charge; write the neutral compound without charges, such as Fe2O3."
        )
    # Subscripts and full-width characters become plain ones; a superscript would too, silently,
    # and a half would become 1/2.
    text = "".join(_decimal(c) for c in text)
    text = unicodedata.normalize("NFKC", text)
    if re.search(r"\d\s+\d", text):
        raise UserError(f"{shown} has a blank between two digits; which number is meant?")
    text = re.sub(r"\s+", "", text)
    return re.sub(f"[{_DOTS}]", "·", text)


def _decimal(character: str) -> str:
    if not unicodedata.decomposition(character).startswith("<fraction>"):
        return character
    return f"{unicodedata.numeric(character):.4g}".lstrip("0")


def _refuse_what_is_no_formula(bare: str, shown: str) -> None:
    """Refuse mistakes that a reader of formulas would call by a wrong name."""
    if not bare:
        raise UserError("An empty formula was given; write one such as Li2O.")
    if "," in bare or ";" in bare:
        raise UserError(f"{shown} holds several formulas; give --composition once for each.")
    if "/" in bare or "\\" in bare:
        raise UserError(f"{shown} is no formula; files and folders go with --compositions.")
    if re.search(r"[A-Za-z)\]}]-[A-Za-z]", bare):
        raise UserError(f"{shown} is no formula; a chemical system goes with --system.")
    rest = re.sub("|".join(sorted(_NUMBERS, key=len, reverse=True)), "", bare)
    if re.search(r"\d[-+±]|[-+±]\d|[nxyzδ]", rest) and not re.search("[A-Za-mo-w]", rest):
        raise UserError(f"{shown} has a variable amount; give whole numbers of atoms.")


class _Reader:
    """Reader of a formula from left to right."""

    def __init__(self, bare: str, shown: str) -> None:
        self.bare, self.shown, self.at = bare, shown, 0

    def read(self) -> dict[int, Fraction]:
        total: dict[int, Fraction] = {}
        while True:
            factor = self._number(leading=True)
            _add(total, self._group(None), factor)
            if self.at == len(self.bare):
                return total
            self.at += 1  # the dot between two parts

    def _group(self, opened: str | None) -> dict[int, Fraction]:
        """Read atoms up to the bracket that closes this group, or to the end of a part."""
        found: dict[int, Fraction] = {}
        start = self.at
        while self.at < len(self.bare):
            character = self.bare[self.at]
            if character in _OPEN:
                self.at += 1
                inner = self._group(character)
                _add(found, inner, self._number())
            elif character in _CLOSE:
                if opened != _CLOSE[character]:
                    before = f"{opened!r} is open" if opened else "no bracket is open"
                    raise UserError(f"{self.shown} closes {character!r} where {before}.")
                if self.at == start:
                    raise UserError(f"{self.shown} has empty brackets.")
                self.at += 1
                return found
            elif character in ".·":
                if opened:
                    raise UserError(f"{self.shown} has a dot inside brackets.")
                break
            else:
                element = self._element()
                _add(found, {element: Fraction(1)}, self._number())
        if opened:
            raise UserError(f"{self.shown} never closes {opened!r}.")
        if self.at == start:
            where = "no elements" if self.bare.isdigit() else "an empty part"
            raise UserError(f"{self.shown} has {where}.")
        return found

    def _element(self) -> int:
        symbol = self.bare[self.at : self.at + 2]
        if symbol not in _NUMBERS or len(symbol) < 2:
            symbol = symbol[:1]
        # `Xx`: not X and then nothing that begins with a small letter.
        following = self.bare[self.at + len(symbol) : self.at + len(symbol) + 1]
        if symbol not in _NUMBERS or following.islower():
            raise UserError(self._say_no_element(symbol, following))
        self.at += len(symbol)
        return _NUMBERS[symbol]

    def _say_no_element(self, symbol: str, following: str) -> str:
        if symbol in _ISOTOPES and not following.islower():
            plain = re.sub(f"[{''.join(_ISOTOPES)}](?![a-z])", "H", self.bare)
            return f"{self.shown}: {symbol} is an isotope of hydrogen; write {plain}."
        meant = _spellings(self.bare)
        if meant:
            return f"{self.shown} is no formula; did you mean {' or '.join(meant)}?"
        wrong = re.compile(r"[A-Z]?[a-z]*").match(self.bare, self.at)
        if wrong is None or not wrong.group():
            return f"{self.shown} is no formula: {self.bare[self.at]!r} has no place there."
        return f"{self.shown} names an element {wrong.group()!r} that does not exist."

    def _number(self, leading: bool = False) -> Fraction:
        """Read the number that comes next; 1 without one."""
        # A full stop between digits is a decimal point, unless a hydrate's water follows.
        digits = re.compile(r"\d+").match(self.bare, self.at)
        dot = self.at + (len(digits.group()) if digits else 0)
        decimal = re.compile(r"\.\d+").match(self.bare, dot)
        if decimal and not leading and _WATER.match(self.bare, dot + 1):
            decimal = None
        end = decimal.end() if decimal else dot
        text, self.at = self.bare[self.at : end], end
        if decimal and not digits and not leading:
            raise UserError(
                f"{self.shown} has a dot that may be a decimal point or join two parts; write "
                f"0{decimal.group()} or ·{decimal.group()[1:]}."
            )
        if text and Fraction(text) == 0:
            raise UserError(f"{self.shown} has an amount of zero.")
        return Fraction(text or "1")


def _add(total: dict[int, Fraction], more: Mapping[int, Fraction], factor: Fraction) -> None:
    for z, amount in more.items():
        total[z] = total.get(z, Fraction(0)) + amount * factor


def _say_fraction(amounts: Mapping[int, Fraction], shown: str) -> str:
    """Say why fractions are refused, and which whole numbers may be meant."""
    text = f"{shown} has fractions of atoms, but a cell holds whole ones"
    whole = lcm(*(n.denominator for n in amounts.values()))
    if whole > _LARGEST_WHOLE:
        return f"{text}; give whole numbers."
    formula = Formula.of({z: int(n * whole) for z, n in amounts.items()}).reduced
    return f"{text}; if an ordered crystal of that ratio is meant, write {formula}."


def _spellings(bare: str) -> list[str]:
    """List formulas that differ from this one by small and capital letters alone, likeliest first.

    Few elements with long symbols go before many (`nacl` is NaCl), and rare ones come last
    (`lifepo4` holds no polonium).
    """
    found: list[tuple[int, str]] = [(0, "")]
    for part in re.findall(r"[A-Za-z]+|[^A-Za-z]+", bare):
        ways = _symbol_sequences(part.lower()) if part.isalpha() else [(0, part)]
        found = [(a + b, start + way) for a, start in found for b, way in ways][:200]
    best = min((cost for cost, _ in found), default=0)
    likely = [text for cost, text in sorted(found) if cost <= best + 1 and text != bare]
    return [text for text in likely if _is_formula(text)][:3]


def _symbol_sequences(letters: str) -> list[tuple[int, str]]:
    """List all ways to read letters: number of symbols, rare ones counting four times, and text."""
    if not letters:
        return [(0, "")]
    if len(letters) > 12:
        return []
    heads = [letters[:n].capitalize() for n in (2, 1) if len(letters) >= n]
    return [
        (cost + (4 if _NUMBERS[head] in _RARE else 1), head + rest)
        for head in heads
        if head in _NUMBERS
        for cost, rest in _symbol_sequences(letters[len(head) :])
    ]


def _is_formula(text: str) -> bool:
    try:
        _Reader(text, "").read()
    except UserError:
        return False
    return True
