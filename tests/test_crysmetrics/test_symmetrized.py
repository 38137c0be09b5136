"""Symmetrised crystals and their files: what is written is what was found, and stays so."""

import numpy as np
import pytest
from sets import one, random_crystals, rocksalt

from crysmetrics.examples import unpack
from crysmetrics.geometry import min_distances
from crysmetrics.io import Crystals, read, write
from crysmetrics.io.symmetrized import HALL_NUMBER, hall_numbers, symmetrized
from crysmetrics.io.writing import cif_texts
from crysmetrics.space_group_settings import operation_triplets, setting_of
from crysmetrics.symmetry import cells_of, space_groups, standard_cell


def shaken(crystals: Crystals, amount: float, seed: int) -> Crystals:
    """Atoms moved by about `amount` Å, cells strained accordingly."""
    rng = np.random.default_rng(seed)
    moved = []
    for crystal in crystals:
        cell = crystal.lattices[0] @ (np.eye(3) + rng.normal(0, amount / 5, (3, 3)))
        steps = rng.normal(0, amount, crystal.frac_coords.shape) @ np.linalg.inv(cell)
        moved.append(
            one(
                crystal.atomic_numbers.tolist(),
                (crystal.frac_coords + steps).tolist(),
                cell,
                crystal.ids[0],
            )
        )
    return Crystals.concatenate(moved)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    _, reference = unpack(tmp_path_factory.mktemp("examples"))
    return read(reference)


@pytest.mark.parametrize("amount", [0.0, 0.01, 0.03, 0.06])
def test_files_hold_what_was_found(real, tmp_path, amount):
    crystals = shaken(real, amount, 0)
    exact = symmetrized(crystals, 0.1)
    groups = [setting_of(hall).space_group for hall in hall_numbers(exact)]
    assert len(set(groups)) > 5
    texts = dict(cif_texts(exact, hall_numbers(exact)))
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    for crystal, group in zip(exact, groups, strict=True):
        name = crystal.ids[0]
        back = read(tmp_path / f"{name}.cif")
        assert f"_symmetry_Int_Tables_number   {group}\n" in texts[f"{name}.cif"]
        np.testing.assert_array_equal(back.element_counts, crystal.element_counts)
        assert back.volumes[0] == pytest.approx(crystal.volumes[0], rel=1e-6)
        assert min_distances(back)[0] == pytest.approx(min_distances(crystal)[0], abs=1e-5)
        if group > 1:  # found with any tolerance: the symmetry is exact, and there is no more
            assert space_groups(back, 0.1)[0] == group
            assert space_groups(back, 0.001)[0] == group


def test_what_is_symmetrised_comes_out_unchanged_the_next_time(real):
    exact = symmetrized(shaken(real, 0.03, 1), 0.1)
    again = symmetrized(exact, 0.1)
    assert hall_numbers(again) == hall_numbers(exact)
    np.testing.assert_array_equal(again.num_atoms, exact.num_atoms)
    np.testing.assert_allclose(again.volumes, exact.volumes, rtol=1e-6)


def test_pymatgen_reads_the_same(real, tmp_path):
    from pymatgen.core import Structure

    chosen = real[:25]
    write(chosen, tmp_path / "set", symmetrize=True)
    ours = read(tmp_path / "set")
    for crystal in ours:
        structure = Structure.from_file(tmp_path / "set" / f"{crystal.ids[0]}.cif")
        assert sorted(structure.atomic_numbers) == sorted(crystal.atomic_numbers.tolist())
        assert structure.volume == pytest.approx(crystal.volumes[0], rel=1e-6)


def test_operations_are_those_of_gemmi():
    import gemmi

    for hall in range(1, 531):
        wanted = {op.triplet() for op in gemmi.symops_from_hall(setting_of(hall).hall_symbol)}
        assert {gemmi.Op(t).triplet() for t in operation_triplets(hall)} == wanted, hall


def test_a_structure_without_the_symmetry_of_its_setting_is_written_in_p1(tmp_path):
    crystals = random_crystals(3)
    text = dict(cif_texts(crystals, [523, 100, 1]))
    assert all("_symmetry_Int_Tables_number   1\n" in t for t in text.values())


def test_flat_cells_come_to_an_end():
    """moyo searches without end in some of these; spglib takes them."""
    flat = one(
        [1, 8, 8],
        [[0, 0, 0], [0.3, 0.6, 0.1], [0.7, 0.2, 0.5]],
        np.array([[18.0, 1, 0], [2, 2, 0.1], [9, 3, 0.3]]),
    )
    assert standard_cell(cells_of(flat)[0]) is None
    tetragonal = one([29], [[0, 0, 0]], np.diag([0.9, 0.9, 4.0]))
    assert standard_cell(cells_of(tetragonal)[0]).space_group == 123


def test_properties_and_failures_stay():
    salt = rocksalt()
    marked = Crystals(
        salt.atomic_numbers, salt.frac_coords, salt.lattices, salt.num_atoms, salt.ids,
        {"score": np.array([0.5])}, [("bad.cif", "is empty")],
    )  # fmt: skip
    exact = symmetrized(marked, 0.01)
    assert exact.properties["score"].tolist() == [0.5]
    assert exact.properties[HALL_NUMBER].tolist() == [523]
    assert [f.file for f in exact.failures] == ["bad.cif"]
    assert len(symmetrized(Crystals.empty(), 0.1)) == 0


def test_libraries_say_nothing_on_standard_error(real, tmp_path, capfd):
    write(shaken(real[:40], 0.06, 2), tmp_path / "set", symmetrize=True, tolerance=0.1)
    assert capfd.readouterr().err == ""
