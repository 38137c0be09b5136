"""`write`: round trips of every format, awkward names, and never half a result."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from sets import one, random_crystals, rocksalt
from strategies import ODD_TEXT, assert_same, crystals
from users import as_nobody

from crysmetrics.errors import UserError
from crysmetrics.io import Crystals, from_pymatgen, read, write
from crysmetrics.io.atomic import atomic_file, atomic_folder, refuse_existing
from crysmetrics.io.crystals import wrap
from crysmetrics.io.file_names import file_names
from crysmetrics.io.formats import cif, extxyz
from crysmetrics.io.formats.cif import p1_cif


def refused(crystals: Crystals, path: Path | str, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        write(crystals, path, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def everything_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def contents_of(folder: Path) -> dict[str, bytes]:
    return {n: (folder / n).read_bytes() for n in everything_in(folder) if (folder / n).is_file()}


# --- round trips -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["set", "set.zip", "set.extxyz", "set.xyz", "set.cif", "set.npz"])
@given(batch=crystals())
def test_round_trip(tmp_path_factory, name, batch):
    path = tmp_path_factory.mktemp("round") / name
    write(batch, path)
    back = read(path)
    assert not back.failures
    ids = list(batch.ids)
    if name == "set.cif":  # blocks come below the file's name, a single one has it
        ids = [f"set/{i}" for i in ids] if len(ids) > 1 else ["set"]
    assert sorted(back.ids) == sorted(ids)
    wanted = batch if name in ("set.npz", "set.xyz", "set.extxyz") else with_thirds(batch)
    assert_same(back[[back.ids.index(i) for i in ids]], wanted, 1e-6)


def with_thirds(batch: Crystals) -> Crystals:
    """With 0.33333 taken for 1/3, as reading CIF does in pymatgen and here."""
    frac = batch.frac_coords.copy()
    left = np.repeat(np.linalg.det(batch.lattices) < 0, batch.num_atoms)
    frac[left] = wrap(-frac[left])  # as it stands in the file
    for third in (1 / 3, 2 / 3):
        frac[np.abs(frac / third - 1) < 1e-4] = third
    frac[left] = wrap(-frac[left])
    return replace(batch, frac_coords=frac)


@given(batch=crystals(ids=ODD_TEXT.filter(bool)))
def test_extxyz_keeps_odd_ids(tmp_path_factory, batch):
    path = tmp_path_factory.mktemp("odd") / "x.xyz"
    write(batch, path)
    back = read(path)
    # What can't be printed or stored is spelled out on reading, see `printable`.
    spelled = [i.encode("utf-8", "backslashreplace").decode() for i in batch.ids]
    assert list(back.ids) == spelled


@given(batch=crystals(ids=ODD_TEXT, max_size=6))
def test_odd_ids_make_good_file_names(tmp_path_factory, batch):
    folder = tmp_path_factory.mktemp("odd")
    for path in (folder / "set", folder / "set.zip"):
        write(batch, path)
        back = read(path)
        assert len(back) == len(batch)
        assert not back.failures
    assert everything_in(folder)[0] == "set"
    assert read(folder / "set").sha256() == read(folder / "set.zip").sha256()
    names = file_names(batch.ids)
    assert len({n.casefold() for n in names}) == len(batch)
    for name in names:
        assert len(name.encode()) < 1024
        for part in name.split("/"):
            assert 0 < len(part.encode()) <= 240
            assert part[0] != "."
            assert not set(part) & set('<>:"\\|?*\0\n')


def test_file_names():
    ids = ("mp-1", "MP-1", "../up", "/etc/x", "a b", "塩", "é", "", ".", "x:y", "a.cif/b", "a")
    assert file_names(ids) == [
        "mp-1.cif",
        "MP-1~2.cif",
        "%..%/up.cif",
        "%/etc/x.cif",
        "a b.cif",
        "塩.cif",
        "é.cif",
        "%.cif",
        "%.%.cif",
        "x%3Ay.cif",
        "a.cif_/b.cif",
        "a.cif",
    ]


def test_long_names_that_begin_alike():
    names = file_names(tuple("塩" * 300 + str(k) for k in range(500)))
    assert len(set(names)) == 500
    assert max(len(name.encode()) for name in names) <= 255


def test_extxyz_keeps_properties(tmp_path):
    batch = random_crystals(3)
    properties = {
        "e": np.array([1.5, np.nan, -2e-300]),
        "n": np.array([1, 2, 3]),
        "ok": np.array([True, False, True]),
        "note": np.array(['say "x"', "", "a\\b\nc"]),
        "id": np.array(["p", "q", "r"]),
        "material_id": np.array([7, 8, 9]),
        "Lattice": np.array([1, 2, 3]),
        "e/atom": np.array([4, 5, 6]),
        "e atom": np.array([7, 8, 9]),
    }
    batch = replace(batch, properties=properties)
    write(batch, tmp_path / "x.xyz")
    back = read(tmp_path / "x.xyz")
    assert back.ids == batch.ids
    for key in ("e", "n", "ok", "id"):
        np.testing.assert_array_equal(back.properties[key], properties[key])
    assert back.properties["material_id_"].tolist() == [7, 8, 9]
    assert back.properties["Lattice_"].tolist() == [1, 2, 3]
    assert back.properties["e_atom"].tolist() == [4, 5, 6]
    assert back.properties["e_atom_"].tolist() == [7, 8, 9]
    assert back.properties["note"][0] == 'say "x"'


def test_ase_reads_our_frames(tmp_path):
    from ase.io import read as ase_read

    batch = random_crystals(3)
    write(batch, tmp_path / "x.extxyz")
    for atoms, crystal in zip(ase_read(tmp_path / "x.extxyz", ":"), batch, strict=True):
        assert atoms.info["material_id"] == crystal.ids[0]
        assert atoms.pbc.all()
        np.testing.assert_allclose(atoms.cell.array, crystal.lattices[0], atol=1e-12)
        delta = atoms.get_scaled_positions() - crystal.frac_coords
        np.testing.assert_allclose(delta - np.round(delta), 0, atol=1e-12)


def test_left_handed_cells_keep_their_hand(tmp_path):
    frac = [[0.1, 0.2, 0.3], [0.5, 0.1, 0.9], [0.35, 0.6, 0.2], [0.8, 0.7, 0.45]]
    left = one([6, 7, 8, 9], frac, np.diag([4.0, 5.0, -6.0]), "left")

    def chirality(crystal: Crystals) -> float:
        cart = crystal.frac_coords @ crystal.lattices[0]
        delta = crystal.frac_coords - crystal.frac_coords[0]
        cart = (delta - np.round(delta)) @ crystal.lattices[0]
        return float(np.linalg.det(cart[1:]))

    for name in ("x.cif", "x.zip", "x.xyz"):
        write(left, tmp_path / name)
        back = read(tmp_path / name)
        assert chirality(back) == pytest.approx(chirality(left), abs=1e-6)


def test_symmetrized(tmp_path):
    from pymatgen.core import Lattice, Structure
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    spinel = Structure.from_spacegroup(
        "Fd-3m",
        Lattice.cubic(8.08),
        ["Mg", "Al", "O"],
        [[0.125] * 3, [0.5] * 3, [0.2624] * 3],
    )
    batch = from_pymatgen([spinel, spinel.get_primitive_structure()], ["whole", "cell"])
    write(batch, tmp_path / "set", symmetrize=True)
    text = (tmp_path / "set" / "whole.cif").read_text()
    assert text.count(" O  ") == 1
    assert "data_whole" in text
    back = read(tmp_path / "set")
    assert back.num_atoms.tolist() == [56, 56]  # of the conventional cell
    for structure in back.to_pymatgen():
        assert SpacegroupAnalyzer(structure, 1e-4).get_space_group_number() == 227
    write(batch, tmp_path / "many.cif", symmetrize=True)
    assert read(tmp_path / "many.cif").ids == ("many/whole", "many/cell")


def test_symmetrized_where_there_is_no_symmetry_to_find(tmp_path):
    overlapping = one([6, 6], [[0, 0, 0], [0, 0, 1e-9]], 4.0, "overlap")
    batch = Crystals.concatenate([overlapping, random_crystals(2)])
    write(batch, tmp_path / "set", symmetrize=True, tolerance=0.01)
    assert sorted(read(tmp_path / "set").ids) == sorted(batch.ids)


def test_zips_of_equal_structures_are_equal(tmp_path):
    for name in ("a.zip", "b.zip"):
        write(random_crystals(3), tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert stat.S_IMODE(archive.infolist()[0].external_attr >> 16) == 0o644


def test_pymatgen_reads_our_cifs():
    from pymatgen.core import Structure

    for crystal in random_crystals(5):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structure = Structure.from_str(p1_cif(crystal), fmt="cif")
        assert structure.volume == pytest.approx(crystal.volumes[0])


# --- whole or not at all ---------------------------------------------------------------------

OUTPUTS = ["set", "set.zip", "set.cif", "set.xyz", "set.npz", "new/deep/set", "new/deep/set.zip"]


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError(28, "No space left")])
def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch, name, error):
    def interrupt(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(cif, "right_handed", interrupt)
    monkeypatch.setattr(extxyz, "_quoted", interrupt)
    monkeypatch.setattr(np, "savez_compressed", interrupt)
    wanted = UserError if isinstance(error, OSError) else error
    with pytest.raises(wanted) as caught:
        write(random_crystals(3), tmp_path / name)
    assert everything_in(tmp_path) == []
    if isinstance(error, OSError):
        assert str(caught.value) == f"{tmp_path / name} can't be written (No space left)."


@pytest.mark.parametrize("name", OUTPUTS[:5])
def test_interrupted_overwriting_leaves_the_old(tmp_path, monkeypatch, name):
    write(rocksalt(), tmp_path / name)
    before = contents_of(tmp_path)

    def interrupt(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(cif, "right_handed", interrupt)
    monkeypatch.setattr(extxyz, "_quoted", interrupt)
    monkeypatch.setattr(np, "savez_compressed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(random_crystals(3), tmp_path / name, overwrite=True)
    assert contents_of(tmp_path) == before


def test_exchange_that_fails_is_undone(tmp_path, monkeypatch):
    write(random_crystals(3), tmp_path / "set")
    before = everything_in(tmp_path)
    rename, calls = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 5:  # three old files have left, one new one has come
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    assert "Input/output error" in refused(random_crystals(3, 1), tmp_path / "set", overwrite=True)
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("name", OUTPUTS[:5])
def test_existing_outputs_are_kept(tmp_path, name):
    write(rocksalt(), tmp_path / name)
    text = refused(random_crystals(3), tmp_path / name)
    assert text == f"{tmp_path / name} exists already; choose another name or give --overwrite."
    batch = random_crystals(3)
    write(batch, tmp_path / name, overwrite=True)
    assert len(read(tmp_path / name)) == 3
    if name == "set":
        assert everything_in(tmp_path / name) == sorted(f"{i}.cif" for i in batch.ids)
    else:
        assert everything_in(tmp_path) == [name]


def test_folders_with_other_things_are_never_replaced(tmp_path):
    for other in ("notes.txt", "deep/.hidden"):
        folder = tmp_path / other.replace("/", "-")
        (folder / other).parent.mkdir(parents=True)
        (folder / other).write_text("mine")
        text = refused(rocksalt(), folder, overwrite=True)
        assert "holds other files than of CIF" in text
        assert (folder / other).read_text() == "mine"


def test_empty_folders_and_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    write(rocksalt(), tmp_path / "empty")
    assert everything_in(tmp_path / "empty") == ["NaCl.cif"]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write(rocksalt(), ".")
    assert everything_in(Path()) == ["NaCl.cif"]
    write(random_crystals(1), ".", overwrite=True)
    assert everything_in(Path()) == ["random-0-0.cif"]
    write(rocksalt(), "x.zip")
    write(rocksalt(), "./deep/x.zip")
    assert read("deep/x.zip").ids == ("NaCl",)


def test_links_are_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to("real")
    write(rocksalt(), tmp_path / "folder")
    assert (tmp_path / "folder").is_symlink()
    assert everything_in(tmp_path / "real") == ["NaCl.cif"]
    write(rocksalt(), tmp_path / "real.zip")
    (tmp_path / "link.zip").symlink_to("real.zip")
    refused(random_crystals(2), tmp_path / "link.zip")
    write(random_crystals(2), tmp_path / "link.zip", overwrite=True)
    assert (tmp_path / "link.zip").is_symlink()
    assert len(read(tmp_path / "real.zip")) == 2


def test_broken_links_are_replaced_only_when_asked(tmp_path):
    (tmp_path / "x.zip").symlink_to("nowhere/x.zip")
    refused(rocksalt(), tmp_path / "x.zip")
    write(rocksalt(), tmp_path / "x.zip", overwrite=True)
    assert len(read(tmp_path / "x.zip")) == 1


def test_links_out_of_a_replaced_folder_lose_nothing(tmp_path):
    write(rocksalt(), tmp_path / "other")
    write(rocksalt(), tmp_path / "set")
    (tmp_path / "set" / "link").symlink_to("../other", target_is_directory=True)
    write(random_crystals(1), tmp_path / "set", overwrite=True)
    assert everything_in(tmp_path / "other") == ["NaCl.cif"]
    assert everything_in(tmp_path / "set") == ["random-0-0.cif"]


def test_the_wrong_kind_of_place(tmp_path):
    batch = rocksalt()
    (tmp_path / "x.zip").mkdir()
    (tmp_path / "x.zip" / "inner").write_text("")
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe.npz")
    assert "is a folder" in refused(batch, tmp_path / "x.zip", overwrite=True)
    assert "is a file" in refused(batch, tmp_path / "file", overwrite=True)
    assert "no ordinary file" in refused(batch, tmp_path / "pipe.npz", overwrite=True)
    assert "can't be written (Not a directory)" in refused(batch, tmp_path / "file" / "x.npz")
    too_long = tmp_path / ("x" * 300 + ".npz")
    assert "can't be written (File name too long)" in refused(batch, too_long)


@pytest.mark.parametrize("name", ["x.csv", "x.json", "x.tar.gz", "x.cif.gz", "x.pt", "x.csv.gz"])
def test_formats_that_are_not_written(tmp_path, name):
    assert "can write .cif, .mcif, .vasp" in refused(rocksalt(), tmp_path / name)


def test_nothing_to_write(tmp_path):
    assert "no structures to write" in refused(Crystals.empty(), tmp_path / "x.zip")
    assert "has no space groups" in refused(rocksalt(), tmp_path / "x.xyz", symmetrize=True)


def test_folders_without_permission():
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    batch = rocksalt()
    try:
        with as_nobody():
            for name in ("set", "x.zip", "new/x.npz"):
                text = refused(batch, folder / name)
                assert text == f"{folder / name} can't be written (Permission denied)."
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_new_files_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write(rocksalt(), tmp_path / "x.zip")
        write(rocksalt(), tmp_path / "set")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x.zip").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "set").stat().st_mode) == 0o750


def test_atomic_outputs_of_other_modules(tmp_path):
    with atomic_file(tmp_path / "a" / "x.json") as temporary:
        temporary.write_text("{}")
        assert everything_in(tmp_path) == ["a", f"a/{temporary.name}"]
    assert (tmp_path / "a" / "x.json").read_text() == "{}"
    with atomic_folder(tmp_path / "b") as temporary:
        (temporary / "x").write_text("1")
    with atomic_folder(tmp_path / "b") as temporary:
        (temporary / "x").write_text("2")
        (temporary / "y").mkdir()
    assert everything_in(tmp_path / "b") == ["x", "y"]
    assert (tmp_path / "b" / "x").read_text() == "2"
    refuse_existing(tmp_path / "c")
    refuse_existing(tmp_path / "b" / "y")
    refuse_existing(tmp_path / "b", overwrite=True)
    with pytest.raises(UserError, match="exists already"):
        refuse_existing(tmp_path / "b")
