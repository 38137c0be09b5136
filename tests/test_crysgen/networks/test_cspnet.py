"""CSPNet: its symmetries, padding, and what it reads of lattices and positions."""

import numpy as np
import pytest
import torch
from sets import random_crystals

from crysgen.networks.cspnet import (
    CSPNet,
    combine_rows,
    gram_entries,
    pair_distances,
    pair_likeness,
    pair_waves,
)
from crysgen.training.batch import Batch

EXACT = 1e-9


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return CSPNet(channels=16, layers=2, frequencies=3).double().eval()


@pytest.fixture(scope="module")
def batch():
    return Batch.from_crystals(random_crystals(5, seed=4), torch.float64)


def first_features(batch):
    """Of an atom by its element, so that equal atoms begin alike."""
    table = torch.randn(119, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return table[batch.atomic_numbers]


def features(net, batch, lattices=None, frac=None):
    lattices = batch.lattices / 3 if lattices is None else lattices
    frac = batch.frac_coords if frac is None else frac
    found = net(first_features(batch), frac, gram_entries(lattices), batch.mask)
    return torch.where(batch.mask[..., None], found, 0)


def turn(count, determinant, seed=0):
    matrices = np.linalg.qr(np.random.default_rng(seed).normal(size=(count, 3, 3)))[0]
    return torch.tensor(matrices * (determinant * np.linalg.det(matrices))[:, None, None])


@pytest.mark.parametrize("determinant", [1, -1], ids=["rotation", "reflection"])
def test_rotation_and_reflection_change_nothing(net, batch, determinant):
    turned = batch.lattices / 3 @ turn(len(batch), determinant)
    assert (features(net, batch, turned) - features(net, batch)).abs().max() < EXACT


def test_another_lattice_changes_features(net, batch):
    sheared = batch.lattices.clone()
    sheared[:, 0] += 0.3 * sheared[:, 1]
    change = (features(net, batch, sheared / 3) - features(net, batch)).abs().amax((1, 2))
    assert (change > 1e-3).all()


def test_translation_and_images_change_nothing(net, batch):
    shift = torch.randn(len(batch), 1, 3, dtype=torch.float64)
    images = torch.randint(-3, 4, batch.frac_coords.shape)
    plain = features(net, batch)
    for frac in (batch.frac_coords + shift, batch.frac_coords + images):
        assert (features(net, batch, frac=frac) - plain).abs().max() < EXACT


def test_order_of_atoms_is_the_order_of_features(net, batch):
    order = torch.randperm(batch.mask.shape[1], generator=torch.Generator().manual_seed(2))
    moved = Batch(batch.atomic_numbers[:, order], batch.frac_coords[:, order], batch.lattices)
    assert (features(net, moved) - features(net, batch)[:, order]).abs().max() < EXACT


def test_padding_is_not_seen(net, batch):
    plain = features(net, batch)
    for row, count in enumerate(batch.num_atoms.tolist()):
        alone = Batch(
            batch.atomic_numbers[row : row + 1, :count],
            batch.frac_coords[row : row + 1, :count],
            batch.lattices[row : row + 1],
        )
        assert (features(net, alone)[0] - plain[row, :count]).abs().max() < EXACT


def test_waves_are_those_of_the_differences():
    frac = torch.rand(2, 4, 3, dtype=torch.float64)
    orders = 2 * torch.pi * torch.arange(1, 6, dtype=torch.float64)
    angles = ((frac[:, None] - frac[:, :, None])[..., None] * orders).flatten(-2)
    wanted = torch.cat([angles.sin(), angles.cos()], -1)
    assert (pair_waves(frac, 5) - wanted).abs().max() < 1e-12


def test_radial_functions_are_sums_over_images(batch):
    row, count, farthest = 2, 7, 2.2
    atoms = int(batch.num_atoms[row])
    lattice, frac = batch.lattices[row].numpy(), batch.frac_coords[row, :atoms].numpy()
    unit = (abs(np.linalg.det(lattice)) / atoms) ** (1 / 3)
    paths = frac[None] - frac[:, None]
    paths -= np.round(paths)
    shifts = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(27, 3)
    distances = np.linalg.norm((paths[:, :, None] + shifts) @ lattice, axis=-1) / unit
    spacing = farthest / (count + 1)
    fade = (1 - (distances / farthest) ** 2).clip(0) ** 2
    wanted = np.stack(
        [
            (fade * np.exp(-((distances / spacing - k) ** 2) / 2)).sum(-1)
            for k in range(1, count + 1)
        ],
        -1,
    )
    found = pair_distances(batch.frac_coords, batch.lattices, batch.num_atoms, count)
    assert np.abs(found[row, :atoms, :atoms].numpy() - wanted).max() < 1e-9
    assert wanted.max() > 0.5
    turned = batch.lattices @ turn(len(batch), -1)
    again = pair_distances(batch.frac_coords + 0.3, turned, batch.num_atoms, count)
    there = batch.mask[:, :, None, None] & batch.mask[:, None, :, None]
    assert ((again - found) * there).abs().max() < 1e-9
    single = pair_distances(
        batch.frac_coords.float(), batch.lattices.float(), batch.num_atoms, count
    )
    assert (single - found).abs().max() < 1e-4


def test_likeness_is_one_for_equal_atoms_and_wider_from_curve_to_curve():
    atoms = torch.randn(3, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    atoms[:, 1] = atoms[:, 0]
    found = pair_likeness(atoms, 5)
    assert found.shape == (3, 4, 4, 5)
    assert torch.equal(found, found.transpose(1, 2))
    assert (found[:, 0, 1] == 1).all()
    assert (found[:, 0, 2].diff(dim=-1) > 0).all()
    square = float((atoms[0, 0] - atoms[0, 3]).square().mean())
    assert float(found[0, 0, 3, 4]) == pytest.approx(np.exp(-square / 2 / 1.6**2))


def test_gram_matrix_of_rows_stays_and_that_of_columns_turns():
    lattices = torch.randn(8, 3, 3, dtype=torch.float64)
    turned = lattices @ turn(8, 1)
    assert (gram_entries(turned) - gram_entries(lattices)).abs().max() < 1e-12
    columns, wrong = gram_entries(lattices.mT), gram_entries(turned.mT)
    assert (wrong - columns).abs().amax(1).min() > 1e-2


def test_combined_rows_turn_with_the_lattice():
    lattices, weights = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    turns = turn(8, -1, seed=3)
    plain = combine_rows(weights, lattices)
    assert (combine_rows(weights, lattices @ turns) - plain @ turns).abs().max() < 1e-12
    assert (plain - weights @ lattices).abs().max() < 1e-12
