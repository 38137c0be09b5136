"""CrystalNN fingerprints: equality with matminer, symmetries, failures."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
from matminer.featurizers.site.fingerprint import (
    CrystalNNFingerprint,
    load_cn_motif_op_params,
    load_cn_target_motif_op,
)
from pymatgen.core import Element, Lattice, PeriodicSite, Structure
from pymatgen.core.local_env import DEFAULT_OP_PARAMS, LocalStructOrderParams
from pymatgen.core.molecule_structure_comparator import CovalentRadius

from crysmetrics.features import _order_parameters as op
from crysmetrics.features import _qhull_path, crystalnn
from crysmetrics.features._element_data import COVALENT_RADIUS, ELECTRONEGATIVITY
from crysmetrics.features._lattice_points import (
    find_atoms,
    make_crystal,
    make_neighbourhood,
    reduce_lattice,
)
from crysmetrics.features._voronoi import OK, build_cell, make_cell, measure_faces
from crysmetrics.features.crystalnn import FEATURE_LABELS, crystalnn_fingerprints

PEER = CrystalNNFingerprint.from_preset("ops")


def pack(structures):
    """Arrays of a list of pymatgen structures."""
    frac = np.concatenate([s.frac_coords for s in structures]) % 1.0
    frac[frac >= 1.0] = 0.0
    return (
        np.array([s.lattice.matrix for s in structures]),
        frac,
        np.concatenate([s.atomic_numbers for s in structures]),
        np.array([len(s) for s in structures]),
    )


def peer_sites(structure):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array([PEER.featurize(structure, i) for i in range(len(structure))], dtype=float)


def wrapped(structure):
    """The structure with the coordinates that `pack` hands over."""
    cells, frac, z, _ = pack([structure])
    return Structure(Lattice(cells[0]), z, frac)


def assert_like_peer(structures, atol=1e-6):
    structures = [wrapped(s) for s in structures]
    numbers, reasons = crystalnn_fingerprints(*pack(structures))
    assert reasons == {}
    for row, structure in zip(numbers, structures, strict=True):
        expected = peer_sites(structure).mean(axis=0)
        np.testing.assert_allclose(row, expected, rtol=0, atol=atol)


def of_group(group, lattice, species, coords):
    return Structure.from_spacegroup(group, lattice, species, coords)


def hexagonal_layer(gap):
    """One layer of MoS2 in a cell of height 3.16 + gap."""
    c = 3.16 + gap
    h = 1.58 / c
    return Structure(
        Lattice.hexagonal(3.16, c),
        ["Mo", "S", "S"],
        [[0, 0, 0.5], [1 / 3, 2 / 3, 0.5 + h], [1 / 3, 2 / 3, 0.5 - h]],
    )


def random_crystal(seed, n=None):
    rng = np.random.default_rng(seed)
    n = n or int(rng.integers(2, 9))
    lattice = Lattice.from_parameters(*rng.uniform(4, 7.5, 3), *rng.uniform(65, 115, 3))
    z = rng.choice([1, 3, 8, 9, 10, 14, 17, 26, 30, 47, 56, 60, 79, 92, 96], n)
    return Structure(lattice, z, rng.random((n, 3)))


CUBIC = Lattice.cubic
PROTOTYPES = {
    "rock salt": of_group("Fm-3m", CUBIC(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "CsCl": Structure(CUBIC(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "fcc, primitive": Structure(
        Lattice([[0, 1.8, 1.8], [1.8, 0, 1.8], [1.8, 1.8, 0]]), ["Cu"], [[0, 0, 0]]
    ),
    "fcc": of_group("Fm-3m", CUBIC(3.6), ["Cu"], [[0, 0, 0]]),
    "bcc, primitive": Structure(
        Lattice([[-1.43, 1.43, 1.43], [1.43, -1.43, 1.43], [1.43, 1.43, -1.43]]),
        ["Fe"],
        [[0.2, 0.3, 0.4]],
    ),
    "simple cubic": Structure(CUBIC(3.35), ["Po"], [[0, 0, 0]]),
    "hcp": of_group("P6_3/mmc", Lattice.hexagonal(3.2, 5.2), ["Mg"], [[1 / 3, 2 / 3, 0.25]]),
    "diamond": of_group("Fd-3m", CUBIC(3.57), ["C"], [[0, 0, 0]]),
    "zinc blende": of_group("F-43m", CUBIC(5.41), ["Zn", "S"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
    "perovskite": Structure(
        CUBIC(3.9),
        ["Sr", "Ti", "O", "O", "O"],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
    ),
    "rutile": of_group(
        "P4_2/mnm", Lattice.tetragonal(4.59, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
    ),
    "graphite": of_group(
        "P6_3/mmc",
        Lattice.hexagonal(2.46, 6.7),
        ["C", "C"],
        [[0, 0, 0.25], [1 / 3, 2 / 3, 0.25]],
    ),
    "layer, gap of 6 Å": hexagonal_layer(6),
    "skewed cell": Structure(
        Lattice([[4, 0, 0], [7, 4.2, 0], [-9, 13, 4.5]]),
        ["Na", "O", "Si"],
        [[0, 0, 0], [0.31, 0.52, 0.77], [0.6, 0.1, 0.4]],
    ),
    "single atom, triclinic": Structure(
        Lattice.from_parameters(3.1, 3.7, 4.4, 71, 83, 97), ["Zn"], [[0.1, 0.9, 0.3]]
    ),
    "flat cell": Structure(
        Lattice.from_parameters(15, 11, 2.2, 88, 95, 102),
        ["Ca", "O", "C", "H"],
        [[0, 0, 0], [0.3, 0.1, 0.5], [0.5, 0.6, 0.1], [0.8, 0.4, 0.7]],
    ),
    "isolated atom": Structure(CUBIC(20), ["Na"], [[0.1, 0.2, 0.3]]),
    "noble gas": of_group("Fm-3m", CUBIC(5.3), ["Ar"], [[0, 0, 0]]),
}


@pytest.mark.parametrize("name", PROTOTYPES)
def test_prototype_equals_matminer(name):
    assert_like_peer([PROTOTYPES[name]])


@pytest.mark.parametrize("seed", range(12))
def test_random_crystal_equals_matminer(seed):
    assert_like_peer([random_crystal(seed)])


@pytest.mark.parametrize("sigma", [1e-9, 1e-4, 0.01, 0.1, 0.3])
def test_noisy_crystals_equal_matminer(sigma):
    rng = np.random.default_rng(7)
    noisy = []
    for name in ("CsCl", "perovskite", "hcp", "rutile", "diamond"):
        s = PROTOTYPES[name]
        strain = np.eye(3) + rng.uniform(-min(sigma, 0.1), min(sigma, 0.1), (3, 3))
        cart = s.cart_coords + rng.normal(0, sigma, (len(s), 3))
        frac = cart @ np.linalg.inv(s.lattice.matrix)
        noisy.append(Structure(Lattice(s.lattice.matrix @ strain), s.species, frac))
    assert_like_peer(noisy)


@pytest.mark.parametrize("gap", [9, 12, 20, 35])
def test_layers_far_apart_equal_matminer(gap):
    # The cells are open within 7 Å: in one direction only, where rounding decides what qhull finds.
    layer = hexagonal_layer(gap)
    shifted = layer.copy()
    shifted.translate_sites(range(3), [0.123, 0.045, 0.31])
    assert_like_peer([layer, shifted])


@pytest.mark.parametrize("seed", range(3))
def test_atoms_on_top_of_each_other_follow_matminer(seed):
    rng = np.random.default_rng(seed)
    base = random_crystal(seed + 50, n=3)
    for distance in (0.0, 1e-12, 1e-9, 1e-6, 1e-3):
        shift = rng.normal(size=3)
        shift *= distance / np.linalg.norm(shift)
        s = base.copy()
        s.append("Ni", base[1].coords + shift, coords_are_cartesian=True)
        s = wrapped(s)
        numbers, reasons = crystalnn_fingerprints(*pack([s]))
        if reasons:
            assert "qhull finds no face" in reasons[0]
            assert np.isnan(numbers).all()
            with pytest.raises(ValueError, match="No Voronoi neighbors"):
                peer_sites(s)
        else:
            expected = peer_sites(s).mean(axis=0)
            np.testing.assert_allclose(numbers[0], expected, rtol=0, atol=1e-6)


def twisted_cube():
    """CuAl2: each copper atom has eight equal neighbours, and their order shows in the number."""
    return of_group(
        "I4/mcm", Lattice.tetragonal(6.06, 4.87), ["Cu", "Al"], [[0, 0, 0.25], [0.158, 0.658, 0]]
    )


CUBE = FEATURE_LABELS.index("body-centered cubic CN_8")


def test_order_of_equal_neighbours_follows_matminer(monkeypatch):
    rng = np.random.default_rng(0)
    crystals = []
    for _ in range(4):
        s = twisted_cube()
        s.translate_sites(range(len(s)), rng.random(3))
        crystals.append(s)
    calls = []
    original = _qhull_path.peer_site
    monkeypatch.setattr(crystalnn, "peer_site", lambda *a: calls.append(1) or original(*a))
    assert_like_peer(crystals, atol=1e-9)
    assert calls, "the crystal was chosen because the order shows"


def test_without_following_the_order_the_number_is_symmetric(monkeypatch):
    monkeypatch.setattr(crystalnn, "_VISIBLE", math.inf)
    s = twisted_cube()
    first, _ = crystalnn_fingerprints(*pack([s]))
    rng = np.random.default_rng(1)
    for _ in range(3):
        turned = Structure(
            Lattice(s.lattice.matrix @ random_rotation(rng)), s.species, s.frac_coords
        )
        moved = Structure.from_sites([turned[i] for i in rng.permutation(len(s))])
        moved.translate_sites(range(len(s)), rng.random(3))
        second, _ = crystalnn_fingerprints(*pack([moved]))
        # Other numbers have steps of their own at angles of 90 degrees and the like.
        assert second[0, CUBE] == pytest.approx(first[0, CUBE], abs=1e-9)
    expected = peer_sites(wrapped(s)).mean(axis=0)
    assert np.abs(first[0] - expected).max() < 5e-3


def random_rotation(rng):
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.diag(r))


@pytest.mark.parametrize("seed", range(4))
def test_invariance(seed):
    s = random_crystal(seed + 100)
    rng = np.random.default_rng(seed)
    n = len(s)
    turned = Structure(Lattice(s.lattice.matrix @ random_rotation(rng)), s.species, s.frac_coords)
    moved = Structure(s.lattice, s.species, s.frac_coords + rng.random(3))
    permuted = Structure.from_sites([s[i] for i in rng.permutation(n)])
    change = np.array([[1, 2, -1], [0, 1, 3], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [-2, 1, 0], [1, 1, 1]]
    )
    other_cell = Structure(
        Lattice(change @ s.lattice.matrix), s.species, s.frac_coords @ np.linalg.inv(change)
    )
    supercell = s * (2, 1, 2)
    numbers, reasons = crystalnn_fingerprints(
        *pack([s, turned, moved, permuted, other_cell, supercell])
    )
    assert reasons == {}
    np.testing.assert_allclose(numbers[1:], numbers[:1].repeat(5, axis=0), rtol=0, atol=1e-9)


def test_result_does_not_depend_on_workers_batch_or_work_arrays(monkeypatch):
    structures = [random_crystal(seed + 200) for seed in range(30)] + list(PROTOTYPES.values())
    alone = np.concatenate([crystalnn_fingerprints(*pack([s]), workers=1)[0] for s in structures])
    for workers in (1, 2, 5, None):
        together, _ = crystalnn_fingerprints(*pack(structures), workers=workers)
        np.testing.assert_array_equal(together, alone)
    monkeypatch.setattr(crystalnn, "_WORK_SIZE", 30)
    small, _ = crystalnn_fingerprints(*pack(structures), workers=1)
    np.testing.assert_array_equal(small, alone)


def test_sites_and_progress():
    structures = [random_crystal(seed + 300) for seed in range(9)]
    done = []
    means, _ = crystalnn_fingerprints(*pack(structures), progress=done.append)
    assert sum(done) == len(structures)
    sites, reasons = crystalnn_fingerprints(*pack(structures), per_site=True)
    counts = [len(s) for s in structures]
    assert reasons == {}
    assert sites.shape == (sum(counts), 61)
    for mean, rows in zip(means, np.split(sites, np.cumsum(counts)[:-1]), strict=True):
        np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=0, atol=1e-15)
    np.testing.assert_allclose(sites[: counts[0]], peer_sites(structures[0]), rtol=0, atol=1e-6)


def test_failures_have_reasons_and_leave_the_others_alone():
    good = random_crystal(1)
    cells, frac, z, counts = pack([good] * 9)
    n = len(good)
    cells, frac, z = cells.copy(), frac.copy(), z.copy()
    frac[n] = math.nan
    cells[2, 0, 0] = math.inf
    cells[3, 2] = cells[3, 0] + cells[3, 1]
    z[4 * n] = 0
    z[5 * n + 1] = 119
    z[6 * n] = 97  # berkelium: no covalent radius in the table, where the peer raises TypeError
    cells[7] = np.diag([1e-4, 1e-4, 30.0])
    numbers, reasons = crystalnn_fingerprints(cells, frac, z, counts)
    assert sorted(reasons) == [1, 2, 3, 4, 5, 6, 7]
    assert "not a finite number" in reasons[1]
    assert "not a finite number" in reasons[2]
    assert "no volume" in reasons[3]
    assert "atomic number" in reasons[4]
    assert "atomic number" in reasons[5]
    assert "covalent radius" in reasons[6]
    assert "too small for its atoms" in reasons[7]
    assert all(why.endswith(".") for why in reasons.values())
    assert np.isnan(numbers[1:8]).all()
    np.testing.assert_array_equal(numbers[8], numbers[0])
    assert np.isfinite(numbers[0]).all()
    sites, again = crystalnn_fingerprints(cells, frac, z, counts, per_site=True)
    assert again == reasons
    assert np.isnan(sites[n : 8 * n]).all()


def test_structure_without_atoms_and_empty_batch():
    good = random_crystal(2)
    cells, frac, z, _ = pack([good])
    numbers, reasons = crystalnn_fingerprints(cells.repeat(2, axis=0), frac, z, [0, len(good)])
    assert reasons == {0: "The structure has no atoms."}
    assert np.isnan(numbers[0]).all()
    assert np.isfinite(numbers[1]).all()
    nothing, reasons = crystalnn_fingerprints(np.zeros((0, 3, 3)), np.zeros((0, 3)), [], [])
    assert nothing.shape == (0, 61)
    assert reasons == {}


def test_too_few_atoms_within_the_radius_is_an_error_as_in_matminer():
    # Five atoms around each site and no corner of its cell but one: qhull lists no face.
    s = Structure(
        CUBIC(19.11),
        ["C"] * 4,
        [[0.5, 0.5, 0.5], [0.6, 0.7, 0.55], [0.75, 0.5, 0.6], [0.5, 0.6, 0.8]],
    )
    with pytest.raises(ValueError, match="No Voronoi neighbors"):
        peer_sites(s)
    numbers, reasons = crystalnn_fingerprints(*pack([s]))
    assert "qhull finds no face" in reasons[0]
    assert np.isnan(numbers).all()


def test_inconsistent_arguments_raise():
    cells, frac, z, counts = pack([random_crystal(3)])
    with pytest.raises(ValueError, match="adds up"):
        crystalnn_fingerprints(cells, frac, z, counts + 1)
    with pytest.raises(ValueError, match="lattices"):
        crystalnn_fingerprints(cells.repeat(2, axis=0), frac, z, counts)


# --- tables -------------------------------------------------------------------------------------


def test_labels_equal_matminer():
    assert list(FEATURE_LABELS) == PEER.feature_labels()


def test_motifs_and_their_parameters_equal_the_libraries():
    assert {cn: list(names) for cn, names in op.MOTIFS.items()} == load_cn_target_motif_op()
    given = load_cn_motif_op_params()
    for (cn, name), row in op.PARAMETERS.items():
        kind, target, width, twice_f, south, south_width = row
        entry = given.get(cn, {}).get(name, [name])
        own = dict((entry[1] if len(entry) > 1 else DEFAULT_OP_PARAMS[entry[0]]) or {})
        if kind == op.CUBOCT:
            assert (own[4], own[2], own[6]) == (
                op.CUBOCT_NORTH,
                op.CUBOCT_SOUTH,
                op.CUBOCT_WIDTH,
            )
            assert width == own[5]
        elif kind == op.BCC:
            assert width == own["w_SPP"]
        else:
            assert width == own.get("IGW_TA", own.get("IGW_EP", 0.0))
        assert target == own.get(
            "TA", 0.0 if kind in (op.SINGLE, op.BCC, op.Q2, op.Q4, op.Q6) else 0.5
        )
        if "fac_AA" in own:
            assert twice_f == 2 * own["fac_AA"]
            assert own["exp_cos_AA"] == 2
        assert south == own.get("min_SPP", math.inf)
        assert south_width == own.get("IGW_SPP", 0.0)


def test_element_data_equal_pymatgen():
    for z in range(1, 119):
        element = Element.from_Z(z)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            np.testing.assert_equal(ELECTRONEGATIVITY[z], float(element.X))
        radius = CovalentRadius.radius.get(element.symbol, element.atomic_radius)
        np.testing.assert_equal(COVALENT_RADIUS[z], math.nan if radius is None else float(radius))


# --- parts --------------------------------------------------------------------------------------


def peer_order_parameter(cn, name, vectors):
    entry = load_cn_motif_op_params().get(cn, {}).get(name, [name])
    ops = LocalStructOrderParams([entry[0]], parameters=[entry[1] if len(entry) > 1 else None])
    sites = [PeriodicSite("C", v, Lattice.cubic(1)) for v in [np.zeros(3), *vectors]]
    return ops.get_order_parameters(sites, 0, indices_neighs=list(range(1, len(sites))))[0] or 0.0


@pytest.mark.parametrize(("cn", "name"), [key for key in op.PARAMETERS if key[0] > 1])
def test_order_parameter_equals_pymatgen(cn, name):
    rng = np.random.default_rng(cn)
    axes = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0], [0, 0, -1.0]])
    corners = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1.0, 1)])
    edges = np.array(list(np.ndindex(3, 3, 3))) - 1.0
    edges = edges[(edges**2).sum(axis=1) == 2]
    trials = [rng.normal(size=(cn, 3)) for _ in range(3)]
    for shape in (axes, corners, edges):
        if len(shape) >= cn:
            trials += [shape[:cn], shape[:cn] + rng.normal(0, 0.1, (cn, 3))]
    near = op.make_directions()
    place = op.MOTIFS[cn].index(name)
    for vectors in trials:
        for k, v in enumerate(vectors):
            near.unit[k] = v / np.linalg.norm(v)
            near.share[k] = 1.0 - 0.01 * k
        op.pair_geometry(near, cn)
        if name == "body-centered cubic":
            value, _ = op.body_centred(cn, place, op.MOTIF_TABLE, near)
        else:
            value = op.motif_value(cn, place, op.MOTIF_TABLE, near)
        # q of a symmetric shape is the root of a sum that vanishes.
        tolerance = 1e-7 if name.startswith("q") else 1e-9
        assert value == pytest.approx(peer_order_parameter(cn, name, vectors), abs=tolerance)


@pytest.mark.parametrize("seed", range(6))
def test_voronoi_cells_fill_the_crystal(seed):
    s = random_crystal(seed + 400)
    cells, frac, _, _ = pack([s])
    crystal = make_crystal(cells[0], frac)
    found, cell = make_neighbourhood(4096), make_cell(1024)
    total = 0.0
    for site in range(len(s)):
        # A radius that finds every atom that can cut the cell.
        status, n, n_planes, _, _ = build_cell(crystal, site, 25.0, found, cell)
        assert status == OK
        measure_faces(cell, n, n_planes)
        faces = n_planes - 6
        assert cell.solid[:faces].sum() == pytest.approx(4 * math.pi, abs=1e-9)
        total += (cell.area[:faces] * cell.atoms[:faces, 3]).sum() / 6
    assert total == pytest.approx(s.volume, rel=1e-10)


def test_atoms_are_found_in_any_cell():
    rng = np.random.default_rng(5)
    for _ in range(6):
        lattice = rng.normal(0, 4, (3, 3)) + np.diag([3, 3, 3])
        if abs(np.linalg.det(lattice)) < 20:
            continue
        shear = np.eye(3)
        shear[2, :2] = rng.integers(-4, 5, 2)
        lattice = shear @ lattice
        s = Structure(Lattice(lattice), ["C"] * 3, rng.random((3, 3)))
        found = make_neighbourhood(20000)
        crystal = make_crystal(lattice, s.frac_coords.copy())
        count = find_atoms(crystal, 1, 0.0, 7.0**2, found)
        expected = sorted(x.nn_distance for x in s.get_neighbors(s[1], 7.0))
        np.testing.assert_allclose(np.sort(np.sqrt(found.dist2[:count])), expected, atol=1e-9)
        transform, inverse, lower = reduce_lattice(lattice)
        np.testing.assert_allclose(transform @ inverse, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(lower @ lower.T, transform @ lattice @ lattice.T @ transform.T)


def test_peer_points_equal_pymatgen_to_the_bit():
    s = twisted_cube()
    for site in range(len(s)):
        near = sorted(s.get_sites_in_sphere(s[site].coords, 7.0), key=lambda x: x[1])
        points, owners = _qhull_path._points_in_sphere(s.lattice.matrix, s.frac_coords, site, 7.0)
        np.testing.assert_array_equal(points, [x.coords for x in near])
        np.testing.assert_array_equal(owners, [x.index for x in near])


def test_import_needs_no_pymatgen():
    code = (
        "import sys, crysmetrics.features.crystalnn as c;"
        "assert not {'pymatgen', 'matminer'} & set(sys.modules); print(len(c.FEATURE_LABELS))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "61"
