"""Formats of single texts: CIF, extended XYZ, POSCAR."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from structure_files import assert_rocksalt, cif, folder_of

from crysmetrics.io import read

# --- CIF -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["NaCl.v2.cif", "NaCl.v2.CIF", "NaCl.v2.cif.gz", "NaCl.v2.mcif"])
def test_one_cif(tmp_path, name):
    data = cif().encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    crystals = read(tmp_path / name)
    assert crystals.ids == ("NaCl.v2",)
    assert_rocksalt(crystals)


def test_blocks_of_one_cif(tmp_path):
    path = tmp_path / "many.cif"
    path.write_text(cif("a") + cif("b"))
    assert read(path).ids == ("many/a", "many/b")
    path.write_text(cif("a") + cif("b") + cif("a"))
    assert read(path).ids == ("many/0", "many/b", "many/2")


@pytest.mark.parametrize("prefix", [b"\xef\xbb\xbf", b"\r\n\r\n", b"# from somewhere\r\n"])
def test_byte_order_mark_and_line_ends(tmp_path, prefix):
    (tmp_path / "a.cif").write_bytes(prefix + cif().replace("\n", "\r\n").encode())
    (tmp_path / "no suffix").write_bytes(prefix + cif().encode())
    assert_rocksalt(read(tmp_path / "a.cif"))
    assert_rocksalt(read(tmp_path / "no suffix"))


# --- extended XYZ ----------------------------------------------------------------------------


def test_extxyz_written_by_ase(tmp_path):
    from ase.build import bulk
    from ase.io import write as ase_write

    frames = []
    for k, name in enumerate(("0012", "b c", 'd "e"')):
        atoms = bulk("NaCl", "rocksalt", a=5.64)
        atoms.info = {"material_id": name, "energy_per_atom": -1.5 - k, "stable": True}
        frames.append(atoms)
    ase_write(tmp_path / "x.extxyz", frames)
    crystals = read(tmp_path / "x.extxyz")
    assert crystals.ids == ("0012", "b c", 'd "e"')
    assert crystals.properties["energy_per_atom"].tolist() == [-1.5, -2.5, -3.5]
    assert crystals.properties["stable"].tolist() == [True] * 3
    assert_rocksalt(crystals)


FRAME = '1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3{}\nPo 1 2 3\n'


def test_frames_without_ids(tmp_path):
    (tmp_path / "x.xyz").write_text(FRAME.format("") * 3)
    crystals = read(tmp_path / "x.xyz")
    assert crystals.ids == ("x-0", "x-1", "x-2")
    np.testing.assert_allclose(crystals.frac_coords, [[0.25, 0.5, 0.75]] * 3)
    (tmp_path / "y.xyz").write_text(FRAME.format("").replace("\n", "\r\n"))
    assert read(tmp_path / "y.xyz").ids == ("y",)


def test_frames_in_a_folder(tmp_path):
    folder_of(tmp_path, {"x.xyz": FRAME.format(" id=a") * 2, "y.extxyz": FRAME.format(" id=b")})
    assert read(tmp_path).ids == ("x/0", "x/1", "y")


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ("1\nno cell\nPo 1 2 3\n", "has no Lattice"),
        (FRAME.format(' pbc="T T F"'), "is periodic in 2 directions"),
        (FRAME.format("").replace("Po", "Xx"), "unknown element 'Xx'"),
        (FRAME.format("").replace("Po", "X"), "unknown element"),
        (FRAME.format("").replace("1 2 3", "1 nan 3"), "not a finite number"),
        (FRAME.format("").replace("1 2 3", "1 2"), "declares 4 columns where its rows have 3"),
        (FRAME.format("").replace("R:3", "R:" + "9" * 20), "has no column pos of three numbers"),
        (FRAME.format("").replace("4 0 0 0 4", "4 0 0 4 0"), "cell without volume"),
        ("0\ncomment\n", "has no atoms"),
    ],
)
def test_damaged_frames_do_not_harm_their_neighbours(tmp_path, frame, reason):
    (tmp_path / "x.xyz").write_text(FRAME.format(" id=a") + frame + FRAME.format(" id=c"))
    crystals = read(tmp_path / "x.xyz")
    assert crystals.ids == ("a", "c")
    ((file, why),) = crystals.failures
    assert file == "x.xyz frame 2"
    assert reason in why


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        ("3\nLattice\nPo 1 2 3\n", "is truncated: 1 of 3 atoms"),
        ("two\n", "'two' where a number of atoms should stand"),
        ("-1\n", "'-1' where a number of atoms should stand"),
        ("9" * 5000 + "\n", "where a number of atoms should stand"),
        ("999999999999\nLattice\nPo 1 2 3\n", "is truncated: 1 of 999999999999 atoms"),
    ],
)
def test_frames_that_lead_nowhere(tmp_path, tail, reason):
    (tmp_path / "x.xyz").write_text(FRAME.format(" id=a") + tail)
    crystals = read(tmp_path / "x.xyz")
    assert crystals.ids == ("a",)
    assert reason in crystals.failures[0].reason


def test_columns_in_any_order(tmp_path):
    texts = {
        "positions first": "Properties=pos:R:3:species:S:1\n1 2 3 Po\n",
        "behind others": "Properties=tag:I:1:forces:R:3:species:S:1:pos:R:3\n7 .1 .2 .3 Po 1 2 3\n",
        "before others": "Properties=species:S:1:pos:R:3:move:L:1\nPo 1 2 3 T\n",
        "atomic numbers": "Properties=Z:I:1:pos:R:3\n84 1 2 3\n",
        "quoted": 'Properties="species:S:1:pos:R:3"\nPo 1 2 3\n',
        "none declared": "\nPo 1 2 3\n",
        "Fortran": "\nPo 1.0D0 2d+00 30.0D-1\n",
        "charged": "\nPo2+ 1 2 3\n",
        "charge behind": "\nPo+4 1 2 3\n",
        "small letters": "\npo 1 2 3\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.xyz").write_text(f'1\nLattice="4 0 0 0 4 0 0 0 4" {text}')
    crystals = read(tmp_path)
    assert not crystals.failures
    assert set(crystals.ids) == set(texts)
    assert crystals.atomic_numbers.tolist() == [84] * len(texts)
    np.testing.assert_allclose(crystals.frac_coords, [[0.25, 0.5, 0.75]] * len(texts))


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (
            "species:S:1:coords:R:3",
            "has no column pos of three numbers (its columns: species, coords",
        ),
        ("species:S:1:pos:R:2:x:R:1", "has no column pos of three numbers"),
        ("label:S:1:pos:R:3", "has no column species (its columns: label, pos)"),
        ("species:S:1:pos:R", "declares columns that are none"),
        ("species:S:1:pos:R:three", "declares columns that are none"),
        (":" * 90_000, "declares columns that are none"),
    ],
)
def test_frames_without_what_they_need(tmp_path, columns, reason):
    text = f'1\nLattice="4 0 0 0 4 0 0 0 4" Properties={columns}\nPo 1 2 3\n'
    (tmp_path / "x.xyz").write_text(text + FRAME.format(" id=good"))
    crystals = read(tmp_path / "x.xyz")
    assert crystals.ids == ("good",)
    assert reason in crystals.failures[0].reason


def test_comment_lines_as_ase_writes_them_are_read_alike(tmp_path):
    from ase.io import read as ase_read

    comment = (
        "Lattice='4 0 0 0 4 0 0 0 4' id=\"a \\\\ b\" flag=T number=-3 real=1.5e-3 word=x=y "
        'array="1 2 3" truths="T F" text="two words" braces={two words} pbc="T T T" lonely'
    )
    (tmp_path / "x.xyz").write_text(f"1\n{comment}\nPo 1 2 3\n")
    crystals = read(tmp_path / "x.xyz")
    theirs = ase_read(tmp_path / "x.xyz", format="extxyz").info
    assert crystals.ids == ("a \\ b",)
    found = {name: values[0].item() for name, values in crystals.properties.items()}
    assert found == {k: theirs[k] for k in ("flag", "number", "real", "word", "text", "braces")}


# --- encodings -------------------------------------------------------------------------------

ENCODED = {
    "Latin-1": lambda text: text.encode("latin-1"),
    "Windows": lambda text: text.replace("é", "’").encode("cp1252"),
    "UTF-8": lambda text: text.encode(),
    "UTF-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 of the other end": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "UTF-32": lambda text: text.encode("utf-32"),
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_comments_in_any_encoding(tmp_path, encoding):
    texts = {
        "a.cif": "# Ångström, né\n" + cif(),
        "b.vasp": "Ångström, né\n" + POSCARS["direct"].partition("\n")[2],
        "c.xyz": FRAME.format(" note=né"),
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(ENCODED[encoding](text))
    crystals = read(tmp_path)
    assert not crystals.failures
    assert crystals.ids == ("a", "b", "c")


# --- POSCAR ----------------------------------------------------------------------------------

LATTICE = "1.0\n2.82 2.82 0\n0 2.82 2.82\n2.82 0 2.82\n"
POSCARS = {
    "direct": f"x\n{LATTICE}Na Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n",
    "cartesian": f"x\n{LATTICE}Na Cl\n1 1\nCartesian\n0 0 0\n2.82 2.82 2.82\n",
    "selective": f"x\n{LATTICE}Na Cl\n1 1\nSelective\nD\n0 0 0 T T F\n.5 .5 .5 F F F\n",
    "labelled": f"x\n{LATTICE}Na Cl\n1 1\nDirect\n0 0 0 Na\n.5 .5 .5 Cl\n",
    "scaled": "x\n2.82\n1 1 0\n0 1 1\n1 0 1\nNa Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n",
    "volume": f"x\n-{5.64**3 / 4}\n1 1 0\n0 1 1\n1 0 1\nNa Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n",
    "vasp4": f"Na Cl\n{LATTICE}1 1\nDirect\n0 0 0\n.5 .5 .5\n",
    "vasp4 selective": f"Na Cl\n{LATTICE}1 1\nSel\nD\n0 0 0 T T T\n.5 .5 .5 T T T\n",
    "vasp4 labelled": f"x\n{LATTICE}1 1\nDirect\n0 0 0 Na\n.5 .5 .5 Cl\n",
    "pseudopotentials": f"x\n{LATTICE}Na_pv Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n",
    "velocities": f"x\n{LATTICE}Na Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n\n0 0 0\n0 0 0\n",
    "blanks": f"x\n{LATTICE}  Na  Cl \n 1  1\n direct\n 0 0 0\n .5 .5 .5\n\n",
    "negative volume, Cartesian": (
        f"x\n-{5.64**3 / 4}\n1 1 0\n0 1 1\n1 0 1\nNa Cl\n1 1\nC\n0 0 0\n1 1 1\n"
    ),
    "scaled, Cartesian": "x\n2.82\n1 1 0\n0 1 1\n1 0 1\nNa Cl\n1 1\nK\n0 0 0\n1 1 1\n",
    "three factors": "x\n2.82 1.41 5.64\n1 2 0\n0 2 .5\n1 0 .5\nNa Cl\n1 1\nD\n0 0 0\n.5 .5 .5\n",
    "three factors, Cartesian": (
        "x\n2.82 1.41 5.64\n1 2 0\n0 2 .5\n1 0 .5\nNa Cl\n1 1\nC\n0 0 0\n1 2 .5\n"
    ),
    "Fortran": (
        "x\n 1.0D+00\n2.82d0 .282D+1 0\n0 2.82 2.82\n2.82 0 28.2d-1\nNa Cl\n1 1\nDirect\n"
        "0 0 0\n5.0D-1 5d-1 .5E0\n"
    ),
    "commas": f"x\n{LATTICE}Na Cl\n1 1\nDirect\n0, 0, 0\n.5, .5, .5\n",
    "comments": (
        "Na Cl # a title\n1.0 ! scale\n2.82 2.82 0 # a\n0 2.82 2.82\n2.82 0 2.82\n"
        "Na Cl ! species\n1 1 # counts\nDirect ! not Cartesian\n0 0 0 ! here\n.5 .5 .5 # there\n"
    ),
    "words behind counts": f"x\n{LATTICE}Na Cl species\n1 1 atoms\nDirect\n0 0 0\n.5 .5 .5\n",
    "VASP 4 whose title is wrong": f"Cl Na\n{LATTICE}1 1\nDirect\n0 0 0 Na\n.5 .5 .5 Cl\n",
    "flags without Selective": f"x\n{LATTICE}Na Cl\n1 1\nD\n0 0 0 T T F\n.5 .5 .5 F F F\n",
    "labelled, selective": f"x\n{LATTICE}1 1\nS\nD\n0 0 0 T T F Na1\n.5 .5 .5 F F F Cl2\n",
    "hashed potentials": f"x\n{LATTICE}Na_pv/4a8f Cl/1b\n1 1\nDirect\n0 0 0\n.5 .5 .5\n",
    "windows": f"x\n{LATTICE}Na Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n".replace("\n", "\r\n"),
}


@pytest.mark.parametrize("text", POSCARS.values(), ids=POSCARS)
@pytest.mark.parametrize("name", ["POSCAR", "CONTCAR", "x.vasp", "x.POSCAR", "POSCAR.mp-1"])
def test_poscar(tmp_path, name, text):
    (tmp_path / name).write_text(text, newline="")
    crystals = read(tmp_path / name)
    assert_rocksalt(crystals)
    np.testing.assert_allclose(np.sort(crystals.frac_coords[:, 0]), [0, 0.5], atol=1e-9)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Na Cl\n", "", "names no elements"),
        ("Na Cl", "Na Qq", "unknown element"),
        (".5 .5 .5\n", "", "is truncated"),
        ("1 1\n", "1 999999999999\n", "has 1000000000000 atoms, more than the 5000 allowed"),
        ("Direct\n0 0 0\n.5 .5 .5\n", "", "is truncated: a POSCAR has at least 8 lines"),
        ("0 0 0\n", "0 0 nan\n", "not a finite number"),
        ("2.82 0 2.82", "0 2.82 2.82", "volume"),
        ("1 1\n", "0 0\n", "has no atoms"),
        ("1.0\n", "0.0\n", "where one or three scale factors stand"),
        ("1.0\n", "1.0 2.0\n", "where one or three scale factors stand"),
        ("1.0\n", "1 1 -1\n", "three scale factors that are not all positive"),
        ("1.0\n", "nan\n", "where one or three scale factors stand"),
        ("2.82 2.82 0\n", "2.82 2_82 0\n", "where a lattice vector should stand"),
        ("1 1\n", "1 1 1\n", "lists 2 elements but 3 numbers of atoms"),
        ("1 1\n", "1" * 5000 + "\n", "states a number of atoms of 5000 digits"),
        ("Direct\n", "", "where Direct or Cartesian should stand"),
        ("0 0 0\n.5 .5 .5\n", "0 0 0 Cl\n.5 .5 .5 Na\n", "names two elements for its atom 1"),
        ("1 1\n", "one one\n", "has 'one one' where numbers of atoms should stand"),
    ],
)
def test_damaged_poscar(tmp_path, old, new, reason):
    text = POSCARS["direct"]
    folder_of(tmp_path, {"POSCAR": text.replace(old, new), "ok.vasp": text})
    crystals = read(tmp_path)
    assert crystals.ids == ("ok",)
    assert crystals.failures[0].file == "POSCAR"
    assert reason in crystals.failures[0].reason
