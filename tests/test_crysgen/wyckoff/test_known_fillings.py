"""Fillings of known crystals, and how often each is drawn."""

from __future__ import annotations

from collections import Counter

import pytest

from crysgen.compositions.formulas import parse_formula
from crysgen.wyckoff.draws import draw_orbits
from crysgen.wyckoff.fillings import Fillings, contents_of
from crysgen.wyckoff.frequencies import orbit_score
from crysgen.wyckoff.known_fillings import count_known, name_of
from crysmetrics.space_groups.groups import space_group


def test_spinels_are_counted_as_a_whole() -> None:
    group, contents = space_group(227), contents_of(parse_formula("Mg2Al4O8"), 1, space_group(227))
    ways = list(Fillings(group, contents).likeliest(orbit_score(group, contents)))
    counts = {name_of(way): count_known(way) for way in ways}
    assert all(key == "227 2-4-8" for key, _ in counts)
    # Which of the two alike choices of the origin is named is moyo's choice.
    assert max(counts.values()) >= 20
    assert {name for _, name in counts} == {"a c e", "a d e", "b c e", "b d e"}


@pytest.mark.parametrize(
    ("formula", "number", "names"),
    [("Ti2O4", 136, {"a f", "b f"}), ("Sr1Ti1O3", 221, {"a b c", "a b d"})],
)
def test_what_known_crystals_have_is_drawn_most(formula: str, number: int, names: set[str]) -> None:
    atoms = parse_formula(formula).atoms
    drawn: Counter[str] = Counter()
    for seed in range(60):
        found = draw_orbits(number, atoms, seed)
        pairs = zip(found.elements.tolist(), found.orbits.positions, strict=True)
        drawn[" ".join(sorted(p.letter for _, p in pairs))] += 1
    assert sum(drawn[name] for name in names) > 45
