"""Sites near special positions move onto them, and others stay."""

from __future__ import annotations

import numpy as np
import pytest

from crysgen.models.targets import Target
from crysgen.sampling import _with_merged_sites
from crysgen.wyckoff.merging import merge_sites
from crysmetrics.io import Crystals
from crysmetrics.space_groups.groups import SpaceGroup, space_group
from crysmetrics.space_groups.lattices import symmetric_lattice
from crysmetrics.symmetry import space_groups


def lattice_of(group: SpaceGroup) -> np.ndarray:
    rng = np.random.default_rng(group.number)
    return symmetric_lattice(9 * np.eye(3) + rng.normal(0, 0.6, (3, 3)), group.rotations)


def orbit(site: np.ndarray, group: SpaceGroup) -> np.ndarray:
    """All images of a site on the general position, close ones and equal ones as well."""
    images = group.rotations @ site + group.translations
    return images - np.floor(images)


@pytest.mark.parametrize("number", [2, 12, 15, 62, 70, 123, 136, 148, 166, 194, 221, 227])
def test_a_site_near_a_special_position_has_its_multiplicity(number: int) -> None:
    group, rng = space_group(number), np.random.default_rng(1)
    lattice = lattice_of(group)
    for position in group.positions[:-1]:
        # Far from more special positions: of some draws the one whose atoms are farthest apart.
        draws = [position.sites(rng.random(len(position.free))) for _ in range(30)]
        sites = max(draws, key=lambda sites: nearest(sites, lattice))
        if nearest(sites, lattice) < 1:
            continue
        shift = rng.normal(size=3)
        shift *= 0.02 / np.linalg.norm(shift)
        near = orbit(sites[0] + shift @ np.linalg.inv(lattice), group)
        numbers, frac = merge_sites(np.full(len(near), 8), near, lattice, group, 0.2)
        assert len(numbers) == position.multiplicity, position.name
        images = [orbit(one, group) for one in frac]
        for each in images:
            steps = each[:, None] - frac
            steps -= np.round(steps)
            assert np.linalg.norm(steps @ lattice, axis=2).min(axis=1).max() < 0.001


def nearest(sites: np.ndarray, lattice: np.ndarray) -> float:
    if len(sites) == 1:
        return 9.0
    steps = sites[:, None] - sites
    steps -= np.round(steps)
    away = np.linalg.norm(steps @ lattice, axis=2)
    return float(away[~np.eye(len(sites), dtype=bool)].min())


def rutile(shift: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rutile with its oxygen that far (Å) above the plane, in four more atoms than it has."""
    group, lattice = space_group(136), np.diag([4.6, 4.6, 3.0])
    oxygen = orbit(np.array([0.3, 0.3, shift / 3.0]), group)
    oxygen = np.unique(oxygen.round(9), axis=0)
    frac = np.concatenate([[[0, 0, 0], [0.5, 0.5, 0.5]], oxygen])
    return np.array([22] * 2 + [8] * len(oxygen)), frac, lattice


def test_rutile_is_whole_again_and_what_is_farther_stays() -> None:
    near, far = rutile(0.1), rutile(0.5)
    assert len(near[0]) == len(far[0]) == 10
    numbers, frac = merge_sites(*near, space_group(136), 0.3)
    assert sorted(numbers.tolist()) == [8] * 4 + [22] * 2
    made = Crystals(numbers, frac, near[2][None], [len(numbers)], ["a"])
    assert space_groups(made, 0.001)[0] == 136
    assert len(merge_sites(*far, space_group(136), 0.3)[0]) == 10


def test_samples_are_merged_where_sites_are_given_alone() -> None:
    crystal = rutile(0.1)
    sites = Target(0, space_group=136, sites=(22, 8))
    assert len(_with_merged_sites(crystal, sites)[0]) == 6
    whole = Target(0, tuple(crystal[0].tolist()), space_group=136)
    assert len(_with_merged_sites(crystal, whole)[0]) == 10
    broken = (crystal[0], crystal[1] * np.nan, crystal[2])
    assert _with_merged_sites(broken, sites) is broken
