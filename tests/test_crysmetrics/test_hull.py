"""Convex hulls against a linear program, and the distances of phases from them."""

import json
from itertools import combinations

import numpy as np
import pytest
from click.testing import CliRunner
from pymatgen.analysis.phase_diagram import PDEntry
from pymatgen.entries.computed_entries import ComputedEntry
from scipy.optimize import linprog

from crysmetrics.cli import main
from crysmetrics.errors import InputError, UserError
from crysmetrics.hull import ConvexHull
from crysmetrics.hull.entries import read_entries
from crysmetrics.hull.table import HullTable, load_hull, parse_system, phases_of, reduced


def random_phases(count: int, seed: int, elements: tuple[int, ...] = (3, 8, 22, 26)):
    rng = np.random.default_rng(seed)
    compositions = []
    for _ in range(count):
        chosen = rng.choice(elements, rng.integers(1, 4), replace=False)
        compositions.append({int(z): int(rng.integers(1, 5)) for z in chosen})
    return compositions, rng.normal(-0.5, 0.7, count)


def by_linear_program(compositions, energies, goal, without=None):
    """The cheapest mixture of phases and elements with a composition."""
    elements = sorted(goal)
    used = [
        i
        for i, c in enumerate(compositions)
        if set(c) <= set(elements) and i != without and np.isfinite(energies[i])
    ]
    shares = [
        [compositions[i].get(z, 0) / sum(compositions[i].values()) for z in elements] for i in used
    ]
    columns = np.array(shares + np.eye(len(elements)).tolist()).T
    costs = [*energies[used], *[0.0] * len(elements)]
    total = sum(goal.values())
    found = linprog(costs, A_eq=columns, b_eq=[goal[z] / total for z in elements], method="highs")
    return found.fun


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hulls_are_the_cheapest_mixtures(seed):
    compositions, energies = random_phases(40, seed)
    energies[::9] = np.nan
    hull = ConvexHull(compositions, energies)
    for i, composition in enumerate(compositions):
        wanted = by_linear_program(compositions, energies, composition)
        assert hull.hull_energy(composition) == pytest.approx(wanted, abs=1e-9)
        without = by_linear_program(compositions, energies, composition, i)
        assert hull.hull_energy(composition, i) == pytest.approx(without, abs=1e-9)
        if np.isnan(energies[i]):
            assert np.isnan(hull.e_above_hull_of(i))
        else:
            assert hull.e_above_hull_of(i) >= -1e-9
            other = hull.e_above_hull_of(i, with_itself=False)
            assert other == pytest.approx(energies[i] - without, abs=1e-9)
            assert other <= hull.e_above_hull_of(i) + 1e-9


def test_a_stable_phase_lies_below_the_hull_of_the_others():
    hull = ConvexHull([{3: 2, 8: 1}, {3: 1, 8: 1}], [-2.0, -0.5])
    assert hull.e_above_hull_of(0) == pytest.approx(0)
    # Without Li2O there is LiO with lithium: two thirds of Li2O's atoms, a third of lithium's.
    assert hull.e_above_hull_of(0, with_itself=False) == pytest.approx(-2.0 + 0.5 * 2 / 3)
    assert hull.e_above_hull({3: 1, 8: 1}, -0.5) == pytest.approx(-0.5 + 2.0 * 3 / 4)


def test_two_phases_of_one_composition_and_energy_hold_each_other_up():
    hull = ConvexHull([{11: 1, 17: 1}, {11: 2, 17: 2}], [-1.0, -1.0])
    for i in range(2):
        assert hull.e_above_hull_of(i, with_itself=False) == pytest.approx(0)


def test_elements_lie_at_zero_without_any_phase():
    hull = ConvexHull([], [])
    assert hull.hull_energy({26: 3}) == 0
    assert hull.e_above_hull({26: 1, 8: 1}, -1.25) == -1.25
    allotropes = ConvexHull([{26: 1}, {26: 2}], [0.0, 0.1])
    assert allotropes.e_above_hull_of(1, with_itself=False) == pytest.approx(0.1)


def test_energies_and_compositions_belong_together():
    with pytest.raises(ValueError, match="2 compositions"):
        ConvexHull([{1: 1}, {2: 1}], [0.0])


def test_subsystems_count_and_other_elements_do_not():
    elements = (3, 8, 9)
    compositions = [dict.fromkeys(pair, 1) for pair in combinations(elements, 2)] + [{3: 1, 17: 1}]
    hull = ConvexHull(compositions, [-1.0, -2.0, -0.2, -9.0])
    assert hull.hull_energy({3: 1, 8: 1}) == pytest.approx(-1.0)
    assert hull.hull_energy({3: 2, 8: 1, 9: 1}) == pytest.approx(-1.5)


def table_of(rows: list[tuple[dict[int, int], float, float]]) -> HullTable:
    compositions, energies, published = zip(*rows, strict=True)
    ids = tuple(f"p{i}" for i in range(len(rows)))
    return HullTable(ids, compositions, np.array(energies), np.array(published), "made up")


def test_published_distances_tell_where_the_hull_runs():
    # LiO lies 0.3 above a hull whose phases are not in the table.
    table = table_of([({3: 1, 8: 1}, -1.0, 0.3), ({3: 2, 8: 1}, -2.0, np.nan)])
    assert table.hull.hull_energy({3: 1, 8: 1}) == pytest.approx(-1.5)  # by Li2O and oxygen
    table = table_of([({3: 1, 8: 1}, -1.0, 0.7), ({3: 2, 8: 1}, -2.0, np.nan)])
    assert table.hull.hull_energy({3: 1, 8: 1}) == pytest.approx(-1.7)
    assert table.hull_of_phases.hull_energy({3: 1, 8: 1}) == pytest.approx(-1.5)
    [(name, phase_id, share)] = table.names(table.hull.mixture({3: 1, 8: 1}))
    assert (name, phase_id, share) == ("Li2O2", "", pytest.approx(1))


def test_tables_are_what_was_saved(tmp_path):
    compositions, energies = random_phases(60, 3)
    rows = [(c, float(np.float32(e)), np.nan) for c, e in zip(compositions, energies, strict=True)]
    table = table_of(rows).with_errors()
    table.save(tmp_path / "t.npz")
    again = load_hull(tmp_path / "t.npz")
    assert again.compositions == table.compositions
    assert again.errors == table.errors
    np.testing.assert_array_equal(again.energies, table.energies)
    assert sum(error.count for error in table.errors) == len(
        {reduced(c) for c in compositions if len(c) > 1}
    )
    assert again.error(0) is None or again.error(0).first == 0
    (tmp_path / "bad.npz").write_bytes(b"no table")
    with pytest.raises(InputError, match="damaged"):
        load_hull(tmp_path / "bad.npz")


def test_the_shipped_table_knows_well_known_phases():
    table = load_hull()
    phases = {phase.formula: phase for phase in phases_of(table, parse_system("Li-Fe-O"))[::-1]}
    assert phases["Fe2O3"].e_above_hull < 0.001
    assert phases["Li2O2"].formation_energy_per_atom == pytest.approx(-1.65, abs=0.02)
    known = np.flatnonzero(np.isfinite(table.published))[::200]
    differences = [
        table.energies[i] - table.hull.hull_energy(table.compositions[i]) - table.published[i]
        for i in known
    ]
    assert np.mean(np.abs(differences) < 0.001) > 0.95
    assert table.error(1).mean > table.error(30).mean


@pytest.mark.parametrize("text", ["Li-", "Li-Li", "H-D", "LiO", "", "Xx-O"])
def test_what_is_no_system_is_refused(text):
    with pytest.raises(UserError, match="is written like Li-Fe-O"):
        parse_system(text)


def test_entries_of_users_and_databases(tmp_path):
    (tmp_path / "own.csv").write_text(
        "formula,formation_energy_per_atom,e_above_hull\nLi2O,-2.0,0\nLiO,-1.2,\n"
    )
    table = read_entries(tmp_path / "own.csv")
    assert table.compositions == ({3: 2, 8: 1}, {3: 1, 8: 1})
    np.testing.assert_array_equal(table.energies, [-2.0, -1.2])
    entries = [PDEntry("Li2", -4.0), PDEntry("O2", -10.0), PDEntry("Li2O", -15.0)]
    entries.append(ComputedEntry("LiO", -9.0, correction=-1.0))
    text = json.dumps({"all_entries": [entry.as_dict() for entry in entries]})
    (tmp_path / "diagram.json").write_text(text)
    found = read_entries(tmp_path / "diagram.json")
    np.testing.assert_allclose(found.energies, [0, 0, (-15 + 4 + 5) / 3, (-10 + 2 + 5) / 2])
    (tmp_path / "bare.json").write_text(json.dumps([PDEntry("Li2O", -15.0).as_dict()]))
    with pytest.raises(InputError, match="none of the element Li"):
        read_entries(tmp_path / "bare.json")
    (tmp_path / "bad.csv").write_text("formula,energy_per_atom\nLi?O,-1\n")
    with pytest.raises(InputError, match="is no formula"):
        read_entries(tmp_path / "bad.csv")


def test_the_commands_build_and_show(tmp_path):
    (tmp_path / "own.csv").write_text(
        "formula,formation_energy_per_atom\nLi2O,-2.0\nLiO,-1.2\nLiFeO2,-1.9\n"
    )
    built = tmp_path / "own.npz"
    made = CliRunner().invoke(main, ["hull", "build", str(tmp_path / "own.csv"), "-o", str(built)])
    assert made.exit_code == 0, made.output
    for name, system in (("b.png", "Li-O"), ("t.svg", "Li-Fe-O")):
        call = ["hull", "show", system, "--hull", str(built), "-o", str(tmp_path / name)]
        shown = CliRunner().invoke(main, [*call, "--json", str(tmp_path / f"{name}.json")])
        assert shown.exit_code == 0, shown.output
        assert "Li2O" in shown.output
        assert (tmp_path / name).stat().st_size > 1000
    document = json.loads((tmp_path / "b.png.json").read_text())
    distances = {phase["formula"]: phase["e_above_hull"] for phase in document["phases"]}
    assert distances == {"Li2O": 0, "Li2O2": pytest.approx(0.3)}
    refused = CliRunner().invoke(main, ["hull", "show", "Li", "-o", str(tmp_path / "x.png")])
    assert refused.exit_code == 2
    assert "two or three elements" in refused.output
