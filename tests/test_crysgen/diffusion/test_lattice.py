"""Cells as vectors of the Lie algebra: there and back, gradients, reduction."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sets import random_crystals, rocksalt

from crysgen.diffusion.lattice import (
    VOLUME_SCALE,
    canonical_lattice,
    exp_lattice,
    lattice_parameters,
    log_lattice,
    niggli_reduce,
    normalize_lengths,
    restore_lengths,
    symmetric_exp,
    symmetric_log,
    symmetric_to_vector,
    vector_to_symmetric,
)
from crysmetrics.examples import unpack
from crysmetrics.io import read

DATA = os.environ.get("CRYSMETRICS_DATA")


def basis():
    """Make the basis π of gl(3) of Appendix B, (9, 3, 3) float64.

    The first three turn the cell, the next five change its shape at a constant volume, and the
    last changes its volume.
    """
    pi = torch.zeros(9, 3, 3, dtype=torch.float64)
    for k, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        pi[k, i, j], pi[k, j, i] = 1.0, -1.0
        pi[k + 3, i, j] = pi[k + 3, j, i] = 1.0
    pi[6] = torch.diag(torch.tensor([1.0, -1.0, 0.0]))
    pi[7] = torch.diag(torch.tensor([0.0, 1.0, -1.0]))
    pi[8] = VOLUME_SCALE * torch.eye(3, dtype=torch.float64)
    return pi


DEGENERATE = {
    "cubic": 4.0 * np.eye(3),
    "unit": np.eye(3),
    "fcc": 2.5 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0.0]]),
    "tetragonal": np.diag([3.0, 3.0, 7.0]),
    "nearly cubic": np.diag([4.0, 4.0 + 1e-9, 4.0 - 1e-7]),
    "hexagonal": np.array([[3, 0, 0], [-1.5, 1.5 * 3**0.5, 0], [0, 0, 5.0]]),
    "needle": np.diag([0.4, 0.41, 20.0]) @ np.array([[1, 0, 0], [0.1, 1, 0], [0.3, 0.4, 1.0]]),
}


@pytest.fixture(scope="module")
def real_cells(tmp_path_factory):
    _, reference = unpack(tmp_path_factory.mktemp("examples"))
    return torch.tensor(read(reference).lattices)


def random_turns(count, seed=0):
    """Orthogonal matrices, reflections among them."""
    rng = np.random.default_rng(seed)
    return torch.tensor(np.linalg.qr(rng.normal(size=(count, 3, 3)))[0])


def assert_round_trip(cells, tolerance):
    back = exp_lattice(log_lattice(cells))
    difference = (lattice_parameters(back) - lattice_parameters(cells)).abs()
    assert difference.max() < tolerance
    assert torch.equal(back, back.mT)


def test_basis_is_that_of_appendix_b():
    pi = basis()
    for k in range(9):
        assert torch.equal(pi[k].T, -pi[k] if k < 3 else pi[k])
        trace = 3 * VOLUME_SCALE if k == 8 else 0
        assert pi[k].trace().item() == pytest.approx(trace)
    assert torch.linalg.matrix_rank(pi.reshape(9, 9)) == 9
    assert torch.equal(pi[6].diagonal(), torch.tensor([1.0, -1, 0], dtype=torch.float64))
    assert torch.equal(pi[7].diagonal(), torch.tensor([0.0, 1, -1], dtype=torch.float64))


def test_coordinates_and_matrices_are_inverse():
    vectors = torch.randn(50, 6, dtype=torch.float64)
    matrices = vector_to_symmetric(vectors)
    torch.testing.assert_close(matrices, torch.einsum("bk,kij->bij", vectors, basis()[3:]))
    torch.testing.assert_close(symmetric_to_vector(matrices), vectors)


@pytest.mark.filterwarnings("ignore:logm result")
def test_log_and_exp_are_those_of_torch_and_scipy():
    from scipy.linalg import logm

    symmetric = vector_to_symmetric(torch.randn(20, 6, dtype=torch.float64))
    found = symmetric_exp(symmetric)
    torch.testing.assert_close(found, torch.linalg.matrix_exp(symmetric), rtol=1e-12, atol=1e-12)
    expected = torch.tensor(np.stack([logm(m.numpy()) for m in found]))
    torch.testing.assert_close(symmetric_log(found), expected, rtol=1e-9, atol=1e-9)


def test_volume_is_the_last_coordinate(real_cells):
    volume = torch.linalg.det(real_cells).abs()
    torch.testing.assert_close((3 * VOLUME_SCALE * log_lattice(real_cells)[:, 5]).exp(), volume)


def test_round_trip_of_real_cells(real_cells):
    assert_round_trip(real_cells, 1e-9)
    assert_round_trip(normalize_lengths(real_cells, torch.full((len(real_cells),), 7)), 1e-9)


@pytest.mark.parametrize("name", DEGENERATE)
def test_round_trip_of_degenerate_cells(name):
    assert_round_trip(torch.tensor(DEGENERATE[name])[None], 1e-9)


def test_noise_comes_back_from_its_cell():
    vectors = torch.randn(2000, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cells = exp_lattice(vectors)
    assert (log_lattice(cells) - vectors).abs().max() < 1e-6
    # In single precision a third of a promille of such metrics has a negative eigenvalue.
    single = log_lattice(cells.float())
    assert single.dtype == torch.float32
    assert (single - vectors).abs().max() < 1e-2


def test_a_turned_cell_has_the_same_vector(real_cells):
    turned = real_cells @ random_turns(len(real_cells))
    torch.testing.assert_close(log_lattice(turned), log_lattice(real_cells), rtol=0, atol=1e-11)
    torch.testing.assert_close(
        canonical_lattice(turned), canonical_lattice(real_cells), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("name", DEGENERATE)
def test_gradients_at_degenerate_cells(name):
    cell = torch.tensor(DEGENERATE[name])[None].requires_grad_()
    assert torch.autograd.gradcheck(log_lattice, cell, atol=1e-5, rtol=1e-4)
    vector = log_lattice(cell).detach().requires_grad_()
    assert torch.autograd.gradcheck(exp_lattice, vector, atol=1e-4, rtol=1e-4)


def test_gradients_of_wild_cells_are_those_of_there_and_back():
    vectors = torch.randn(200, 6, dtype=torch.float64).requires_grad_()
    weights = torch.randn(200, 6, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((log_lattice(exp_lattice(vectors)) * weights).sum(), vectors)
    torch.testing.assert_close(gradient, weights, rtol=1e-5, atol=1e-5)


def test_parameters_equal_pymatgen():
    crystals = random_crystals(20, seed=1)
    found = lattice_parameters(torch.tensor(crystals.lattices)).numpy()
    expected = [s.lattice.parameters for s in crystals.to_pymatgen()]
    found[:, 3:] = np.degrees(found[:, 3:])
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_parameters_of_a_flat_cell_have_finite_gradients():
    cell = torch.tensor([[1.0, 0, 0], [2.0, 0, 0], [0, 0, 1.0]], requires_grad=True)
    lattice_parameters(cell).sum().backward()
    assert cell.grad is not None
    assert cell.grad.isfinite().all()


def test_normalised_lengths_do_not_follow_the_atom_count():
    cells, counts = torch.randn(5, 3, 3, dtype=torch.float64), torch.tensor([1, 2, 5, 8, 20])
    normal = normalize_lengths(cells, counts)
    torch.testing.assert_close(torch.linalg.det(normal) * counts, torch.linalg.det(cells))
    torch.testing.assert_close(restore_lengths(normal, counts), cells)


def skews(count, seed=2):
    """Integer matrices of determinant ±1."""
    rng = np.random.default_rng(seed)
    result = np.empty((count, 3, 3))
    for matrix in result:
        lower, upper = (
            np.tril(rng.integers(-3, 4, (3, 3)), -1),
            np.triu(rng.integers(-3, 4, (3, 3)), 1),
        )
        matrix[:] = (lower + np.eye(3)) @ (upper + np.eye(3))
        matrix[0] *= rng.choice([-1, 1])
    return result


def test_niggli_cell_of_any_cell_of_a_lattice(real_cells):
    lattices = real_cells.numpy()
    skewed = skews(len(lattices)) @ lattices
    plain, _ = niggli_reduce(lattices)
    reduced, transforms = niggli_reduce(skewed)
    np.testing.assert_allclose(transforms @ skewed, reduced, atol=1e-9)
    np.testing.assert_allclose(np.abs(np.linalg.det(transforms)), 1, atol=1e-9)
    assert (np.linalg.det(reduced) > 0).all()
    parameters = [lattice_parameters(torch.tensor(cells)).numpy() for cells in (reduced, plain)]
    # Which of two equal cells it is hangs on the tolerance: lengths agree, the angles' cosines too.
    np.testing.assert_allclose(parameters[0][:, :3], parameters[1][:, :3], atol=1e-3)
    np.testing.assert_allclose(parameters[0][:, 3:], parameters[1][:, 3:], atol=1e-3)


def test_niggli_reduction_keeps_the_crystal():
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    crystals = random_crystals(12, seed=3)
    skewed = skews(12, seed=4) @ crystals.lattices
    reduced, transforms = niggli_reduce(skewed)
    matcher = StructureMatcher(ltol=1e-6, stol=1e-6, angle_tol=1e-4, primitive_cell=False)
    for i, structure in enumerate(crystals.to_pymatgen()):
        to_skewed = structure.lattice.matrix @ np.linalg.inv(skewed[i])
        frac = structure.frac_coords @ to_skewed @ np.linalg.inv(transforms[i])
        found = Structure(reduced[i], structure.species, frac)
        assert matcher.fit(found, structure)


def test_niggli_cell_where_a_tie_is_missed_by_the_tolerance():
    cell = np.array(
        [
            [4.229450704988957, 0.0, 2.441888630820467],
            [1.4098154941469856, 3.987569339451203, 2.4418784011961057],
            [0.0, 0.0, 4.88375534],
        ]
    )
    reduced, transforms = niggli_reduce(cell[None])
    np.testing.assert_allclose(transforms @ cell, reduced, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(reduced[0], axis=1), 4.88375, atol=1e-4)


def test_niggli_reduction_of_noise_and_of_a_flat_cell():
    cells = exp_lattice(torch.randn(300, 6, dtype=torch.float64)).numpy()
    reduced, _ = niggli_reduce(cells)
    np.testing.assert_allclose(np.linalg.det(reduced), np.linalg.det(cells), rtol=1e-6)
    assert (
        np.linalg.norm(reduced, axis=2).prod(1) < np.linalg.norm(cells, axis=2).prod(1) + 1e-9
    ).all()
    flat = rocksalt().lattices.copy()
    flat[0, 2] = flat[0, 0] + flat[0, 1]
    with pytest.raises(ValueError, match="lattice 0"):
        niggli_reduce(flat)


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="CRYSMETRICS_DATA names no folder of data")
@pytest.mark.parametrize(
    "name",
    [
        *("mp20/test.csv.gz", "mp20/val.csv.gz", "mp20/extra.csv.gz"),
        *("mpts52/val.csv.gz", "mpts52/test.csv.gz"),
        *("perov5/val.csv.gz", "perov5/test.csv.gz", "carbon24/val.csv.gz", "carbon24/test.csv.gz"),
        *(f"cif_folders/{source}.zip" for source in ("mp", "oqmd", "alexandria", "jarvis")),
    ],
)
def test_round_trip_of_all_data(name):
    crystals = read(Path(str(DATA)) / name)
    cells = torch.tensor(crystals.lattices)
    assert_round_trip(cells, 1e-9)
    counts = torch.tensor(crystals.num_atoms)
    assert_round_trip(normalize_lengths(cells, counts), 1e-9)
    reduced, _ = niggli_reduce(crystals.lattices)
    assert_round_trip(torch.tensor(reduced), 1e-9)
