"""Atoms of sites under symmetry operations: fast, and the same as by comparing all images."""

from __future__ import annotations

import random
import sys

import gemmi
import numpy as np
import pytest

from crysmetrics.io.cif import parse_cif
from crysmetrics.io.cif_orbits import expand, first_of_its_place
from crysmetrics.io.cif_symmetry import parse_operations

CUBE = "".join(f"_cell_length_{x} 5.64\n" for x in "abc") + "".join(
    f"_cell_angle_{x} 90\n" for x in ("alpha", "beta", "gamma")
)
COLUMNS = "loop_\n" + "".join(
    f"_atom_site_{x}\n" for x in ("type_symbol", "fract_x", "fract_y", "fract_z")
)


def cubic_block(number: int, symmetry: str, sites: str) -> str:
    return f"data_{number}\n{symmetry}\n{CUBE}{COLUMNS}{sites}"


def shuffled_operations(number: int) -> str:
    triplets = [op.triplet() for op in gemmi.symops_from_hall("-F 4 2 3")]
    random.Random(number).shuffle(triplets)
    lines = "".join(f"'{triplet}'\n" for triplet in triplets)
    return f"loop_\n_symmetry_equiv_pos_as_xyz\n{lines}"


@pytest.mark.parametrize("kind", ["name", "hall", "origins", "open", "settings", "operations"])
def test_small_blocks_of_high_symmetry_cost_few_calls(kind):
    """What is found of a symmetry serves all blocks that have it; seconds are a benchmark's."""
    cubic = [g.xhm() for g in gemmi.spacegroup_table() if g.number >= 195]
    hall = "_symmetry_space_group_name_Hall"
    symmetry = {
        "name": lambda _: "_symmetry_space_group_name_H-M 'F m -3 m'",
        "hall": lambda _: f"{hall} '-F 4 2 3'",
        "origins": lambda i: (
            f"_symmetry_space_group_name_Hall '-F 4 2 3 ({i % 7} {i % 11} {i % 12})'"
        ),
        "open": lambda _: "_symmetry_space_group_name_H-M 'F d -3 m'",
        "settings": lambda i: f"_symmetry_space_group_name_H-M '{cubic[i % len(cubic)]}'",
        "operations": shuffled_operations,
    }[kind]
    sites = "Na 0 0 0\nCl 0.5 0.5 0.5\nO 0.1234 0.2345 0.3456\n"
    count = 60 if kind == "operations" else 600
    text = "".join(cubic_block(i, symmetry(i), sites) for i in range(count))
    parse_cif(text[: text.index("data_5")], "x.cif", max_atoms=5000)
    calls = 0

    def count_calls(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count_calls)
    try:
        found = parse_cif(text, "x.cif", max_atoms=5000)
    finally:
        sys.setprofile(None)
    assert len(found) == count
    assert calls < 1000 * count  # 290 to 650; a thousand images compared one by one are more


@pytest.mark.parametrize("hall", ["-F 4 2 3", "-R 3", "-P 6 2", "P 4n 2 3 -1n", "-I 4bd 2c 3"])
def test_orbits_are_those_of_comparing_all_images(hall):
    """Whether found by the operations that leave a site where it is, or by their images."""
    triplets = [op.triplet() for op in gemmi.symops_from_hall(hall)]
    operations = parse_operations(triplets, [])
    assert operations is not None
    assert operations.is_group
    rng = np.random.default_rng(0)
    special = [0, 0.25, 0.5, 1 / 3, 2 / 3, 0.12345]
    for trial in range(200):
        frac = rng.choice(special, (3, 3)) + rng.choice([0, 3e-5, 8e-5, 2e-4], (3, 3))
        if trial % 4 == 0:  # an image of another site, nearly
            m = rng.integers(len(operations))
            frac[2] = operations.rotations.matrices[m] @ frac[0] + operations.translations[m]
            frac[2] += rng.choice([0, 9e-5, 1.2e-4, 3e-4])
        wanted = [op_images(site, operations) for site in frac]
        joined = np.concatenate(wanted)
        if first_of_its_place(frac).all() and first_of_its_place(joined).all():
            counts, positions = expand(frac, operations)
            assert counts.tolist() == [len(orbit) for orbit in wanted]
            np.testing.assert_array_equal(positions, joined)
        else:
            with pytest.raises(ValueError, match="the same atom twice"):
                expand(frac, operations)


def op_images(site, operations):
    images = operations.rotations.matrices @ site + operations.translations
    images -= np.floor(images)
    return images[first_of_its_place(images)]


@pytest.mark.parametrize("dropped", [1, 7, 47])
def test_operations_without_one_of_them_are_no_group_in_any_order(dropped):
    triplets = [op.triplet() for op in gemmi.symops_from_hall("-P 4 2 3")]
    assert parse_operations(triplets[::-1][:-1] + triplets[:1], []) is not None
    del triplets[dropped]
    for order in (triplets, [triplets[0], *triplets[:0:-1]]):
        with pytest.raises(ValueError, match="no group"):
            parse_operations(order, [])
