"""The k nearest periodic neighbours against brute force and pymatgen, in cells of all shapes."""

from itertools import product

import numpy as np
import pytest
import torch
from sets import one, random_crystals, rocksalt, wild_crystals

import crysgen.networks.neighbours
from crysgen.networks.neighbours import nearest_images, reduced_cells, without_waiting
from crysgen.training.batch import Batch
from crysmetrics.examples import unpack
from crysmetrics.io import Crystals, read

K = 32


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    _, reference = unpack(tmp_path_factory.mktemp("examples"))
    crystals = read(reference)
    return crystals[np.flatnonzero(crystals.num_atoms <= 20)[:40]]


def needles():
    """Flat, thin and tiny cells, with one to four atoms, left-handed and skewed ones too."""
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    skew = np.array([[1, 0, 0], [5, 1, 0], [-3, 7, 1]])
    cells = [
        np.diag([0.4, 4.0, 9.0]) @ turn,
        np.diag([0.5, 0.6, 20.0]) @ turn,
        np.diag([0.3, 12.0, 12.5]),
        0.05 * np.eye(3),
        -4.0 * np.eye(3),
        skew @ (4.0 * np.eye(3)),
        skew @ np.diag([0.5, 0.6, 20.0]) @ turn,
        np.array([[3.0, 0, 0], [2.9, 0.5, 0], [-1.4, 0.2, 0.6]]),
    ]
    parts = [
        one([6] * n, rng.random((n, 3)), cell, str(i))
        for i, (cell, n) in enumerate(product(cells, (1, 4)))
    ]
    return Crystals.concatenate(parts)


def special():
    """Crystals with many equal distances, and one with two atoms in one place."""
    fcc, bcc = np.ones((3, 3)) - np.eye(3), np.ones((3, 3)) - 2 * np.eye(3)
    twice = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]
    return Crystals.concatenate(
        [
            rocksalt(),
            one([29], [[0, 0, 0]], 1.8 * fcc, "fcc"),
            one([26], [[0.3, 0.1, 0.9]], 1.4 * bcc, "bcc"),
            one([84], [[0, 0, 0]], 3.3, "simple"),
            one([6, 6], [[0, 0, 0], [0.25, 0.25, 0.25]], 1.78 * fcc, "diamond"),
            one([6] * 4, twice, 4.0, "twice"),
        ]
    )


def search(crystals, k=K):
    batch = Batch.from_crystals(crystals, torch.float64)
    return batch, nearest_images(batch.frac_coords, batch.lattices, batch.mask, k)


def brute_force(cell, frac, k):
    """Sorted distances (N, k + 1), and the (atom, image) pairs of all within the last of them."""
    radius = 1.1 * (3 * (k + 1) * abs(np.linalg.det(cell)) / (4 * np.pi * len(frac))) ** (1 / 3)
    planes = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    while True:
        # Positions are in [0, 1): one more image on each side.
        spans = [np.arange(-n, n + 1) for n in np.ceil(radius / planes).astype(int) + 1]
        images = np.stack(np.meshgrid(*spans, indexing="ij"), -1).reshape(-1, 3)
        lengths, pairs = [], []
        for start in frac:
            found = [np.linalg.norm((end - start + images) @ cell, axis=1) for end in frac]
            own = next(j for j, end in enumerate(frac) if end is start)
            found[own][(images == 0).all(1)] = np.inf
            table = np.stack(found)
            nearest = np.sort(table[table <= radius])
            if len(nearest) <= k:
                break
            lengths.append(nearest[: k + 1])
            atoms, numbers = np.nonzero(table <= nearest[k])
            pairs.append(
                {(j, *images[n]): table[j, n] for j, n in zip(atoms, numbers, strict=True)}
            )
        if len(lengths) == len(frac):
            return np.stack(lengths), pairs
        radius *= 1.3


def check(crystals, k=K):
    batch, found = search(crystals, k)
    for b in range(len(crystals)):
        n = int(crystals.num_atoms[b])
        cell, rows = crystals.lattices[b], list(batch.frac_coords[b, :n].numpy())
        lengths, pairs = brute_force(cell, rows, k)
        scale = lengths.max()
        distances = found.distances[b, :n].numpy()
        np.testing.assert_allclose(distances, lengths[:, :k], atol=1e-9 * scale)
        np.testing.assert_allclose(found.cutoff[b, :n], lengths[:, k], atol=1e-9 * scale)
        assert (np.diff(distances) >= -1e-9 * scale).all()
        index, images = found.index[b, :n].numpy(), found.images[b, :n].numpy()
        for i in range(n):
            mine = {(int(j), *map(int, t)) for j, t in zip(index[i], images[i], strict=True)}
            assert len(mine) == k
            sure = {key for key, d in pairs[i].items() if d < lengths[i, k] - 1e-9 * scale}
            assert sure <= mine <= set(pairs[i]) | sure
            ends = np.array(rows)[index[i]] + images[i]
            np.testing.assert_allclose(
                found.vectors[b, i], (ends - rows[i]) @ cell, atol=1e-9 * scale
            )


def test_real_cells(real):
    check(real[:15])


def test_noise_of_the_last_step():
    check(wild_crystals([1, 2, 3, 4, 6, 8] * 4))


def test_needles():
    check(needles())


def test_ties():
    check(special())


@pytest.mark.parametrize("k", [1, 5, 64])
def test_any_number_of_neighbours(k):
    check(random_crystals(6, seed=1, atoms=(1, 6)), k)
    check(wild_crystals([1, 3], seed=4), k)


def test_real_cells_equal_pymatgen(real):
    _, found = search(real)
    for b, structure in enumerate(real.to_pymatgen()):
        n = len(structure)
        source, _, _, distances = structure.get_neighbor_list(
            found.cutoff[b, :n].max().item() + 0.1
        )
        for i in range(n):
            expected = np.sort(distances[source == i])[: K + 1]
            mine = [*found.distances[b, i].tolist(), found.cutoff[b, i].item()]
            np.testing.assert_allclose(mine, expected, atol=1e-8)


def test_a_search_of_27_images_would_be_wrong():
    """Of the cells of the last step, nearly all need more than the 3 x 3 x 3 images around them."""
    crystals = wild_crystals([4] * 100, seed=7)
    batch, found = search(crystals)
    steps = torch.cartesian_prod(*[torch.arange(-1.0, 2, dtype=torch.float64)] * 3)
    ends = batch.frac_coords[:, None, :, None] + steps - batch.frac_coords[:, :, None, None]
    lengths = (ends @ batch.lattices[:, None, None]).norm(dim=-1).reshape(100, 4, -1).sort().values
    short = lengths[..., 1 : K + 1]  # without the atom itself
    wrong = ((short - found.distances).abs() > 1e-6).any(-1).any(-1)
    assert wrong.double().mean() > 0.95
    assert (short >= found.distances - 1e-9).all()
    assert found.images.abs().max() > 20


def test_cells_are_reduced():
    """To the three shortest independent vectors of the lattice, in any cell of it."""
    cells = torch.tensor(wild_crystals([1] * 300, seed=5).lattices)
    cells = torch.cat([cells, torch.tensor(needles().lattices), torch.tensor(special().lattices)])
    reduced, transforms = reduced_cells(cells)
    torch.testing.assert_close(transforms @ cells, reduced)
    assert torch.equal(transforms, transforms.round())
    torch.testing.assert_close(torch.linalg.det(transforms).abs(), torch.ones(len(cells)).double())
    lengths = reduced.norm(dim=-1)
    steps = torch.cartesian_prod(*[torch.arange(-2.0, 3, dtype=torch.float64)] * 3)
    every = (steps @ reduced).norm(dim=-1) * (1 + 1e-9)
    for vector in range(3):
        # No sum with this vector in it is shorter than it.
        assert (every[:, steps[:, vector] != 0].min(1).values >= lengths[:, vector]).all()


def test_search_in_parts_finds_the_same(monkeypatch):
    crystals = wild_crystals([1, 5, 3, 2, 4], seed=2)
    _, whole = search(crystals)
    monkeypatch.setattr(crysgen.networks.neighbours, "_MAX_ENTRIES", 500)
    _, parts = search(crystals)
    # T and -T are equally far away: which comes first may differ.
    torch.testing.assert_close(parts.distances, whole.distances)
    torch.testing.assert_close(parts.cutoff, whole.cutoff)


def test_a_small_first_radius_finds_the_same(monkeypatch):
    crystals = Crystals.concatenate([wild_crystals([1, 5, 3], seed=2), needles()])
    _, right = search(crystals)
    monkeypatch.setattr(crysgen.networks.neighbours, "_FIRST_RADIUS", 0.2)
    _, found = search(crystals)
    torch.testing.assert_close(found.distances, right.distances)
    torch.testing.assert_close(found.cutoff, right.cutoff)


def test_a_search_that_does_not_wait_finds_the_same_or_says_so(real, monkeypatch):
    counts = real.num_atoms
    for fewest, most in ((1, 6), (6, 11), (11, 20)):
        usual = real[(counts >= fewest) & (counts <= most)]
        _, right = search(usual)
        with without_waiting() as flags:
            _, found = search(usual)
        assert len(usual)
        assert not flags[0].any()
        torch.testing.assert_close(found.distances, right.distances)
        torch.testing.assert_close(found.cutoff, right.cutoff)
    monkeypatch.setattr(crysgen.networks.neighbours, "_FEW_IMAGES", 0.1)
    with without_waiting() as flags:
        _, of_few = search(usual)
    wrong = ~torch.isclose(of_few.distances, right.distances).flatten(1).all(1)
    assert wrong.any()
    assert flags[0][wrong].all()


def test_padding_changes_nothing():
    crystals = wild_crystals([3, 7, 1, 2], seed=9)
    _, found = search(crystals)
    for b, n in enumerate(crystals.num_atoms):
        _, alone = search(crystals[b : b + 1])
        torch.testing.assert_close(found.distances[b, :n], alone.distances[0])
        torch.testing.assert_close(found.cutoff[b, :n], alone.cutoff[0])
        assert (found.index[b, :n] < int(n)).all()
        assert (found.vectors[b, n:] == 0).all()
        assert (found.cutoff[b, n:] == 1).all()
    assert found.vectors.shape == (4, 7, K, 3)


def random_unimodular(count, seed=0):
    """(count, 3, 3) integer matrices of determinant 1."""
    rng = np.random.default_rng(seed)
    result = np.empty((count, 3, 3))
    for matrix in result:
        lower = np.tril(rng.integers(-3, 4, (3, 3)), -1) + np.eye(3)
        matrix[:] = lower @ (np.triu(rng.integers(-3, 4, (3, 3)), 1) + np.eye(3))
    return torch.tensor(result)


@pytest.mark.parametrize("name", ["noise", "real"])
def test_another_cell_origin_or_order_gives_the_same_neighbours(name, real):
    crystals = real if name == "real" else wild_crystals([1, 2, 4, 8] * 5, seed=6)
    batch, found = search(crystals)
    cells = random_unimodular(len(batch))
    frac = batch.frac_coords @ torch.linalg.inv(cells) + torch.randn(len(batch), 1, 3).double() * 3
    other = nearest_images(frac, cells @ batch.lattices, batch.mask, K)
    torch.testing.assert_close(other.distances, found.distances, rtol=0, atol=1e-8)
    torch.testing.assert_close(other.cutoff, found.cutoff, rtol=0, atol=1e-8)
    # Images are counted from the positions that were given.
    ends = torch.stack([f[i] for f, i in zip(frac, other.index, strict=True)]) + other.images
    vectors = (ends - frac[:, :, None]) @ (cells @ batch.lattices)[:, None]
    vectors = vectors * batch.mask[..., None, None]
    torch.testing.assert_close(vectors, other.vectors, rtol=0, atol=1e-7)
    # Atoms in the opposite order, padding first.
    turned = nearest_images(batch.frac_coords.flip(1), batch.lattices, batch.mask.flip(1), K)
    torch.testing.assert_close(turned.distances.flip(1), found.distances, rtol=0, atol=1e-9)


def test_very_skewed_cells():
    """Hundreds of cells long, and rounds of reduction away from a sensible cell."""
    batch, found = search(wild_crystals([2, 3, 5] * 4, seed=11))
    cells = random_unimodular(len(batch), 1) @ random_unimodular(len(batch), 2)
    cells = random_unimodular(len(batch), 3) @ cells
    assert cells.abs().max() > 1000
    frac = batch.frac_coords @ torch.linalg.inv(cells).round()
    other = nearest_images(frac, cells @ batch.lattices, batch.mask, K)
    torch.testing.assert_close(other.distances, found.distances, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(1e-6, 1, 1), (1e-6, 1e-6, 1), (1e-6, 1e-3, 1)])
def test_degenerate_cells_ask_for_no_more_images_than_others(shape, monkeypatch):
    counts = []
    nearest = crysgen.networks.neighbours._nearest

    def count(frac, cells, mask, extents, *rest):
        counts.append(int((2 * extents + 1).prod(1).max()))
        return nearest(frac, cells, mask, extents, *rest)

    monkeypatch.setattr(crysgen.networks.neighbours, "_nearest", count)
    rng = np.random.default_rng(0)
    cell = torch.tensor(np.diag(shape) @ np.linalg.qr(rng.normal(size=(3, 3)))[0])[None]
    frac = torch.tensor(rng.random((1, 5, 3)))
    found = nearest_images(frac, cell, torch.ones(1, 5, dtype=torch.bool), K)
    assert (found.distances < found.cutoff[..., None] * (1 + 1e-9)).all()
    assert max(counts) < 20_000


def test_turned_crystals_have_turned_vectors():
    crystals = wild_crystals([2, 5, 3], seed=8)
    batch, found = search(crystals)
    turn = torch.tensor(np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3, 3)))[0])
    other = nearest_images(batch.frac_coords, batch.lattices @ turn, batch.mask, K)
    torch.testing.assert_close(other.vectors, found.vectors @ turn[:, None], rtol=0, atol=1e-9)


def test_gradients():
    crystals = random_crystals(2, seed=3, atoms=(2, 3))
    batch = Batch.from_crystals(crystals, torch.float64)
    frac, lattices = batch.frac_coords.requires_grad_(), batch.lattices.requires_grad_()

    def lengths(frac, lattices):
        found = nearest_images(frac, lattices, batch.mask, 6)
        return found.vectors, found.distances[batch.mask]

    assert torch.autograd.gradcheck(lengths, (frac, lattices))


def test_gradients_of_padding_and_of_atoms_in_one_place_are_finite():
    batch, _ = search(special())
    frac, lattices = batch.frac_coords.requires_grad_(), batch.lattices.requires_grad_()
    nearest_images(frac, lattices, batch.mask, 8).distances.sum().backward()
    assert frac.grad.isfinite().all()
    assert lattices.grad.isfinite().all()


def test_single_precision_finds_the_neighbours_of_its_own_positions(real):
    batch = Batch.from_crystals(real, torch.float32)
    single = nearest_images(batch.frac_coords, batch.lattices, batch.mask, K)
    double = nearest_images(batch.frac_coords.double(), batch.lattices.double(), batch.mask, K)
    assert single.vectors.dtype == single.cutoff.dtype == torch.float32
    assert torch.equal(single.index, double.index)
    assert torch.equal(single.images, double.images)
    torch.testing.assert_close(single.vectors.double(), double.vectors, rtol=0, atol=1e-4)
