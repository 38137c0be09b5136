"""All backbones: equivariance in any crystal, padding, ties, gradients, precision, compilation."""

import numpy as np
import pytest
import torch
from sets import one, random_crystals, rocksalt, wild_crystals

from crysgen.models.fields import build_fields
from crysgen.networks import Network, build_network, network_names
from crysgen.training.batch import Batch
from crysmetrics.examples import unpack
from crysmetrics.io import Crystals, read

SETTINGS = {
    "gemsnet": {
        "channels": 16,
        "edge_channels": 16,
        "triplet_channels": 8,
        "layers": 2,
        "angular": 4,
        "k": 16,
    },
    "pairformer": {
        "channels": 16,
        "pair_channels": 12,
        "triangle_channels": 6,
        "layers": 2,
        "heads": 2,
        "radial": 8,
        "k": 16,
        "lattice_k": 14,
    },
    "cspnet": {"channels": 16, "layers": 2, "frequencies": 3, "radial": 8},
}
VARIANTS = {
    "gemsnet": ("gemsnet", {}),
    "gemsnet-nearest": ("gemsnet", {"triplet_k": 6}),
    "gemsnet-bare": ("gemsnet", {"encoder": False, "time_embedding": False}),
    "pairformer": ("pairformer", {}),
    "cspnet": ("cspnet", {}),
}
EXACT = 1e-6

network = pytest.mark.parametrize("name", VARIANTS)
of_any_cell = pytest.mark.parametrize("name", [name for name in VARIANTS if name != "cspnet"])
"""Backbones for which the choice of cell vectors plays no part."""


class Moving(torch.nn.Module):
    """A backbone with the head that moves atoms and bends cells."""

    def __init__(self, kind, settings, **head):
        super().__init__()
        self.backbone = build_network(kind, settings)
        self.head = build_fields(self.backbone, head)
        self.search = self.backbone.search

    def forward(self, atomic_numbers, lattices, step, neighbours):
        features = self.backbone(atomic_numbers, lattices, step, neighbours)
        return self.head(features, lattices, atomic_numbers > 0)


def build(name, dtype=torch.float64, **settings):
    """A network of random weights that moves things by about as much as they are large."""
    torch.manual_seed(0)
    kind, variant = VARIANTS[name]
    head = {"hidden": 16} if kind == "gemsnet" else {}
    net = Moving(kind, {**SETTINGS[kind], **variant, **settings}, **head).to(dtype)
    with torch.no_grad():
        for weights in net.parameters():
            weights += 0.05 * torch.randn_like(weights)
    return net.eval()


def fields(net, batch, step=None, run=None):
    if step is None:
        step = torch.linspace(0, 1, len(batch), dtype=batch.lattices.dtype)
    neighbours = net.search(batch.frac_coords, batch.lattices, batch.mask)
    return (net if run is None else run)(batch.atomic_numbers, batch.lattices, step, neighbours)


def features(net, batch):
    """Of nodes, and sums of edges: of edges themselves equal neighbours may change places."""
    step = torch.linspace(0, 1, len(batch), dtype=batch.lattices.dtype)
    neighbours = net.search(batch.frac_coords, batch.lattices, batch.mask)
    found = net.backbone(batch.atomic_numbers, batch.lattices, step, neighbours)
    assert found.nodes.shape == (*batch.mask.shape, net.backbone.channels)
    assert found.edges.shape == (*batch.mask.shape, net.backbone.k, net.backbone.edge_channels)
    assert found.units.shape == (*batch.mask.shape, net.backbone.k, 3)
    nodes = torch.where(batch.mask[..., None], found.nodes, 0)
    return nodes, torch.where(batch.mask[..., None], found.edges.sum(2), 0)


def symmetric():
    """Crystals in which many neighbours are equally far, some just beyond the last one seen."""
    fcc = np.ones((3, 3)) - np.eye(3)
    hexagonal = np.array([[3.2, 0, 0], [-1.6, 1.6 * 3**0.5, 0], [0, 0, 5.2]])
    third = [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5]]
    perovskite = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    cubic = [
        rocksalt(),
        one([29], [[0, 0, 0]], 1.8 * fcc, "fcc"),
        one([84], [[0, 0, 0]], 3.3, "simple"),
        one([30, 16], [[0, 0, 0], [0.25, 0.25, 0.25]], 2.7 * fcc, "zincblende"),
        one([20, 22, 8, 8, 8], perovskite, 3.9, "perovskite"),
    ]
    others = [
        one([12, 12], third, hexagonal, "hcp"),
        one([30, 30, 8, 8], [*third, [1 / 3, 2 / 3, 0.38], [2 / 3, 1 / 3, 0.88]], hexagonal, "ZnO"),
        one([22, 22], [[0, 0, 0], [0.5, 0.5, 0.5]], np.diag([3.0, 3.0, 4.5]), "tetragonal"),
    ]
    return Crystals.concatenate(cubic + others), len(cubic)


@pytest.fixture(scope="module")
def crystals(tmp_path_factory):
    _, reference = unpack(tmp_path_factory.mktemp("examples"))
    real = read(reference)
    real = real[np.flatnonzero(real.num_atoms <= 12)[:5]]
    plain = (real, random_crystals(3, seed=1), wild_crystals((1, 2, 3, 5, 8)), symmetric()[0])
    return Crystals.concatenate(
        [Crystals(c.atomic_numbers, c.frac_coords, c.lattices, c.num_atoms, c.ids) for c in plain]
    )


@pytest.fixture
def batch(crystals):
    return Batch.from_crystals(crystals, torch.float64)


def turns(count, determinant, seed=0):
    matrices = np.linalg.qr(np.random.default_rng(seed).normal(size=(count, 3, 3)))[0]
    return torch.tensor(matrices * (determinant * np.linalg.det(matrices))[:, None, None])


def unimodular(count, seed=0):
    """(count, 3, 3) random matrices of SL3(Z)."""
    rng = np.random.default_rng(seed)
    result = np.empty((count, 3, 3))
    for matrix in result:
        lower = np.tril(rng.integers(-2, 3, (3, 3)), -1) + np.eye(3)
        matrix[:] = lower @ (np.triu(rng.integers(-2, 3, (3, 3)), 1) + np.eye(3))
    assert np.allclose(np.linalg.det(result), 1)
    return torch.tensor(result)


def assert_same(found, displacement, strain):
    """To 1e-6, relative to the size of the fields where that is above 1."""
    for mine, wanted in ((found.displacement, displacement), (found.strain, strain)):
        scale = wanted.flatten(1).abs().amax(1).clamp_min(1)[:, None, None]
        assert ((mine - wanted).abs() / scale).max() < EXACT


def test_names():
    assert network_names() == ["cspnet", "gemsnet", "pairformer"]
    with pytest.raises(ValueError, match="cspnet, gemsnet, pairformer"):
        build_network("transformer", {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": -3}, "channels must be from 1 to"),
        ({"channels": 10**400}, "channels must be from 1 to"),
        ({"layers": "many"}, "layers must be a whole number"),
        ({"layers": True}, "layers must be a whole number"),
        ({"depth": 3}, "no setting 'depth'"),
        ({"channels": 12, "heads": 5}, "divided among 5 heads"),
        ({"channels": 1024, "layers": 1024}, "weights"),
    ],
)
def test_settings_that_can_not_be_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        build_network("pairformer", settings)


@network
def test_shapes_and_sizes(name, batch):
    net = build(name)
    assert isinstance(net.backbone, Network)
    found = fields(net, batch)
    assert found.displacement.shape == batch.frac_coords.shape
    assert found.strain.shape == (len(batch), 3, 3)
    torch.testing.assert_close(found.strain, found.strain.mT, rtol=0, atol=1e-12)
    assert (found.displacement[~batch.mask] == 0).all()
    # The fields are large enough for what follows to mean something.
    assert found.displacement.abs().max() > 0.01
    assert found.strain.abs().amax((1, 2)).median() > 0.01


@network
@pytest.mark.parametrize("determinant", [1, -1], ids=["rotation", "reflection"])
def test_rotation_and_reflection(name, determinant, batch):
    net = build(name)
    plain = fields(net, batch)
    turn = turns(len(batch), determinant)
    found = fields(net, batch.with_geometry(batch.frac_coords, batch.lattices @ turn))
    assert_same(found, plain.displacement, turn.mT @ plain.strain @ turn)


@network
def test_translation(name, batch):
    net = build(name)
    plain = fields(net, batch)
    shift = torch.randn(len(batch), 1, 3, dtype=torch.float64)
    moved = batch.frac_coords + shift
    assert_same(fields(net, batch.with_geometry(moved, batch.lattices)), *plain)
    wrapped = moved - moved.floor()
    assert_same(fields(net, batch.with_geometry(wrapped, batch.lattices)), *plain)


@of_any_cell
def test_unimodular_change_of_cell(name, batch):
    net = build(name)
    plain = fields(net, batch)
    cells = unimodular(len(batch))
    inverse = torch.linalg.inv(cells).round()
    retiled = batch.with_geometry(batch.frac_coords @ inverse, cells @ batch.lattices)
    assert_same(fields(net, retiled), plain.displacement @ inverse, plain.strain)


@network
def test_permutation(name, batch):
    net = build(name)
    plain = fields(net, batch)
    order = torch.randperm(batch.mask.shape[1], generator=torch.Generator().manual_seed(1))
    shuffled = Batch(batch.atomic_numbers[:, order], batch.frac_coords[:, order], batch.lattices)
    assert_same(fields(net, shuffled), plain.displacement[:, order], plain.strain)


@of_any_cell
def test_all_at_once(name, batch):
    """The whole group E(3) x SL3(Z), and an order of atoms."""
    net = build(name)
    plain = fields(net, batch)
    turn, cells = turns(len(batch), -1, seed=3), unimodular(len(batch), seed=3)
    inverse = torch.linalg.inv(cells).round()
    order = torch.randperm(batch.mask.shape[1])
    frac = (batch.frac_coords + torch.rand(len(batch), 1, 3).double()) @ inverse
    other = Batch(batch.atomic_numbers[:, order], frac[:, order], cells @ batch.lattices @ turn)
    assert_same(
        fields(net, other),
        (plain.displacement @ inverse)[:, order],
        turn.mT @ plain.strain @ turn,
    )


@of_any_cell
def test_features_are_the_same_however_a_crystal_is_written(name, batch):
    net = build(name)
    turn, cells = turns(len(batch), -1, seed=4), unimodular(len(batch), seed=4)
    inverse = torch.linalg.inv(cells).round()
    frac = (batch.frac_coords + torch.rand(len(batch), 1, 3).double()) @ inverse
    other = batch.with_geometry(frac, cells @ batch.lattices @ turn)
    for mine, wanted in zip(features(net, other), features(net, batch), strict=True):
        assert wanted.abs().max() > 0.1
        assert ((mine - wanted).abs() / wanted.abs().amax((1, 2), True).clamp_min(1)).max() < EXACT


@of_any_cell
def test_symmetric_crystals_stay_symmetric(name):
    """What symmetry forbids does not happen, whichever of equal neighbours are seen."""
    net = build(name)
    crystals, cubic = symmetric()
    batch = Batch.from_crystals(crystals, torch.float64)
    found = fields(net, batch)
    one = torch.eye(3, dtype=torch.float64)
    strain = found.strain[:cubic]
    isotropic = strain.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * one
    torch.testing.assert_close(strain, isotropic, rtol=0, atol=1e-9)
    assert found.displacement[:cubic].abs().max() < 1e-9
    # Across the axis of the others nothing moves, and both ways across are equally strained.
    assert found.displacement[cubic:, :, :2].abs().max() < 1e-9
    rest = found.strain[cubic:]
    torch.testing.assert_close(rest[:, 0, 0], rest[:, 1, 1], rtol=0, atol=1e-9)
    assert rest[:, 0, 1:].abs().max() < 1e-9
    assert (rest[:, 0, 0] - rest[:, 2, 2]).abs().min() > 1e-6


@network
def test_fields_do_not_jump_when_neighbours_change_places(name):
    """From one side of a tie to the other, fields change as little as the crystal."""
    net = build(name)
    results = []
    for shift in (-1e-7, 1e-7):
        crystal = one(
            [11, 17], [[0, 0, 0], [0.5 + shift, 0.5, 0.5 - shift]], rocksalt().lattices[0]
        )
        results.append(fields(net, Batch.from_crystals(crystal, torch.float64)))
    assert_same(results[0], *(x + 0 for x in results[1]))
    assert (results[0].displacement - results[1].displacement).abs().max() < 1e-5


@network
def test_padding_changes_nothing(name, crystals, batch):
    net = build(name)
    step = torch.linspace(0, 1, len(batch), dtype=torch.float64)
    together = fields(net, batch, step)
    for i in (0, 4, 8, 13):
        alone = Batch.from_crystals(crystals[i : i + 1], torch.float64)
        found = fields(net, alone, step[i : i + 1])
        n = int(crystals.num_atoms[i])
        assert_same(found, together.displacement[i : i + 1, :n], together.strain[i : i + 1])


@pytest.mark.parametrize("name", ["gemsnet", "gemsnet-nearest"])
def test_supercells_have_the_same_fields(name, crystals):
    """GemsNet sees no cell but through its volume per atom. Attention over a cell's atoms does."""
    net = build(name)
    for i in (0, 6, 9, 12):
        small = Batch.from_crystals(crystals[i : i + 1], torch.float64)
        double = Batch(
            small.atomic_numbers.repeat(1, 2),
            torch.cat([small.frac_coords, small.frac_coords + torch.tensor([1.0, 0, 0])], 1)
            * torch.tensor([0.5, 1.0, 1.0], dtype=torch.float64),
            small.lattices * torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)[:, None],
        )
        step = torch.tensor([0.3], dtype=torch.float64)
        plain, found = fields(net, small, step), fields(net, double, step)
        moved = plain.displacement.repeat(1, 2, 1) * torch.tensor([0.5, 1.0, 1.0]).double()
        assert_same(found, moved, plain.strain)


@network
def test_the_step_is_seen(name, batch):
    net = build(name)
    early, late = (fields(net, batch, torch.full((len(batch),), t).double()) for t in (0.1, 0.9))
    same = bool((early.strain - late.strain).abs().max() < 1e-9)
    assert same == (name == "gemsnet-bare")


@network
def test_gradients_are_finite_in_wild_cells_and_for_atoms_in_one_place(name):
    """Also those with respect to the crystal, which training does not need."""
    net = build(name, torch.float32)
    close = [
        [[0.2, 0.3, 0.4], [0.2 + d, 0.3, 0.4], [0.7, 0.1, 0.9]] for d in (0, 1e-12, 1e-7, 1e-4)
    ]
    crystals = Crystals.concatenate(
        [wild_crystals((1, 2, 4, 8) * 5, seed=5)]
        + [one([8, 8, 22], f, 3.0, str(i)) for i, f in enumerate(close)]
    )
    batch = Batch.from_crystals(crystals, torch.float32)
    frac, lattices = batch.frac_coords.requires_grad_(), batch.lattices.requires_grad_()
    found = fields(net, batch.with_geometry(frac, lattices))
    assert found.displacement.isfinite().all()
    assert found.strain.isfinite().all()
    (found.displacement.square().sum() + found.strain.square().sum()).backward()
    for weights in net.parameters():
        assert weights.grad is not None
        assert weights.grad.isfinite().all()
    assert frac.grad.isfinite().all()
    assert lattices.grad.isfinite().all()


@network
def test_every_weight_is_used(name, batch):
    net = build(name)
    found = fields(net, batch)
    (found.displacement.sum() + (found.strain * torch.randn(3, 3).double()).sum()).backward()
    unused = [k for k, w in net.named_parameters() if w.grad is None or not w.grad.abs().sum() > 0]
    assert unused == []


@network
def test_a_new_network_hardly_moves_anything(name, batch):
    torch.manual_seed(0)
    kind, variant = VARIANTS[name]
    net = Moving(kind, variant)
    found = fields(net, batch.to("cpu", torch.float32))
    moved = found.displacement @ batch.lattices.float()
    assert moved.abs().max() < 1
    assert found.strain.abs().max() < 1


@network
def test_single_precision_is_enough(name, batch):
    net = build(name)
    double = fields(net, batch)
    single = fields(net.float(), batch.to("cpu", torch.float32))
    for mine, wanted in zip(single, double, strict=True):
        assert (mine - wanted).abs().max() < 2e-3 * wanted.abs().max()


@network
def test_half_precision(name, crystals):
    """Under autocast: the geometry stays in single precision, and so do the fields."""
    net = build(name, torch.float32)
    batch = Batch.from_crystals(crystals[:8], torch.float32)  # real and random ones
    single = fields(net, batch)
    with torch.autocast("cpu", torch.bfloat16):
        half = fields(net, batch)
        (half.displacement.sum() + half.strain.sum()).backward()
    assert half.displacement.dtype == half.strain.dtype == torch.float32
    error = ((half.displacement - single.displacement) @ batch.lattices).norm()
    assert error < 0.1 * (single.displacement @ batch.lattices).norm()
    assert (half.strain - single.strain).norm() < 0.1 * single.strain.norm()
    assert all(w.grad.isfinite().all() for w in net.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemsnet", "pairformer", "cspnet"])
def test_capture_as_one_graph(name, batch):
    """Nothing on the way asks for a value: one graph, for any batch and number of atoms."""
    net = build(name)
    compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=True)
    assert_same(fields(net, batch, run=compiled), *fields(net, batch))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemsnet", "pairformer", "cspnet"])
def test_compiled(name, batch):
    import shutil

    if shutil.which("g++") is None:
        pytest.skip("no compiler")
    net = build(name)
    compiled = torch.compile(net, fullgraph=True, dynamic=True)
    assert_same(fields(net, batch, run=compiled), *fields(net, batch))
    found = fields(net, batch, run=compiled)
    (found.displacement.sum() + found.strain.sum()).backward()
    assert all(w.grad.isfinite().all() for w in net.parameters())
