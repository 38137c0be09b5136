"""ALIGNN's features and energies: what they must not depend on, and the network itself."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sets import one, random_crystals, rocksalt
from torch.nn.functional import silu

from crysmetrics.errors import UserError
from crysmetrics.features.alignn.extractor import (
    ENERGY_COLUMN,
    FEATURE_COLUMNS,
    evaluate,
    extractor,
    formation_energies,
)
from crysmetrics.features.alignn.graph import line_graphs
from crysmetrics.features.alignn.network import ALIGNN, BatchNorm, EdgeGatedGraphConv, GraphBatch
from crysmetrics.features.alignn.weights import load_weights
from crysmetrics.features.extractor import Run
from crysmetrics.io import Crystals


def random_network(seed=0):
    """A network with random weights and running statistics."""
    torch.manual_seed(seed)
    network = ALIGNN()
    for name, tensor in network.named_buffers():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_file(random_network().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def crystals():
    # Low symmetry and high symmetry, where distances are equal.
    perovskite = one(
        [20, 22, 8, 8, 8],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
        3.9,
        "perovskite",
    )
    hexagonal = one(
        [12, 12],
        [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]],
        [[3.2, 0, 0], [-1.6, 1.6 * 3**0.5, 0], [0, 0, 5.2]],
        "hcp",
    )
    return Crystals.concatenate([random_crystals(8), rocksalt(), perovskite, hexagonal])


def changed(crystals, change, rng):
    """The same crystals, described otherwise."""
    parts = []
    for crystal in crystals:
        numbers, frac, cell = crystal.atomic_numbers, crystal.frac_coords, crystal.lattices[0]
        if change == "rotation":
            cell = cell @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
        elif change == "translation":
            frac = frac + rng.random(3)
        elif change == "permutation":
            order = rng.permutation(len(numbers))
            numbers, frac = numbers[order], frac[order]
        elif change == "cell":
            matrix = np.eye(3)
            for _ in range(3):  # products of shears have determinant 1
                i, j = rng.choice(3, 2, replace=False)
                shear = np.eye(3)
                shear[i, j] = rng.integers(-2, 3)
                matrix = matrix @ shear
            cell, frac = matrix @ cell, frac @ np.linalg.inv(matrix)
        parts.append(Crystals(numbers, frac, cell[None], [len(numbers)], crystal.ids))
    return Crystals.concatenate(parts)


@pytest.mark.parametrize("change", ["rotation", "translation", "permutation", "cell"])
def test_description_of_a_crystal_does_not_matter(weights, crystals, change):
    features, energies, failures = evaluate(crystals, weights=weights)
    assert not failures
    other = changed(crystals, change, np.random.default_rng(1))
    features2, energies2, _ = evaluate(other, weights=weights)
    scale = np.abs(features).max(axis=1, keepdims=True)
    np.testing.assert_allclose(features2 / scale, features / scale, atol=1e-4)
    np.testing.assert_allclose(energies2, energies, rtol=1e-4, atol=1e-5)


def test_batches_workers_and_folding_do_not_matter(weights, crystals):
    features, energies, _ = evaluate(crystals, weights=weights, workers=1)
    for options in ({"workers": 2}, {"pairs_at_once": 1}, {"fold": 0.0}, {"fold": 1e-6}):
        features2, energies2, _ = evaluate(crystals, weights=weights, **options)
        np.testing.assert_allclose(features2, features, rtol=1e-4, atol=1e-5, err_msg=str(options))
        np.testing.assert_allclose(energies2, energies, rtol=1e-4, atol=1e-5)


def test_one_atom_and_two_hundred(weights):
    single = one([29], [[0, 0, 0]], 2.55 / 2**0.5 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]))
    large = random_crystals(1, seed=9, atoms=(200, 200))
    features, energies, failures = evaluate(
        Crystals.concatenate([single, large]), weights=weights, pairs_at_once=5_000
    )
    assert not failures
    assert np.isfinite(features).all()
    assert np.isfinite(energies).all()


def test_extractor_gives_features_and_energy_at_once(weights, crystals):
    made = extractor("alignn", Run(alignn=str(weights)))
    values, failures = made.compute(crystals, 1)
    features, energies, _ = evaluate(crystals, weights=weights, workers=1)
    assert values.shape == (len(crystals), len(made.labels))
    np.testing.assert_array_equal(values[:, FEATURE_COLUMNS], features)
    np.testing.assert_array_equal(values[:, ENERGY_COLUMN], energies)
    np.testing.assert_array_equal(
        formation_energies(crystals, weights=weights, workers=1)[0], energies
    )
    assert not failures
    assert made.parameters["weights_sha256"] == load_weights(weights).sha256


def test_other_weights_are_another_extractor(weights, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(random_network(seed=1).state_dict(), path)
    assert (
        extractor("alignn", Run(alignn=str(path))).hash
        != extractor("alignn", Run(alignn=str(weights))).hash
    )


def test_energies_are_the_last_layer_of_features(weights, crystals):
    features, energies, _ = evaluate(crystals, weights=weights)
    fc = load_weights(weights).network.fc
    expected = features @ fc.weight.double().numpy()[0] + fc.bias.double().numpy()
    np.testing.assert_allclose(energies, expected, atol=1e-5)


def test_failures_are_named(weights):
    flat = one([3], [[0, 0, 0]], [[3, 0, 0], [0, 3, 0], [3, 3, 1e-14]], "flat")
    crystals = Crystals.concatenate([rocksalt(), flat])
    features, energies, failures = evaluate(crystals, weights=weights)
    assert list(failures) == [1]
    assert np.isnan(features[1]).all()
    assert np.isnan(energies[1])
    assert np.isfinite(features[0]).all()
    values, _ = extractor("alignn", Run(alignn=str(weights))).compute(Crystals.empty(), None)
    assert values.shape == (0, 257)


def test_what_is_no_weights_is_refused(tmp_path, weights):
    with pytest.raises(UserError, match="no weights 'nothing'"):
        load_weights("nothing")
    with pytest.raises(UserError, match="no file"):
        load_weights(tmp_path / "nothing.safetensors")
    wrong = tmp_path / "wrong.safetensors"
    save_file({"fc.weight": torch.zeros(1, 256)}, wrong)
    with pytest.raises(UserError, match="not those of a classic ALIGNN"):
        load_weights(wrong)
    wrong.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="holds no weights"):
        load_weights(wrong)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no cuda here"):
            evaluate(rocksalt(), weights=weights, device="cuda")


# --- the network -----------------------------------------------------------------------------


def plain_convolution(layer, x, y, source, target, norm):
    """The convolution as the paper writes it (Eq. 1 to 4), on whole arrays."""
    gate = layer.src_gate(x)[source] + layer.dst_gate(x)[target] + layer.edge_gate(y)
    sigma = torch.sigmoid(gate)
    zero = torch.zeros_like(x)
    taken = zero.index_add(0, target, sigma * layer.dst_update(x)[source])
    total = zero.index_add(0, target, sigma)
    nodes = layer.src_update(x) + taken / (total + 1e-6)
    return x + silu(norm(layer.bn_nodes, nodes)), y + silu(norm(layer.bn_edges, gate))


def by_batch(layer, values):
    return torch.nn.functional.batch_norm(
        values, None, None, layer.weight, layer.bias, training=True, eps=layer.eps
    )


def by_running(layer, values):
    mean, var = layer.running_mean, layer.running_var
    return torch.nn.functional.batch_norm(
        values, mean, var, layer.weight, layer.bias, eps=layer.eps
    )


@pytest.mark.parametrize("training", [True, False])
def test_convolution_and_its_derivative(training):
    torch.manual_seed(2)
    graph = GraphBatch.of(line_graphs(random_crystals(3, atoms=(3, 6)), fold=0))
    layer = EdgeGatedGraphConv(16).double().train(training)
    for norm in (layer.bn_nodes, layer.bn_edges):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(len(graph.lengths), 16, dtype=torch.float64, requires_grad=True)
    y = torch.randn(len(graph.cosines), 16, dtype=torch.float64, requires_grad=True)
    ends = graph.pairs.source, graph.pairs.target
    expected = plain_convolution(layer, x, y, *ends, by_batch if training else by_running)
    found = layer(x, y, graph.pairs, graph.bonds.sizes)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    if training:
        inputs = [x, y, *layer.parameters()]
        loss = [torch.randn_like(part) for part in expected]
        for a, b in zip(
            torch.autograd.grad(found, inputs, loss),
            torch.autograd.grad(expected, inputs, loss),
            strict=True,
        ):
            torch.testing.assert_close(a, b)


def test_weighted_normalisation_is_that_of_repeated_rows():
    torch.manual_seed(3)
    ours, plain = BatchNorm(5).double().train(), torch.nn.BatchNorm1d(5).double().train()
    sizes = torch.randint(1, 4, (7,))
    x = torch.randn(7, 5, dtype=torch.float64)
    y = plain(x.repeat_interleave(sizes, 0))
    torch.testing.assert_close(ours(x, sizes.double()).repeat_interleave(sizes, 0), y)
    torch.testing.assert_close(ours.running_mean, plain.running_mean)
    torch.testing.assert_close(ours.running_var, plain.running_var)


def test_folding_changes_no_gradient(crystals):
    results = []
    for fold in (0.0, 1e-6):
        torch.manual_seed(4)
        network = ALIGNN().double().train()
        energies = network(GraphBatch.of(line_graphs(crystals, fold=fold)))
        energies.square().sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in network.parameters()])
        results.append((energies.detach(), gradient, network.gcn_layers[0].bn_edges.running_var))
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() < 1e-5 * a.abs().max()


def test_what_a_compiler_is_given_is_the_same(crystals, monkeypatch):
    results = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda value=compiling: value)
        network = random_network(5).double().train()
        energies = network(GraphBatch.of(line_graphs(crystals)))
        energies.square().sum().backward()
        gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
        results.append((energies, gradients, network.alignn_layers[0].edge_update.bn_edges))
    (energies, gradients, norm), (energies2, gradients2, norm2) = results
    torch.testing.assert_close(energies, energies2)
    for name, gradient in gradients2.items():
        torch.testing.assert_close(gradients[name], gradient, msg=name)
    torch.testing.assert_close(norm.running_var, norm2.running_var)


def test_bfloat16_trains_nearly_the_same(crystals):
    gradients = []
    for enabled in (False, True):
        network = random_network(6).train()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            energies = network(GraphBatch.of(line_graphs(crystals)))
        energies.float().square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    cosine = torch.nn.functional.cosine_similarity(*gradients, dim=0)
    assert cosine > 0.99


def test_gradient_reaches_every_weight(crystals):
    network = random_network().train()
    network(GraphBatch.of(line_graphs(crystals))).sum().backward()
    # The last update of edges is read by nothing; a shift before normalisation has no effect.
    unused = ("alignn_layers.3.edge_update.bn_edges", "gcn_layers.3.bn_edges")
    for name, parameter in network.named_parameters():
        if not name.startswith(unused) and parameter.ndim > 1:
            assert parameter.grad.abs().max() > 0, name


def test_other_sizes_load(crystals):
    network = ALIGNN(alignn_layers=2, gcn_layers=1, outputs=3).eval()
    again = ALIGNN.from_state(network.state_dict())
    batch = GraphBatch.of(line_graphs(crystals))
    torch.testing.assert_close(again(batch), network(batch))
    assert again(batch).shape == (len(crystals), 3)


def test_noise_costs_energy(tmp_path):
    from crysmetrics.examples import unpack
    from crysmetrics.io import read

    clean = read(unpack(tmp_path)[1])
    rng = np.random.default_rng(0)
    step = rng.normal(size=clean.frac_coords.shape)
    step = np.einsum("ni,nij->nj", step, np.linalg.inv(clean.lattices)[clean.structure_index])
    before, _ = formation_energies(clean)
    rises = []
    for size in (0.2, 0.5, 1.0):  # Å
        frac = clean.frac_coords + size * step
        noisy = Crystals(clean.atomic_numbers, frac, clean.lattices, clean.num_atoms, clean.ids)
        after, _ = formation_energies(noisy)
        rises.append(np.mean(after - before))
    assert 0 < rises[0] < rises[1] < rises[2]
    assert rises[1] > 0.02


def test_the_rule_of_graphs_belongs_to_the_weights(tmp_path):
    state = random_network().state_dict()
    found = {}
    for rule in (None, "published", "cell_independent", "someone's"):
        path = tmp_path / f"{rule}.safetensors"
        save_file(state, path, {"format": "pt"} | ({"graph_rule": rule} if rule else {}))
        if rule == "someone's":
            with pytest.raises(UserError, match='unknown rule, "someone\'s"'):
                load_weights(path)
        else:
            made = extractor("alignn", Run(alignn=str(path), device="cpu"))
            found[rule] = (load_weights(path).rule, made.compute(rocksalt(), 1)[0], made.hash)
    assert [rule for rule, _, _ in found.values()] == ["published", "published", "cell_independent"]
    published = found["published"][1]
    assert np.array_equal(found[None][1], published)
    assert np.abs(found["cell_independent"][1] - published).max() > 1e-3
    assert len({key for _, _, key in found.values()}) == 3
