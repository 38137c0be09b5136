"""GemsNet's sums over triplets and its vector fields, against sums written out one by one."""

import numpy as np
import torch
from sets import random_crystals, wild_crystals

from crysgen.models.fields import TripletFields
from crysgen.networks.gemsnet_layers import Geometry
from crysgen.networks.neighbours import nearest_images
from crysgen.training.batch import Batch
from crysmetrics.io import Crystals


def small_graph(count=6):
    """A graph of GemsNet, features of its edges, and what they were made of."""
    crystals = Crystals.concatenate(
        [random_crystals(1, seed=8, atoms=(3, 3)), wild_crystals((2, 3), seed=4)]
    )
    batch = Batch.from_crystals(crystals, torch.float64)
    neighbours = nearest_images(batch.frac_coords, batch.lattices, batch.mask, count)
    length = (torch.linalg.det(batch.lattices).abs() / batch.num_atoms).pow(1 / 3)
    graph = Geometry(8, 4, count).double()(batch.mask, length, neighbours)
    return graph, torch.randn(*graph.fade.shape, 8).double(), neighbours


def test_sums_over_triplets_are_sums_over_pairs_of_edges():
    graph, features, neighbours = small_graph()
    found = graph.sum_angular(features)
    vectors = neighbours.vectors
    for i in range(graph.fade.shape[2]):
        expected = 0
        for j in range(graph.fade.shape[2]):
            if i != j:
                lengths = vectors[:, :, i].norm(dim=-1) * vectors[:, :, j].norm(dim=-1)
                cosine = (vectors[:, :, i] * vectors[:, :, j]).sum(-1) / lengths.clamp_min(1e-9)
                values = legendre_normalised(cosine, 4) * graph.fade[:, :, j, None] / 6**0.5
                expected = expected + values[..., None] * features[:, :, j, None]
        torch.testing.assert_close(found[:, :, i], expected, rtol=1e-4, atol=1e-5)


def legendre_normalised(x, count):
    polynomials = [torch.ones_like(x), x, (3 * x**2 - 1) / 2, (5 * x**3 - 3 * x) / 2]
    return torch.stack([(2 * n + 1) ** 0.5 * p for n, p in enumerate(polynomials)][:count], -1)


def test_strain_is_the_sum_of_the_fields_of_all_triplets():
    """Of ∂ ln r/∂ρ and ∂ cos θ/∂ρ, by autograd, with the weights of each ordered pair of edges."""
    graph, features, _ = small_graph()
    head = TripletFields(8, 8, 8, 4, 3).double()
    lengths = torch.randn(*graph.fade.shape, 8).double()
    _, found = head(features, lengths, graph)
    _, own, other = head.weights(features, lengths)
    count = graph.fade.shape[2]
    expected = torch.zeros_like(found)

    def derivative(function):
        """Of a change Y of the cell, at Y = 0: its symmetric part for each atom."""
        change = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(function(torch.eye(3).double() + change), change)
        return (gradient + gradient.T) / 2

    for b, atom in np.argwhere(graph.fade.sum(-1).numpy() > 0):
        units = graph.units[b, atom]
        for i in range(count):
            for j in range(count):
                if i == j or graph.fade[b, atom, i] * graph.fade[b, atom, j] < 1e-12:
                    continue
                u, v = units[i] / units[i].norm(), units[j] / units[j].norm()
                values = legendre_normalised((u * v).sum(), 4)
                weights = torch.einsum("s,sfr,fr->f", values, own[b, atom, i], other[b, atom, j])
                scale = graph.fade[b, atom, i] * graph.fade[b, atom, j] * 3 / count / count**0.5
                length = derivative(lambda y, u=u: (y @ u).norm().log())

                # What turning u alone does to the angle.
                def cosine(y, u=u, v=v):
                    return (y @ u / (y @ u).norm() * v).sum()

                angle = derivative(cosine)
                expected[b, atom] += scale * (weights[0] * length + weights[1] * angle)
                # Both orders together are the derivative of the angle.
                if i < j:
                    both = derivative(lambda y, u=u, v=v: torch.cosine_similarity(y @ u, y @ v, 0))
                    torch.testing.assert_close(
                        both, angle + derivative(lambda y, u=v, v=u: cosine(y, u, v))
                    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_positions_move_along_the_edges():
    graph, features, _ = small_graph()
    head = TripletFields(8, 8, 8, 4, 3).double()
    lengths = torch.randn(*graph.fade.shape, 8).double()
    moved, _ = head(features, lengths, graph)
    w, _, _ = head.weights(features, lengths)
    expected = -torch.einsum("bik,bikx->bix", w * graph.fade, graph.units) / 6**0.5
    torch.testing.assert_close(moved, expected)
