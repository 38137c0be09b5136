"""Closed forms of 3 x 3 matrices against the solvers of PyTorch."""

import pytest
import torch

from crysgen.matrices import closed_form_eigen, determinants, inverses, symmetric_eigen

ROTATIONS = torch.linalg.qr(
    torch.randn(200, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
).Q


def with_eigenvalues(*values):
    return (ROTATIONS * torch.tensor(values, dtype=torch.float64)) @ ROTATIONS.mT


def test_determinants_and_inverses():
    matrices = ROTATIONS @ with_eigenvalues(0.5, 2.0, 3.0)
    torch.testing.assert_close(determinants(matrices), torch.linalg.det(matrices))
    torch.testing.assert_close(inverses(matrices), torch.linalg.inv(matrices))


@pytest.mark.parametrize(
    "values",
    [
        (1, 2, 4),
        (-3, 1, 2),
        (2, 2, 5),
        (5, 2, 2),
        (1, 1 + 1e-9, 3),
        (1, 1 + 1e-13, 1 - 1e-13),
        (1e-6, 1, 1e6),
        (7, 7, 7),
        (0, 0, 0),
    ],
)
def test_eigenvalues_and_vectors(values):
    turned = with_eigenvalues(*values)
    for matrices in (turned, torch.diag_embed(torch.tensor([values], dtype=torch.float64))):
        matrices = (matrices + matrices.mT) / 2
        found, vectors = closed_form_eigen(matrices)
        size = max(map(abs, values), default=0)
        tolerance = {"rtol": 0, "atol": 1e-14 * size}
        torch.testing.assert_close((vectors * found[:, None]) @ vectors.mT, matrices, **tolerance)
        torch.testing.assert_close(
            found.sort().values, torch.linalg.eigvalsh(matrices), rtol=0, atol=3e-14 * size
        )
        one = torch.eye(3, dtype=torch.float64).expand_as(vectors)
        torch.testing.assert_close(vectors.mT @ vectors, one, rtol=0, atol=1e-13)


def test_a_matrix_that_is_not_finite_leaves_the_others_of_its_batch():
    matrices = with_eigenvalues(1, 2, 4)[:6]
    wanted = symmetric_eigen(matrices)[0]
    matrices[2, 0, 1] = matrices[2, 1, 0] = torch.inf
    matrices[4] = torch.nan
    values, _ = symmetric_eigen(matrices)
    assert values[[2, 4]].isnan().all()
    assert torch.equal(values[[0, 1, 3, 5]], wanted[[0, 1, 3, 5]])
