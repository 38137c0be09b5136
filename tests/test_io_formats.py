"""`read` of every kind of file: formats, names, ids, order, properties."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from sets import random_crystals, rocksalt
from strategies import assert_same

from crysmetrics.io import Crystals, Failure, read, reading, write
from crysmetrics.io.writing import p1_cif


def cif(name: str = "NaCl", a: float = 5.64) -> str:
    return p1_cif(rocksalt(a, name))


def assert_rocksalt(crystals: Crystals) -> None:
    for crystal in crystals:
        assert sorted(crystal.atomic_numbers) == [11, 17]
        assert crystal.volumes == pytest.approx(5.64**3 / 4)


def tar_of(path: Path, files: dict[str, str], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def zip_of(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def folder_of(path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


# --- folders and archives --------------------------------------------------------------------

FILES = {
    "b.cif": cif(),
    "a.CIF": cif(),
    "deep/er/c.cif": cif(),
    "deep/bad.cif": "<html>",
    "deep/POSCAR_1": "Na Cl\n1\n4 0 0\n0 4 0\n0 0 4\nNa Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n",
    "README.md": "not a structure",
    ".DS_Store": "junk",
    "__MACOSX/._b.cif": "junk",
    "__MACOSX/b.cif": "junk",
}
IDS = ("a", "b", "deep/POSCAR_1", "deep/er/c")


def test_folder(tmp_path):
    crystals = read(folder_of(tmp_path / "set", FILES))
    assert crystals.ids == IDS
    assert [f.file for f in crystals.failures] == ["deep/bad.cif"]


@pytest.mark.parametrize("wrapped", ["", "set/", "./", "./some/where/"])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tgz", "tar.bz2", "tar.xz", "ZIP"])
def test_archives_equal_their_folder(tmp_path, kind, wrapped):
    folder = read(folder_of(tmp_path / "set", FILES))
    files = {wrapped + name: text for name, text in FILES.items()}
    path = tmp_path / f"archive.{kind}"
    if "tar" in kind or kind == "tgz":
        mode = {"tar.gz": "w:gz", "tgz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
        archive = read(tar_of(path, files, mode.get(kind, "w")))
    else:
        archive = read(zip_of(path, files))
    assert archive.ids == folder.ids
    assert archive.sha256() == folder.sha256()
    assert len(archive.failures) == len(folder.failures)


def test_zip_of_old_windows_tools(tmp_path):
    path = zip_of(tmp_path / "x.zip", {"set/x/b.cif": cif(), "set/y/a.cif": cif()})
    # zipfile itself writes no backslashes, so they are put in afterwards.
    path.write_bytes(path.read_bytes().replace(b"set/x/b", b"set\\x\\b"))
    assert read(path).ids == ("x/b", "y/a")


def test_folder_of_links(tmp_path):
    folder_of(tmp_path / "real", {"a.cif": cif()})
    (tmp_path / "set").mkdir()
    (tmp_path / "set/file.cif").symlink_to("../real/a.cif")
    (tmp_path / "set/folder").symlink_to("../real", target_is_directory=True)
    crystals = read(tmp_path / "set")
    assert crystals.ids == ("file", "folder/a")
    assert not crystals.failures
    (tmp_path / "link").symlink_to("set")
    assert read(tmp_path / "link").sha256() == crystals.sha256()


def test_folder_named_like_a_file(tmp_path):
    for name in ("x.npz", "x.zip", "x.csv", "x.cif"):
        assert read(folder_of(tmp_path / name, {"a.cif": cif()})).ids == ("a",)


def test_very_deep_folder(tmp_path):
    deep = "/".join(["d"] * 1200)
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(1200):
            os.mkdir("d", dir_fd=here)
            inner = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
        file = os.open("x.cif", os.O_CREAT | os.O_WRONLY, dir_fd=here)
        os.write(file, cif().encode())
        os.close(file)
    finally:
        os.close(here)
    (tmp_path / "b.cif").write_text(cif())
    assert read(tmp_path).ids == ("b", f"{deep}/x")
    subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)  # shutil's own recursion ends


def test_files_that_differ_in_their_suffix_alone(tmp_path):
    files = {"a.cif": cif(), "a.vasp": FILES["deep/POSCAR_1"], "b.c.cif": cif()}
    assert read(folder_of(tmp_path, files)).ids == ("a.cif", "a.vasp", "b.c")


def test_compressed_files_in_a_folder(tmp_path):
    (tmp_path / "a.cif.gz").write_bytes(gzip.compress(cif().encode()))
    (tmp_path / "b.CIF.GZ").write_bytes(gzip.compress(cif().encode()))
    assert read(tmp_path).ids == ("a", "b")
    assert read(tmp_path / "a.cif.gz").ids == ("a",)


def test_names_in_other_alphabets(tmp_path):
    folder_of(tmp_path, {"Ångström.cif": cif(), "塩.cif": cif()})
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.cif")).write_text(cif())
    crystals = read(tmp_path)
    assert crystals.ids == (r"\udcff", "Ångström", "塩")
    assert " ".join(crystals.ids).encode()


def test_relative_paths(tmp_path, monkeypatch):
    folder_of(tmp_path, {"set/a.cif": cif(), "b.cif": cif()})
    monkeypatch.chdir(tmp_path)
    assert read(".").ids == ("b", "set/a")
    assert read("set").ids == read("./set/").ids == read("set/../set").ids == ("a",)


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


# --- tables ----------------------------------------------------------------------------------


def table(rows: list[dict[str, object]]) -> str:
    import pandas as pd

    return pd.DataFrame(rows).to_csv(index=False)


def test_table(tmp_path):
    rows = [
        {"material_id": "0012", "formula": "NaN", "e": 1.5, "cif": cif(), "n": 1},
        {"material_id": "NaN", "formula": "NaCl", "e": "", "cif": cif(), "n": 2},
        {"material_id": "mp-3", "formula": "", "e": -2, "cif": "", "n": 3},
        {"material_id": "", "formula": "", "e": 0, "cif": cif(), "n": 4},
    ]
    (tmp_path / "x.csv").write_text(table(rows))
    crystals = read(tmp_path / "x.csv")
    assert crystals.ids == ("0012", "NaN", "3")
    assert crystals.properties["formula"].tolist() == ["NaN", "NaCl", ""]
    np.testing.assert_equal(crystals.properties["e"], [1.5, np.nan, 0])
    assert crystals.properties["n"].tolist() == [1, 2, 4]
    assert crystals.failures == (("x.csv row 3 (mp-3)", "is empty"),)
    assert_rocksalt(crystals)


@pytest.mark.parametrize("suffix", ["csv", "CSV", "csv.gz", "csv.bz2", "csv.xz", "csv.zip"])
def test_compressed_tables(tmp_path, suffix):
    data = table([{"cif": cif()}]).encode()
    path = tmp_path / f"x.{suffix}"
    if suffix == "csv.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.csv", data)
            archive.writestr("__MACOSX/._x", b"")
    else:
        pack = {"csv.gz": gzip.compress, "csv.bz2": bz2.compress, "csv.xz": lzma.compress}
        path.write_bytes(pack.get(suffix, bytes)(data))
    assert read(path).ids == ("0",)


def test_id_columns(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(table([{"id": "a", "my id": "b", "CIF": cif()}]))
    assert read(path).ids == ("a",)
    crystals = read(path, id_column="my id")
    assert crystals.ids == ("b",)
    assert crystals.properties["id"].tolist() == ["a"]


def test_row_numbers_of_pandas_are_no_property(tmp_path):
    import pandas as pd

    pd.DataFrame({"cif": [cif()]}).to_csv(tmp_path / "x.csv")
    assert read(tmp_path / "x.csv").properties == {}


def test_second_cif_column_is_no_property(tmp_path):
    (tmp_path / "x.csv").write_text(table([{"cif": cif(), "cif.conv": cif(), "n": 1}]))
    assert list(read(tmp_path / "x.csv").properties) == ["n"]


def test_repeated_columns(tmp_path):
    text = table([{"id": "a", "cif": cif(), "other": "not a CIF"}])
    (tmp_path / "x.csv").write_text(text.replace("other", "cif", 1))
    assert_rocksalt(read(tmp_path / "x.csv"))


def test_table_with_byte_order_mark(tmp_path):
    text = "\ufeff" + table([{"material_id": "a", "cif": cif()}])
    (tmp_path / "x.csv").write_text(text.replace("\n", "\r\n"), encoding="utf-8", newline="")
    assert read(tmp_path / "x.csv").ids == ("a",)


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
        (FRAME.format("").replace("Po", "Xx"), "can't be read as extended XYZ"),
        (FRAME.format("").replace("Po", "X"), "unknown element"),
        (FRAME.format("").replace("1 2 3", "1 nan 3"), "not a finite number"),
        (FRAME.format("").replace("1 2 3", "1 2"), "declares 4 columns where its rows have 3"),
        (FRAME.format("").replace("R:3", "R:" + "9" * 20), "declares 1000000000 columns"),
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
        ("-1\n", "is truncated"),
    ],
)
def test_frames_that_lead_nowhere(tmp_path, tail, reason):
    (tmp_path / "x.xyz").write_text(FRAME.format(" id=a") + tail)
    crystals = read(tmp_path / "x.xyz")
    assert crystals.ids == ("a",)
    assert reason in crystals.failures[0].reason


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
        ("1 1\n", "1 999999999999\n", "is truncated: it states 1000000000 atoms in 10 lines"),
        ("Direct\n0 0 0\n.5 .5 .5\n", "", "is truncated: a POSCAR has at least 8 lines"),
        ("0 0 0\n", "0 0 nan\n", "not a finite number"),
        ("2.82 0 2.82", "0 2.82 2.82", "volume"),
        ("1 1\n", "0 0\n", ""),
        ("1 1\n", "one one\n", "can't be read as POSCAR"),
    ],
)
def test_damaged_poscar(tmp_path, old, new, reason):
    text = POSCARS["direct"]
    folder_of(tmp_path, {"POSCAR": text.replace(old, new), "ok.vasp": text})
    crystals = read(tmp_path)
    assert crystals.ids == ("ok",)
    assert crystals.failures[0].file == "POSCAR"
    assert reason in crystals.failures[0].reason


# --- JSON ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def structure() -> Structure:
    return Structure(
        Lattice.from_parameters(*[5.64 / 2**0.5] * 3, 60, 60, 60),
        ["Na+", "Cl-"],
        [[0, 0, 0], [0.5, 0.5, 0.5]],
    )


def json_texts(s: dict[str, object]) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {
        "one": (json.dumps(s), ("x",)),
        "list": (json.dumps([s, s]), ("x-0", "x-1")),
        "mapping": (json.dumps({"0012": s, "b": s}), ("0012", "b")),
        "lines": (f"{json.dumps(s)}\n\n{json.dumps(s)}\n", ("x-0", "x-1")),
        "records": (json.dumps([{"material_id": "a", "structure": s, "e": 1}]), ("a",)),
        "entry": (json.dumps({"entry_id": "a", "energy": -1, "structure": s}), ("a",)),
        "record lines": ('{"id": 7, "cif": %s}\n' * 2 % ((json.dumps(cif()),) * 2), ("7",)),
        "texts in records": (json.dumps([{"structure": json.dumps(s)}]), ("x",)),
        "cif mapping": (json.dumps({"a": cif(), "b": "# note\n" + cif()}), ("a", "b")),
        "no fractions": (
            json.dumps({**s, "sites": [{**t, "abc": None} for t in s["sites"]]}).replace(
                '"abc": null, ', ""
            ),
            ("x",),
        ),
        "no matrix": (
            json.dumps({**s, "lattice": {k: v for k, v in s["lattice"].items() if k != "matrix"}}),
            ("x",),
        ),
    }


KINDS = ("one", "list", "mapping", "lines", "records", "entry", "record lines")
KINDS += ("texts in records", "cif mapping", "no fractions", "no matrix")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", ["json", "jsonl", "json.gz", "JSON"])
def test_json(tmp_path, structure, kind, suffix):
    text, ids = json_texts(structure.as_dict())[kind]
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix == "json.gz" else text.encode())
    crystals = read(path)
    assert crystals.ids == ids
    assert_rocksalt(crystals)


def test_json_properties(tmp_path, structure):
    record = {"material_id": "a", "name": "salt", "e": 1.5, "n": None, "list": [1], "cif": cif()}
    (tmp_path / "x.json").write_text(json.dumps([record]))
    crystals = read(tmp_path / "x.json")
    assert {k: v.tolist() for k, v in crystals.properties.items()} == {"name": ["salt"], "e": [1.5]}


def broken_json(s: dict[str, object]) -> dict[str, tuple[object, str]]:
    site = s["sites"][0]
    nan = json.loads(json.dumps(s))
    nan["sites"][0]["abc"] = [float("nan"), 0, 0]
    half = {**site, "species": [{"element": "Na", "occu": 0.5}]}
    dummy = {**site, "species": [{"element": "Xx", "occu": 1}]}
    return {
        "number": (3, "is a int, not a structure"),
        "null": (None, "is a NoneType, not a structure"),
        "nothing": ({}, "has no lattice and sites"),
        "molecule": ({"sites": s["sites"]}, "has no lattice and sites"),
        "no sites": ({**s, "sites": []}, "has no atoms"),
        "list as lattice": ({**s, "lattice": [1, 2, 3]}, "is no pymatgen structure"),
        "empty lattice": ({**s, "lattice": {}}, "lacks 'a'"),
        "flat": ({**s, "lattice": {"matrix": [[0, 0, 0]] * 3}}, "volume"),
        "nan": (nan, "not a finite number"),
        "disordered": ({**s, "sites": [half]}, "is disordered"),
        "dummy": ({**s, "sites": [dummy]}, "unknown element 'Xx'"),
        "bad site": ({**s, "sites": [3]}, "is no pymatgen structure"),
        "text": ("hello", "can't be read as CIF"),
        "bad inner text": ({"structure": "{"}, ""),
        "html": ("<html>", "HTML"),
    }


@pytest.mark.parametrize("kind", broken_json({"sites": [{}]}).keys())
def test_json_records_that_are_no_structure(tmp_path, structure, kind):
    good = structure.as_dict()
    bad, reason = broken_json(good)[kind]
    (tmp_path / "x.json").write_text(json.dumps([{**good, "id": "a"}, bad]))
    crystals = read(tmp_path / "x.json")
    assert crystals.ids == ("a",)
    ((file, why),) = crystals.failures
    assert file == "x.json entry 2"
    assert reason in why


# --- our own, and how reading runs -----------------------------------------------------------


def test_npz(tmp_path):
    batch = random_crystals(3).with_failures([Failure("a.cif", "is empty")])
    write(batch, tmp_path / "x.NPZ")
    back = read(tmp_path / "x.NPZ")
    assert back.sha256() == batch.sha256()
    assert back.failures == batch.failures


def test_all_cores_read_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_CHUNK", 4)
    batch = random_crystals(40)
    write(batch, tmp_path / "set")
    (tmp_path / "set/broken.cif").write_text("data_x")
    alone = read(tmp_path / "set", workers=1)
    monkeypatch.setattr(reading, "_PATIENCE", 0)
    together = read(tmp_path / "set", workers=2)
    assert together.ids == alone.ids
    assert together.failures == alone.failures
    np.testing.assert_array_equal(together.frac_coords, alone.frac_coords)
    np.testing.assert_array_equal(together.lattices, alone.lattices)
    assert together.sha256() == alone.sha256()


SCRIPT = """
import sys
from crysmetrics.io import read, reading
reading._CHUNK, reading._PATIENCE = 4, 0
print(len(read(sys.argv[1], workers=2)))
"""


def test_script_without_a_main_guard(tmp_path):
    write(random_crystals(20), tmp_path / "set.zip")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "set.zip")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("20\n", 0), done.stderr


def test_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_CHUNK", 4)
    monkeypatch.setattr(reading, "_PATIENCE", 0)
    write(random_crystals(12), tmp_path / "set.zip")
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(len(read(tmp_path / "set.zip", workers=2))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [12, 12]


def test_other_people_s_files_equal_ours(tmp_path):
    from ase.io import write as ase_write
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.io.vasp import Poscar

    batch = random_crystals(5)
    write(batch, tmp_path / "ours")
    for name, structure in zip(batch.ids, batch.to_pymatgen(), strict=True):
        text = Poscar(structure).get_str(significant_figures=12)
        (tmp_path / f"{name}.vasp").write_text(text)
        ase_write(tmp_path / f"{name}.xyz", AseAtomsAdaptor.get_atoms(structure), format="extxyz")
    ours = read(tmp_path / "ours")
    for k, name in enumerate(batch.ids):
        assert_same(read(tmp_path / f"{name}.xyz"), ours[k], 1e-5)
        assert read(tmp_path / f"{name}.vasp").element_counts.tolist() == (
            ours[k].element_counts.tolist()
        )
