"""Fillings of Wyckoff positions against a search by force, and the command that lists them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from crysgen.cli import main
from crysgen.compositions.formulas import Formula, parse_formula
from crysgen.wyckoff.fillings import Fillings, contents_of
from crysgen.wyckoff.frequencies import orbit_score
from crysgen.wyckoff.listing import list_fillings
from crysmetrics.errors import UserError
from crysmetrics.space_groups.groups import SpaceGroup, space_group


def by_force(group: SpaceGroup, contents: Formula) -> set[tuple[tuple[int, str], ...]]:
    """All fillings, element by element, from every multiset of positions that adds up."""
    each = []
    for z, atoms in contents.counts.items():
        fits = []
        most = atoms // min(p.multiplicity for p in group.positions)
        for k in range(1, most + 1):
            for chosen in itertools.combinations_with_replacement(group.positions, k):
                if sum(p.multiplicity for p in chosen) == atoms:
                    fits.append([(z, p) for p in chosen])
        each.append(fits)
    found = set()
    for parts in itertools.product(*each):
        orbits = [orbit for part in parts for orbit in part]
        fixed = [p.letter for _, p in orbits if not p.free]
        if len(fixed) == len(set(fixed)):
            found.add(tuple((z, p.letter) for z, p in orbits))
    return found


@pytest.mark.parametrize(
    ("formula", "number"),
    [("TiO2", 136), ("Ti2O4", 136), ("Li2O", 2), ("LiFeO2", 47), ("MgAl2O4", 99), ("SrTiO3", 221)],
)
def test_all_fillings_are_counted_and_listed_best_first(formula: str, number: int) -> None:
    group, asked = space_group(number), parse_formula(formula)
    contents = contents_of(asked, 1, group)
    ways = Fillings(group, contents)
    listed = list(ways.likeliest(orbit_score(group, contents)))
    expected = by_force(group, contents)
    assert {tuple((z, p.letter) for z, p in way.orbits) for way in listed} == expected
    assert ways.count == len(listed) == len(expected)
    scores = [way.score for way in listed]
    assert scores == sorted(scores, reverse=True)


def test_counts_may_be_big() -> None:
    group = space_group(47)
    contents = parse_formula("K20Na20Cl40O80")
    ways = Fillings(group, contents)
    assert ways.count > 10**12
    first = next(ways.likeliest(orbit_score(group, contents)))
    assert first.num_atoms == 160


@pytest.mark.parametrize(
    ("formula", "number", "expected"),
    [
        ("TiO2", 136, {22: ["2a"], 8: ["4f"]}),
        ("CaF2", 225, {20: ["4a"], 9: ["8c"]}),
        ("NaCl", 225, {11: ["4a"], 17: ["4b"]}),
    ],
)
def test_real_structures_come_first(
    formula: str, number: int, expected: dict[int, list[str]]
) -> None:
    _, (best, *_) = list_fillings(parse_formula(formula), space_group(number), None, 20, 3)
    assert {z: [p.name for p in best.positions_of(z)] for z in expected} == expected


def test_impossible_cells_are_refused_with_the_nearest_that_works() -> None:
    with pytest.raises(UserError, match=r"1 atom of Ti is no sum .* cells that work hold 2\."):
        list_fillings(parse_formula("TiO2"), space_group(136), [1], 20, 3)
    with pytest.raises(UserError, match="same of the positions"):
        list_fillings(parse_formula("LiNaKCl"), space_group(221), [1], 20, 3)


def test_command_writes_what_it_shows(tmp_path: Path) -> None:
    path = tmp_path / "fillings.json"
    arguments = ["wyckoff", "TiO2", "--space-group", "P4_2/mnm", "-n", "2", "--json", str(path)]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "1. Ti 2a, O 4f" in result.output
    document = json.loads(path.read_text())
    assert document["num_fillings"]["2"] == 10
    first = document["fillings"][0]
    assert first["free_coordinates"] == 1
    assert [orbit["letter"] for orbit in first["orbits"]] == ["a", "f"]
