"""The packed batch itself: views, slicing, concatenation, conversion, storage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sets import random_crystals, rocksalt
from strategies import ODD_TEXT, assert_same, crystals

from crysmetrics.errors import UserError
from crysmetrics.io import Crystals, CrystalsBuilder, Failure, from_pymatgen
from crysmetrics.io.crystals import as_property, wrap

CUBE = np.eye(3)[None] * 4


def assert_identical(found: Crystals, wanted: Crystals) -> None:
    """Bit for bit, failures and the types of properties included."""
    for name in ("atomic_numbers", "frac_coords", "lattices", "num_atoms"):
        a, b = getattr(found, name), getattr(wanted, name)
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    assert found.ids == wanted.ids
    assert found.failures == wanted.failures
    assert list(found.properties) == list(wanted.properties)
    for name, values in wanted.properties.items():
        assert found.properties[name].dtype == values.dtype
        assert found.properties[name].tobytes() == values.tobytes()


@given(crystals(ids=ODD_TEXT, properties=True))
def test_npz_is_bit_for_bit(tmp_path_factory, batch):
    path = tmp_path_factory.mktemp("npz") / "set.npz"
    batch.save(path)
    assert_identical(Crystals.load(path), batch)


def test_npz_of_failures_alone(tmp_path):
    batch = Crystals.empty([Failure("a.cif", "is empty")])
    batch.save(tmp_path / "x.npz")
    assert_identical(Crystals.load(tmp_path / "x.npz"), batch)


def test_npz_refuses_objects(tmp_path):
    batch = Crystals([1], np.zeros((1, 3)), CUBE, [1], ["a"], {"p": np.array([{}], dtype=object)})
    with pytest.raises(UserError, match="'p' of type object"):
        batch.save(tmp_path / "x.npz")
    assert not list(tmp_path.iterdir())


@given(crystals(properties=True), st.data())
def test_slices_are_the_structures(batch, data):
    index = data.draw(st.lists(st.integers(0, len(batch) - 1), unique=True, max_size=4))
    chosen = batch[index]
    assert chosen.ids == tuple(batch.ids[i] for i in index)
    for k, i in enumerate(index):
        assert_identical(chosen[k], batch[i])
    assert chosen.failures == ()


@given(crystals(max_size=6, properties=True), st.integers(0, 6))
def test_concatenation_undoes_slicing(batch, cut):
    parts = [batch[:cut], batch[cut:].with_failures(batch.failures)]
    assert_identical(Crystals.concatenate(parts), batch)
    ones = [*batch, Crystals.empty(batch.failures)]
    assert_identical(Crystals.concatenate(ones), batch)


def test_slicing_takes_what_numpy_takes():
    batch = random_crystals(5)
    assert batch[-1].ids == batch.ids[-1:]
    assert batch[::-2].ids == batch.ids[::-2]
    assert batch[np.array([True, False, True, False, False])].ids == (batch.ids[0], batch.ids[2])
    for nothing in ([], (), np.array([]), slice(0, 0), np.zeros(5, dtype=bool)):
        assert len(batch[nothing]) == 0
        assert batch[nothing].frac_coords.shape == (0, 3)
    with pytest.raises(IndexError, match="structure 5 of 5"):
        batch[5]


def test_concatenation_fills_missing_properties():
    def made(name: str, **properties: object) -> Crystals:
        values = {k: np.array([v]) for k, v in properties.items()}
        return Crystals([1], np.zeros((1, 3)), CUBE, [1], [name], values)

    parts = [made("a", e=1.5, n=1), made("b", label="x", n=2), made("c", label="y", e=np.nan)]
    found = Crystals.concatenate(parts).properties
    np.testing.assert_equal(found["e"], [1.5, np.nan, np.nan])
    np.testing.assert_equal(found["n"], [1, 2, np.nan])
    assert found["label"].tolist() == ["", "x", "y"]


def test_missing_numbers_are_empty_beside_text():
    parts = [random_crystals(1, seed) for seed in (1, 2)]
    mixed = [np.array([np.nan]), np.array(["x"])]
    parts = [
        Crystals(p.atomic_numbers, p.frac_coords, p.lattices, p.num_atoms, p.ids, {"note": v})
        for p, v in zip(parts, mixed, strict=True)
    ]
    assert Crystals.concatenate(parts).properties["note"].tolist() == ["", "x"]


def test_concatenation_refuses_one_id_twice():
    with pytest.raises(ValueError, match="not distinct"):
        Crystals.concatenate([rocksalt(), rocksalt()])
    assert len(Crystals.concatenate([])) == 0


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3))
def test_wrap_stays_in_the_cell(position):
    once = wrap(np.array([position]))
    assert ((once >= 0) & (once < 1)).all()
    assert wrap(once).tobytes() == once.tobytes()


@given(crystals())
def test_pymatgen_and_back(batch):
    pytest.importorskip("pymatgen")
    back = from_pymatgen(batch.to_pymatgen(), batch.ids)
    assert back.ids == batch.ids
    assert_same(back, batch, 1e-9)
    np.testing.assert_allclose(back.lattices, batch.lattices, atol=1e-12)


def test_from_pymatgen_names_what_is_no_crystal():
    from pymatgen.core import DummySpecies, Lattice, Molecule, Structure

    cube = Lattice.cubic(4)
    batch = from_pymatgen(
        [
            Structure(cube, ["Na+", "Cl-"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
            Structure(cube, [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]]),
            Structure(cube, [DummySpecies("X")], [[0, 0, 0]]),
            Molecule(["O"], [[0, 0, 0]]),
            None,
        ]
    )
    assert batch.ids == ("0",)
    assert batch.atomic_numbers.tolist() == [11, 17]
    reasons = [f.reason for f in batch.failures]
    assert [f.file for f in batch.failures] == ["1", "2", "3", "4"]
    assert "is disordered" in reasons[0]
    assert "unknown element" in reasons[1]
    assert "is a Molecule" in reasons[2]
    assert "is a NoneType" in reasons[3]


def test_to_torch():
    torch = pytest.importorskip("torch")
    batch = random_crystals(3)
    tensors = batch.to_torch(dtype=torch.float64)
    assert tensors["atomic_numbers"].dtype == torch.int64
    assert tensors["structure_index"].tolist() == batch.structure_index.tolist()
    np.testing.assert_array_equal(tensors["frac_coords"].numpy(), batch.frac_coords)
    assert batch.to_torch()["lattices"].dtype == torch.get_default_dtype()


def test_element_counts_and_volumes():
    batch = Crystals.concatenate([rocksalt(name="a"), random_crystals(4)])
    assert batch.element_counts.sum(axis=1).tolist() == batch.num_atoms.tolist()
    assert batch.element_counts[0, [11, 17]].tolist() == [1, 1]
    assert (batch.volumes > 0).all()
    assert batch.volumes[0] == pytest.approx(5.64**3 / 4)


def test_sha256_ignores_order_and_names_contents():
    batch = random_crystals(4).with_failures([Failure("x/a.cif", "is empty")])
    assert batch[::-1].with_failures([Failure("a.cif", "")]).sha256() == batch.sha256()
    assert batch[:3].with_failures(batch.failures).sha256() != batch.sha256()
    assert batch.with_failures([]).sha256() != batch.sha256()
    assert batch.with_ids(["0", "1", "2", "3"]).sha256() != batch.sha256()
    assert len(set(batch.content_hashes())) == 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"atomic_numbers": [1, 2]}, "num_atoms sums to 1, but there are 2"),
        ({"lattices": np.ones((2, 3, 3))}, "1 structures, but 2 lattices"),
        ({"num_atoms": [1, 0], "lattices": np.ones((2, 3, 3)), "ids": ["a", "b"]}, "without atoms"),
        ({"atomic_numbers": [0]}, "between 1 and 118"),
        ({"atomic_numbers": [119]}, "between 1 and 118"),
        ({"frac_coords": [[np.nan, 0, 0]]}, "must be finite"),
        ({"lattices": np.full((1, 3, 3), np.inf)}, "must be finite"),
        ({"properties": {"p": [1, 2]}}, "'p' has shape"),
    ],
)
def test_constructor_states_what_is_broken(changed, message):
    fields = {
        "atomic_numbers": [1],
        "frac_coords": [[0, 0, 0]],
        "lattices": CUBE,
        "num_atoms": [1],
        "ids": ["a"],
    }
    with pytest.raises(ValueError, match=message):
        Crystals(**{**fields, **changed})


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (([], [], CUBE), "has no atoms"),
        (([1], [[0, 0, 0], [0, 0, 0]], CUBE), "1 elements but 2 positions"),
        (([1, 1, 1], np.zeros((3, 3)), CUBE), "more than the 2 allowed"),
        (([119], [[0, 0, 0]], CUBE), "unknown element (atomic number 119)"),
        (([1], [[np.nan, 0, 0]], CUBE), "position that is not a finite number"),
        (([1], [[0, np.inf, 0]], CUBE), "position that is not a finite number"),
        (([1], [[0, 0, 0]], CUBE * np.nan), "cell that is not finite"),
        (([1], [[0, 0, 0]], CUBE * 1e200), "too large"),
        (([1], [[0, 0, 0]], CUBE * 0), "no volume"),
        (([1], [[0, 0, 0]], np.diag([4, 4, 1e-3])), "no volume"),
        (([1], [["a", "b", "c"]], CUBE), "arrays of the wrong kind"),
        (([1], [[0, 0, 0]], [1, 2, 3]), "arrays of the wrong kind"),
    ],
)
def test_builder_says_what_is_no_crystal(structure, reason):
    builder = CrystalsBuilder(max_atoms=2)
    builder.add("good", [1], [[0, 0, 0]], CUBE, source="first.cif")
    builder.add("bad", *structure, source="bad.cif")
    builder.fail("c.cif", "is empty")
    builder.add("good", [1], [[0, 0, 0]], CUBE, source="again.cif")
    batch = builder.build()
    assert batch.ids == ("good",)
    assert [f.file for f in batch.failures] == ["bad.cif", "c.cif", "again.cif"]
    assert reason in batch.failures[0].reason
    assert batch.failures[2].reason == "has the id 'good', already used by first.cif"


def test_left_handed_cells_are_crystals():
    builder = CrystalsBuilder()
    builder.add("left", [1], [[0, 0, 0]], np.diag([4, 4, -4]), source="x")
    assert builder.build().volumes == pytest.approx(64)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([True, False], "b"),
        ([True, None], "f"),
        ([1, 2], "i"),
        ([1, None], "f"),
        ([1, 2.5], "f"),
        ([None, None], "f"),
        (["a", None], "U"),
        ([1, "a"], "U"),
        ([2**70, 1], "U"),
        ([10**400, 0.5], "U"),
        ([], "i"),
    ],
)
def test_properties_find_their_type(values, kind):
    assert as_property(values).dtype.kind == kind
