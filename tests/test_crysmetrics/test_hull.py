"""Convex hulls against a linear program, and the distances of phases from them."""

from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import linprog

from crysmetrics.hull import ConvexHull


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
