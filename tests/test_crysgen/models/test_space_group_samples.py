"""Samples within a space group: every one obeys it, checked by spglib's own operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import small_crysldm
import spglib
import torch
from sets import random_crystals

from crysgen.checkpoints import load_model
from crysgen.compositions.formulas import parse_formula
from crysgen.diffusion.space_groups import place_orbits, stack_orbits
from crysgen.models.adaptive_cell import AdaptiveCell
from crysgen.models.adaptive_cell_config import AdaptiveCellConfig
from crysgen.models.crysldm import CrysLDM
from crysgen.models.crysldm_config import CrysLDMConfig
from crysgen.models.gemsdiff import GemsDiff
from crysgen.models.gemsdiff_config import GemsDiffConfig
from crysgen.models.targets import Target
from crysgen.training.batch import Batch
from crysgen.wyckoff.draws import DrawnOrbits, draw_orbits
from crysgen.wyckoff.fillings import possible_units
from crysgen.wyckoff.placed import placed_orbits
from crysmetrics.errors import UserError
from crysmetrics.geometry import min_distance
from crysmetrics.io import Crystals
from crysmetrics.matching.distances import rms_distances
from crysmetrics.space_groups.groups import space_group
from crysmetrics.space_groups.lattices import symmetric_lattice
from crysmetrics.space_groups.projection import Orbits
from crysmetrics.symmetry import Cell

SMALL = {
    "network": "pairformer",
    "network_settings": {"channels": 16, "layers": 1, "heads": 2, "radial": 6, "k": 8},
}
OURS = {
    **SMALL,
    "standardize_lattice": True,
    "cell_decoder": "residual",
    "lattice_loss": "vector",
    "position_loss": "scaled",
}
KINDS = {
    "paper": SMALL,
    "path": {**OURS, "lattice_power": 4.0, "position_power": 2.0},
    "raw cells": {**SMALL, "lattice_space": "raw"},
    "flow": {**OURS, "position_process": "flow", "lattice_process": "flow", "coupling": True},
    "self-conditioning": {**OURS, "position_process": "flow", "self_conditioning": True},
    "score": {
        **OURS,
        "position_process": "score",
        "position_output": "scaled",
        "corrector": 0.4,
    },
}
CASES = [  # a group of each crystal family and kind of centring, and atoms of a primitive cell
    (1, (3, 17, 8)),
    (2, (14, 14, 8, 8, 8)),
    (14, (40,) * 4 + (8,) * 8),
    (15, (29, 29, 8, 8)),
    (38, (56, 22, 8, 8, 8)),
    (62, (22,) * 4 + (8,) * 4),
    (70, (14, 14, 16, 16, 16, 16)),
    (122, (29, 29, 31, 31, 16, 16, 16, 16)),
    (136, (22, 22, 8, 8, 8, 8)),
    (161, (3, 3, 41, 41, 8, 8, 8, 8, 8, 8)),
    (194, (30, 30, 16, 16)),
    (205, (26,) * 4 + (16,) * 8),
    (217, (31, 12, 12, 12, 12)),
    (227, (12, 12, 13, 13, 13, 13) + (8,) * 8),
]


def model_of(values: dict) -> GemsDiff:
    torch.manual_seed(0)
    batch = Batch.from_crystals(random_crystals(8), torch.float32)
    model = GemsDiff(GemsDiff.fitted(GemsDiffConfig(**values), batch))
    for parameter in model.parameters():  # a new model hardly moves anything
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def furthest_image(lattice: np.ndarray, frac: np.ndarray, numbers: np.ndarray, hall: int) -> float:
    """Distance in Å by which spglib's operations of a setting miss the atoms, or the cell."""
    operations = spglib.get_symmetry_from_database(hall)
    metric, worst = lattice @ lattice.T, 0.0
    pairs = zip(operations["rotations"], operations["translations"], strict=True)
    for rotation, translation in pairs:
        turned = rotation.T @ metric @ rotation
        worst = max(worst, float(np.abs(turned - metric).max() / np.abs(metric).max() ** 0.5))
        steps = (frac @ rotation.T + translation)[:, None] - frac
        steps -= np.round(steps)
        away = np.linalg.norm(steps @ lattice, axis=2)
        away[numbers[:, None] != numbers] = np.inf
        worst = max(worst, float(away.min(axis=1).max()))
    return worst


def untrained(kind: str) -> torch.nn.Module:
    """Make a small model with random weights that moves things visibly."""
    if kind in KINDS:
        return model_of(KINDS[kind])
    return crysldm(small_crysldm.FLOW if "flow" in kind else small_crysldm.CONFIG)


def crysldm(config: CrysLDMConfig) -> CrysLDM:
    return small_crysldm.model_of(small_crysldm.crystals_of(8), config).float()


@pytest.mark.parametrize("kind", [*KINDS, "CrysLDM", "CrysLDM, flow"])
def test_every_sample_obeys_its_space_group(kind: str) -> None:
    model = untrained(kind)
    targets = [Target(7 * i, atoms, space_group=number) for i, (number, atoms) in enumerate(CASES)]
    made = model.sample(targets, 6)
    for row, (number, atoms) in enumerate(CASES):
        there = made.atomic_numbers[row] > 0
        numbers = made.atomic_numbers[row][there].numpy()
        group = space_group(number)
        assert sorted(numbers.tolist()) == sorted(atoms * group.centring)
        lattice, frac = made.lattices[row].numpy(), made.frac_coords[row][there].numpy()
        assert np.linalg.det(lattice) > 0
        assert furthest_image(lattice, frac, numbers, group.hall_number) < 1e-6 * len(numbers)


@pytest.mark.parametrize("kind", ["path", "flow", "CrysLDM", "CrysLDM, flow"])
def test_refined_crystals_keep_their_space_groups(kind: str) -> None:
    starts = [crystal_of(number, atoms) for number, atoms in CASES]
    batch = Batch.from_crystals(Crystals.concatenate([cell for cell, _ in starts]), torch.float32)
    model, seeds = untrained(kind), list(range(len(CASES)))
    made = [
        model.refine_orbits(batch, [own for _, own in starts], seeds, share)
        for share in (0.001, 0.2)
    ]
    for few in made:
        for row, (number, atoms) in enumerate(CASES):
            check(few, row, Target(0, atoms, space_group=number))
    assert not torch.equal(made[0].lattices, made[1].lattices)


def test_with_little_noise_refinement_is_the_same_within_a_group_and_without() -> None:
    starts = [crystal_of(number, atoms) for number, atoms in CASES]
    crystals = Crystals.concatenate([cell for cell, _ in starts])
    batch = Batch.from_crystals(crystals, torch.float32)
    torch.manual_seed(0)
    model = GemsDiff(GemsDiff.fitted(GemsDiffConfig(**KINDS["path"]), batch))
    seeds = range(len(starts))
    kept = model.refine_orbits(batch, [own for _, own in starts], seeds, 0.001)
    free = model.refine(batch, seeds, 0.001)
    pairs = np.stack([np.arange(len(starts))] * 2, 1)
    found = rms_distances(*(one.to_crystals(crystals.ids) for one in (kept, free)), pairs)
    assert (found < 0.01).all()


def crystal_of(number: int, atoms: tuple[int, ...]) -> tuple[Crystals, DrawnOrbits]:
    """Make a crystal of a group, and find its orbits in another, skewed cell."""
    group, rng = space_group(number), np.random.default_rng(number)
    drawn = draw_orbits(number, atoms, 0)
    orbits = drawn.conventional
    numbers = np.repeat(drawn.elements, orbits.counts)
    shape = symmetric_lattice(5 * np.eye(3) + rng.normal(0, 0.5, (3, 3)), group.rotations)
    lattice = shape * (20 * len(numbers) / np.linalg.det(shape)) ** (1 / 3)
    drawings = [orbits.place(rng.random((len(orbits.positions), 3))) for _ in range(10)]
    frac = max(drawings, key=lambda frac: min_distance(lattice, frac))
    skew = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 1]])
    whole = Cell(skew @ lattice, frac @ np.linalg.inv(skew), numbers)
    cell, own = placed_orbits(whole, number, 0.001)
    assert sorted(cell.atomic_numbers.tolist()) == sorted(atoms)
    packed = (cell.atomic_numbers, cell.frac_coords, cell.lattice[None], [len(atoms)])
    return Crystals(*packed, [str(number)]), own


def test_a_sample_follows_from_its_seed_alone() -> None:
    model = model_of(KINDS["path"]).double()
    one, other = Target(3, CASES[8][1], space_group=136), Target(4, CASES[5][1], space_group=62)
    alone, among = model.sample([one], 5), model.sample([other, one], 5)
    count = alone.frac_coords.shape[1]
    torch.testing.assert_close(alone.lattices[0], among.lattices[1])
    torch.testing.assert_close(alone.frac_coords[0], among.frac_coords[1][:count])


@pytest.mark.parametrize(("number", "atoms"), CASES)
def test_tensors_project_as_arrays_do(number: int, atoms: tuple[int, ...]) -> None:
    drawn = draw_orbits(number, atoms, 5)
    orbits, rng = drawn.orbits, np.random.default_rng(number)
    count = len(orbits.first)
    rough = rng.random((count, 3))
    group = stack_orbits([orbits], [drawn.elements], count + 2, torch.device("cpu"))
    padded = torch.from_numpy(np.concatenate([rough, np.zeros((2, 3))]))[None]
    found = group.project_frac_coords(padded)[0].numpy()
    np.testing.assert_allclose(found[:count], orbits.project_frac_coords(rough), atol=1e-9)
    found = group.project_displacements(padded)[0].numpy()
    np.testing.assert_allclose(found[:count], orbits.project_displacements(rough), atol=1e-9)
    assert not found[count:].any()


@pytest.mark.parametrize(("number", "atoms"), CASES)
def test_cells_are_projected_once_and_keep_their_volume(
    number: int, atoms: tuple[int, ...]
) -> None:
    drawn = draw_orbits(number, atoms, 1)
    group = stack_orbits([drawn.orbits], [drawn.elements], len(atoms), torch.device("cpu"))
    generator = torch.Generator().manual_seed(number)
    wild = torch.eye(3) + 0.7 * torch.randn(1, 3, 3, generator=generator).double()
    once = group.project_lattices(wild)
    twice = group.project_lattices(once)
    torch.testing.assert_close(once @ once.mT, twice @ twice.mT)
    torch.testing.assert_close(torch.det(once), torch.det(wild).abs())
    metric, turns = (once @ once.mT)[0].numpy(), drawn.orbits.point_group
    np.testing.assert_allclose(np.swapaxes(turns, 1, 2) @ metric @ turns, metric[None].repeat(
        len(turns), 0), atol=1e-9)  # fmt: skip


def test_positions_are_uniform_on_their_orbits() -> None:
    position = space_group(136).position("f")  # x,x,0
    orbits = [Orbits(space_group(136), (position,))] * 4000
    numbers = torch.rand(4000, 4, 3, generator=torch.Generator().manual_seed(0))
    x = place_orbits(orbits, numbers)[:, 0, 0].sort().values
    assert (x - torch.linspace(0, 1, 4000)).abs().max() < 0.03


def test_what_has_no_place_is_refused_with_the_nearest_that_has() -> None:
    with pytest.raises(UserError, match=r"no place for 1 formula unit.* hold 4\."):
        model_of(SMALL).sample([Target(0, (22, 8, 8), space_group=62)], 2)


FORMULAS = """
    Li2O NaCl TiO2 Al2O3 SrTiO3 MgAl2O4 CaCO3 GaAs ZnS CsCl FeS2 MoS2 Bi2Te3 CuFeS2 LiCoO2 LaB6 Si
    KAlSi3O8 Na3PO4 CuInSe2
""".split()
GROUPS = (
    1, 2, 4, 5, 8, 9, 12, 14, 15, 19, 26, 33, 36, 43, 47, 55, 58, 62, 63, 69, 70, 71, 72, 74, 82,
    88, 92, 113, 122, 127, 129, 136, 139, 140, 141, 148, 155, 160, 161, 164, 166, 167, 186, 187,
    191, 194, 198, 216, 221, 227,
)  # fmt: skip


def untrained_adaptive_cell() -> torch.nn.Module:
    torch.manual_seed(0)
    small = {"channels": 16, "edge_channels": 12, "triplet_channels": 4, "layers": 1, "k": 12}
    config = AdaptiveCellConfig(network_settings=small | {"triplet_k": 6})
    model = AdaptiveCell(config)
    for layer in (model.score, model.contraction):
        torch.nn.init.normal_(layer.weight, std=1.0)
    return model


OF_MANY_GROUPS: dict[str, Callable[[], torch.nn.Module]] = {
    "untrained, path": lambda: model_of(KINDS["path"]),
    "untrained, flow": lambda: model_of(KINDS["flow"]),
    "untrained, adaptive cell": untrained_adaptive_cell,
    "gemsdiff-mp-v3": lambda: load_model("gemsdiff-mp-v3", "cpu"),
    "adaptive-cell": lambda: load_model("adaptive-cell", "cpu"),
    "crysldm-mp-v1": lambda: load_model("crysldm-mp-v1", "cpu"),
}
"""Models, the shipped ones by their names, and what makes them."""


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_MANY_GROUPS)
def test_all_samples_of_fifty_groups_and_twenty_formulas_obey(name: str) -> None:
    assert len(GROUPS) == 50
    assert len(FORMULAS) == 20
    assert len({space_group(n).crystal_system for n in GROUPS}) == 7
    model = OF_MANY_GROUPS[name]()
    steps = 3 if name.startswith("untrained") else 10
    asked = []
    for number in GROUPS:
        for text in FORMULAS:
            formula = parse_formula(text)
            units = possible_units(formula, space_group(number), max(1, 24 // formula.num_atoms))
            if units:
                atoms = formula.times(units[0]).atoms
                asked.append(Target(len(asked), atoms, space_group=number))
    count = len(asked)
    assert count > 600
    assert len({target.space_group for target in asked}) == 50
    lost = 0
    while asked:
        targets, asked = asked[:50], asked[50:]
        made = model.sample(targets, steps)
        finite = made.lattices.isfinite().all(dim=(1, 2)).tolist()
        for row, target in enumerate(targets):
            if finite[row]:
                check(made, row, target)
            else:  # a cell has run away: it is drawn again, as in sampling
                lost += 1
                asked.append(replace(target, seed=target.seed + 10_000, failed=target.failed + 1))
    assert lost < 0.1 * count


def check(made: Batch, row: int, target: Target) -> None:
    """Check that a sample has the atoms and, within 0.001 Å, the group that were asked for."""
    assert target.space_group is not None
    group = space_group(target.space_group)
    there = made.atomic_numbers[row] > 0
    numbers = made.atomic_numbers[row][there].numpy()
    assert sorted(numbers.tolist()) == sorted(target.atomic_numbers * group.centring)
    lattice, frac = made.lattices[row].numpy(), made.frac_coords[row][there].numpy()
    assert furthest_image(lattice, frac, numbers, group.hall_number) < 0.001
    if min_distance(lattice, frac) > 0.3:
        found = spglib.get_spacegroup_type(
            spglib.get_symmetry_dataset((lattice, frac, numbers), symprec=0.001).hall_number
        )
        own = spglib.get_spacegroup_type(group.hall_number)
        orders = [len(spglib.get_symmetry_from_database(t.hall_number)["rotations"])
                  for t in (found, own)]  # fmt: skip
        assert orders[0] / centring(found) >= orders[1] / centring(own)


def centring(kind: spglib.SpaceGroupType) -> int:
    return {"P": 1, "F": 4, "R": 3}.get(kind.international_short[0], 2)
