"""Subgroups, and crystals in the cells of subgroups of their space groups."""

import numpy as np
import pytest
import spglib

from crysmetrics.io import Crystals
from crysmetrics.matching.distances import rms_distances
from crysmetrics.space_group_settings import point_group_order
from crysmetrics.space_groups.assignment import assign_orbits_of
from crysmetrics.space_groups.groups import space_group
from crysmetrics.space_groups.subgroups import in_subgroup, is_subgroup
from crysmetrics.symmetry import Cell, StandardCell, standard_cell

RUTILE = Cell(
    np.diag([4.594, 4.594, 2.959]),
    np.array([
        [0, 0, 0], [0.5, 0.5, 0.5], [0.305, 0.305, 0], [0.695, 0.695, 0],
        [0.805, 0.195, 0.5], [0.195, 0.805, 0.5],
    ]),
    np.array([22, 22, 8, 8, 8, 8]),
)  # fmt: skip
FIRST = np.array([[0, 0]])
"""The only pair of two sets of one crystal."""
FLUORITE = Cell(
    5.463 * np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]),
    np.array([[0, 0, 0], [0.25, 0.25, 0.25], [0.75, 0.75, 0.75]]),
    np.array([20, 9, 9]),
)


@pytest.mark.parametrize(
    ("group", "maximal", "others"),
    [  # International Tables, volume A1
        (136, {118, 113, 102, 94, 84, 65, 58}, {47, 62, 127}),
        (225, {139, 166, 202, 209, 216}, {221, 227}),
        (62, {33, 31, 26, 19, 14, 11}, {61, 57}),
        (194, {190, 187, 186, 182, 176, 164, 163, 63}, {191, 225}),
    ],
)
def test_subgroups_are_those_of_the_tables(group: int, maximal: set, others: set) -> None:
    assert all(is_subgroup(number, of=group) for number in maximal | {1, group})
    assert not any(is_subgroup(number, of=group) for number in others)
    assert not any(is_subgroup(group, of=number) for number in maximal)


def test_orders_of_subgroups_divide_those_of_their_groups() -> None:
    pairs = [(n, of) for n in range(1, 231) for of in (62, 136, 194, 227) if is_subgroup(n, of=of)]
    assert len(pairs) > 80
    assert all(point_group_order(of) % point_group_order(n) == 0 for n, of in pairs)


@pytest.mark.parametrize("crystal", [RUTILE, FLUORITE])
def test_a_crystal_stays_what_it_is_in_the_cell_of_any_subgroup(crystal: Cell) -> None:
    own = standard_cell(crystal, 0.01)
    assert own is not None
    numbers = [n for n in range(1, 231) if is_subgroup(n, of=own.space_group)]
    assert len(numbers) > 25
    for number in numbers:
        found = in_subgroup(own, number)
        assert found is not None
        assert found.space_group == number
        assert found.hall_number == space_group(number).hall_number
        operations = spglib.get_symmetry_from_database(found.hall_number)
        lattice, frac, atoms = found.cell
        for turn, move in zip(operations["rotations"], operations["translations"], strict=True):
            np.testing.assert_allclose(
                turn.T @ lattice @ lattice.T @ turn, lattice @ lattice.T, atol=1e-9
            )
            steps = (frac @ turn.T + move)[:, None] - frac
            away = np.linalg.norm((steps - np.round(steps)) @ lattice, axis=2)
            away[atoms[:, None] != atoms] = np.inf
            assert away.min(axis=1).max() < 1e-6
        assert rms_distances(packed(found.cell), packed(crystal), FIRST)[0] < 1e-6
        orbits = assign_orbits_of(found)
        assert orbits.space_group.number == number
        assert rms_distances(packed(orbits.cell()), packed(crystal), FIRST)[0] < 1e-6


def packed(cell: Cell) -> Crystals:
    size = [len(cell.atomic_numbers)]
    return Crystals(cell.atomic_numbers, cell.frac_coords, cell.lattice[None], size, ["0"])


def test_no_cell_of_what_is_no_subgroup() -> None:
    own = standard_cell(RUTILE, 0.01)
    assert own is not None
    assert in_subgroup(own, 62) is None
    assert in_subgroup(own, 225) is None


def test_orbits_are_refused_where_the_crystal_does_not_obey_the_group() -> None:
    own = standard_cell(RUTILE, 0.01)
    assert own is not None
    shaken = own.cell._replace(frac_coords=own.cell.frac_coords + 0.01 * np.eye(6, 3))
    with pytest.raises(ValueError, match="does not obey space group 136"):
        assign_orbits_of(StandardCell(shaken, 136, own.hall_number))
