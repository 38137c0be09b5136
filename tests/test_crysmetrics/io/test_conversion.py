"""Formats by name: POSCAR and others as files, folders and archives, and `convert`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from sets import one, random_crystals, rocksalt
from strategies import assert_same, crystals
from structure_files import cif

from crysmetrics.cli import main
from crysmetrics.errors import UserError
from crysmetrics.io import Crystals, read, write
from crysmetrics.io.formats import FORMATS, format_of, sniff, without_suffix, written_formats
from crysmetrics.io.formats.base import Format
from crysmetrics.io.parsed import Parsed
from crysmetrics.io.reading import takes


def convert(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["convert", *map(str, arguments)])
    return done.exit_code, done.output


def files_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def grouped(batch: Crystals) -> Crystals:
    """The structures with their atoms in the order of a POSCAR, that of appearance by element."""
    order, numbers = [], batch.atomic_numbers.tolist()
    for start, end in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
        own = numbers[start:end]
        order += sorted(range(start, end), key=lambda k, own=own: own.index(numbers[k]))
    return replace(
        batch,
        atomic_numbers=batch.atomic_numbers[order],
        frac_coords=batch.frac_coords[order],
        properties={},
    )


@given(batch=crystals())
def test_poscars_come_back_to_1e_9(tmp_path_factory, batch):
    folder = tmp_path_factory.mktemp("poscars")
    write(batch, folder / "set", format="poscar")
    write(batch, folder / "set.zip", format="poscar")
    assert all(name.endswith(".vasp") for name in files_in(folder / "set"))
    for path in (folder / "set", folder / "set.zip"):
        back = read(path)
        assert not back.failures
        assert sorted(back.ids) == sorted(batch.ids)
        assert_same(back[[back.ids.index(i) for i in batch.ids]], grouped(batch), 1e-9)


@pytest.mark.parametrize(
    "name", ["POSCAR", "CONTCAR", "POSCAR_1", "x.vasp", "x.poscar", "a/POSCAR"]
)
def test_names_of_poscars_say_the_format(tmp_path, name):
    batch = random_crystals(1)
    write(batch, tmp_path / name)
    assert (tmp_path / name).is_file()
    assert_same(read(tmp_path / name), grouped(batch), 1e-9)


def test_pymatgen_and_ase_read_our_poscars(tmp_path):
    from ase.io import read as ase_read
    from pymatgen.io.vasp import Poscar

    frac = [[0.1, 0.2, 0.3], [0.5, 0.1, 0.9], [0.35, 0.6, 0.2], [0.8, 0.7, 0.4]]
    left = one([6, 7, 6, 9], frac, np.diag([4.0, 5.0, -6.0]), "né\n1")
    write(left, tmp_path / "POSCAR")
    lines = (tmp_path / "POSCAR").read_text().split("\n")
    assert lines[5:8] == ["C N F", "2 1 1", "Direct"]
    structure = Poscar.from_file(tmp_path / "POSCAR").structure
    atoms = ase_read(tmp_path / "POSCAR", format="vasp")
    assert [site.specie.Z for site in structure] == [6, 6, 7, 9] == atoms.numbers.tolist()
    assert np.linalg.det(structure.lattice.matrix) > 0  # as VASP asks
    assert structure.volume == pytest.approx(120) == atoms.get_volume()
    np.testing.assert_allclose(structure.frac_coords, atoms.get_scaled_positions(), atol=1e-12)


def test_a_poscar_holds_one_structure(tmp_path):
    with pytest.raises(UserError, match="a POSCAR holds one structure, not 2; name a folder or a"):
        write(random_crystals(2), tmp_path / "POSCAR")
    assert not (tmp_path / "POSCAR").exists()


@pytest.mark.parametrize("name", [n for n, f in written_formats().items() if f.text])
def test_folders_and_archives_of_every_format(tmp_path, name):
    batch = random_crystals(3)
    suffix = FORMATS[name].suffixes[0]
    for target in ("set", "set.zip"):
        write(batch, tmp_path / target, format=name)
        assert sorted(read(tmp_path / target).ids) == sorted(batch.ids)
    assert files_in(tmp_path / "set") == sorted(f"{i}{suffix}" for i in batch.ids)
    write(batch[:2], tmp_path / "set", format=name, overwrite=True)
    assert len(files_in(tmp_path / "set")) == 2
    (tmp_path / "set" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files than of"):
        write(batch, tmp_path / "set", format=name, overwrite=True)


@pytest.mark.parametrize(
    ("target", "name", "reason"),
    [
        ("x.cif", "poscar", "is the name of a CIF file, not of POSCAR"),
        ("POSCAR", "cif", "is the name of a POSCAR file, not of CIF"),
        ("set", "npz", "the name of a file of NumPy arrays ends in .npz"),
        ("set", "table", "There is no format 'table' to write; cif, poscar, extxyz, npz are."),
        ("set", "nonsense", "There is no format 'nonsense' to write"),
        ("x.csv", None, "can write .cif, .mcif, .vasp, .poscar, .extxyz, .xyz, .npz, .zip or a"),
        ("x.vasp.gz", None, "can write .cif"),
    ],
)
def test_names_and_formats_that_contradict_each_other(tmp_path, target, name, reason):
    with pytest.raises(UserError) as caught:
        write(rocksalt(), tmp_path / target, format=name)
    assert reason in str(caught.value)
    assert not list(tmp_path.iterdir())


# --- the table of formats --------------------------------------------------------------------


def test_every_format_is_known_by_its_names():
    suffixes = [s for f in FORMATS.values() for s in f.suffixes]
    assert len(suffixes) == len(set(suffixes))
    for found in FORMATS.values():
        assert found.parse or found.open or found.load
        for suffix in found.suffixes:
            for name in (f"x{suffix}", f"a/b.c{suffix.upper()}", f"x{suffix}.gz", f"x{suffix}.XZ"):
                assert format_of(name) is found
            assert without_suffix(f"x.y{suffix}") == "x.y"
            assert without_suffix(f"x.y{suffix}.bz2") == "x.y"
    assert format_of("POSCAR.json") is FORMATS["json"]
    assert format_of("POSCAR.old") is FORMATS["poscar"]
    assert format_of("notes.txt") is None


def test_a_format_needs_its_line_in_the_table_alone(tmp_path, monkeypatch):
    def parse(text: str, source: str, max_atoms: int | None) -> list[Parsed]:
        size, *symbols = text.split()[1:]
        return [
            Parsed(None, [84] * len(symbols), np.zeros((1, 3)), np.eye(3) * float(size), source)
        ]

    def text(crystal: Crystals) -> str:
        return f"CUBE {crystal.lattices[0, 0, 0]} Po"

    cube = Format("cube", "Cubes", (".cube",), parse, sniff=lambda head: head[:4] == b"CUBE")
    monkeypatch.setitem(FORMATS, "cube", replace(cube, text=text, note="of polonium"))
    (tmp_path / "x").mkdir()
    for name in ("a.cube", "b.CUBE", "c.cif"):
        (tmp_path / "x" / name).write_text(cif() if name == "c.cif" else "CUBE 3.3 Po")
    assert read(tmp_path / "x").ids == ("a", "b", "c")
    (tmp_path / "unnamed").write_text("CUBE 3.3 Po")
    assert takes(tmp_path / "unnamed")
    assert read(tmp_path / "unnamed").volumes == pytest.approx(3.3**3)
    assert convert(tmp_path / "x/a.cube", tmp_path / "out", "--format", "cube")[0] == 0
    assert files_in(tmp_path / "out") == ["a.cube"]
    assert convert(tmp_path / "x", tmp_path / "x" / "d.cube")[0] == 2
    assert "Cubes, of polonium" in convert("--help")[1]
    (tmp_path / "y.pdf").write_text("%PDF")
    with pytest.raises(UserError, match=r"a file named .*\.cube"):
        read(tmp_path / "y.pdf")


def test_formats_are_found_by_their_first_bytes(tmp_path):
    texts = {
        "cif": cif(),
        "extxyz": '1\nLattice="4 0 0 0 4 0 0 0 4"\nPo 0 0 0\n',
        "json": json.dumps({"cif": cif()}),
    }
    for name, text in texts.items():
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):
            (tmp_path / "x").write_bytes(text.encode(encoding))
            assert sniff((tmp_path / "x").read_bytes()) is FORMATS[name]
            assert takes(tmp_path / "x")
            assert len(read(tmp_path / "x")) == 1
    (tmp_path / "x").write_text("LiCoO2\n")
    assert not takes(tmp_path / "x")
    for name in ("x.csv", "x.tsv.gz", "x.pt", "x.npz", "x.tar.xz", "x.zip", "POSCAR"):
        (tmp_path / name).write_text("")
        assert takes(tmp_path / name)


# --- the command -----------------------------------------------------------------------------


def test_convert_to_poscar(tmp_path):
    (tmp_path / "x.cif").write_text(cif())
    assert convert(tmp_path / "x.cif", tmp_path / "POSCAR")[0] == 0
    assert read(tmp_path / "POSCAR").volumes == pytest.approx(5.64**3 / 4)
    write(random_crystals(3), tmp_path / "set.zip")
    assert convert(tmp_path / "set.zip", tmp_path / "out", "--format", "POSCAR")[0] == 0
    assert len(files_in(tmp_path / "out")) == 3
    code, text = convert(tmp_path / "set.zip", tmp_path / "y.vasp")
    assert (code, "a POSCAR holds one structure, not 3" in text) == (2, True)
    code, text = convert(tmp_path / "set.zip", tmp_path / "z", "--format", "nonsense")
    assert (code, "is not one of cif, poscar, extxyz, npz" in text) == (2, True)
    assert not (tmp_path / "z").exists()


def test_help_of_convert_lists_every_format():
    text = convert("--help")[1]
    for found in FORMATS.values():
        assert found.suffixes[0] in text
    assert "[cif|poscar|extxyz|npz]" in text


def test_outputs_that_would_be_read_again_are_refused(tmp_path):
    write(random_crystals(3), tmp_path / "x")
    for target in ("x/sub", "x/sub/deep", "x/all.cif", "x/all.xyz", "x/y/../sub"):
        code, text = convert(tmp_path / "x", tmp_path / target)
        assert code == 2
        assert "would be read as a part of it the next time" in " ".join(text.split())
    (tmp_path / "link").symlink_to("x")
    assert convert(tmp_path / "link", tmp_path / "x" / "sub")[0] == 2
    assert convert(tmp_path / "x", tmp_path / "link" / "sub")[0] == 2
    assert len(files_in(tmp_path / "x")) == 3
    for target in ("x/all.npz", "x/all.zip", "beside", "x2"):
        assert convert(tmp_path / "x", tmp_path / target)[0] == 0
    assert len(read(tmp_path / "x")) == 3
    assert convert(tmp_path / "x2", tmp_path / "x2", "--overwrite", "--symmetrize")[0] == 0


def test_columns_are_named_by_the_same_options_everywhere(tmp_path):
    (tmp_path / "x.csv").write_text(f'my id,cif,relaxed\na,data_x,"{cif()}"\n')
    options = ("--cif-column", "relaxed", "--id-column", "my id")
    assert convert(tmp_path / "x.csv", tmp_path / "x.npz", *options)[0] == 0
    assert read(tmp_path / "x.npz").ids == ("a",)
    done = CliRunner().invoke(
        main, ["validity", str(tmp_path / "x.csv"), *options, "--json", "-", "--workers", "1"]
    )
    assert done.exit_code == 0, done.output
    for command in ("validity", "evaluate", "fad", "coverage", "match", "featurize", "convert"):
        text = CliRunner().invoke(main, [command, "--help"]).output
        assert "--cif-column" in text
        assert "--id-column" in text
