"""Long files: read piece by piece, with the structures of a short one, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from bad_input import GOOD
from sets import random_crystals

from crysmetrics.errors import UserError
from crysmetrics.io import cif, limits, parsing, pieces, read, write

KEPT = ("atomic_numbers", "frac_coords", "lattices", "num_atoms", "ids", "failures")


@pytest.fixture
def small_pieces(monkeypatch):
    """A file of more than 1000 bytes is read in pieces of 100 bytes, and never as a whole."""

    def refuse(*_: object) -> None:
        raise AssertionError("read as a whole")

    monkeypatch.setattr(pieces, "LONG", 1000)
    monkeypatch.setattr(pieces, "PIECE", 100)
    monkeypatch.setattr(pieces, "_LONG_LINE", 300)
    monkeypatch.setattr(cif, "MAX_BLOCK", 5000)
    monkeypatch.setattr(parsing, "load", refuse)


def written(tmp_path: Path, name: str, note: str, encoding: str) -> Path:
    write(random_crystals(12), tmp_path / f"plain_{name}")
    text = (tmp_path / f"plain_{name}").read_text()
    if name.endswith("cif"):
        text = f"# {note}\n" + text.replace("_cell_length_a", f"_note '{note}'\n_cell_length_a")
    else:
        text = text.replace("Lattice=", f'note="{note}" Lattice=')
    (tmp_path / name).write_bytes(text.encode(encoding))
    return tmp_path / name


@pytest.mark.parametrize("name", ["x.cif", "x.extxyz"])
@pytest.mark.parametrize(
    ("note", "encoding"),
    [
        ("plain", "ascii"),
        ("Ångström and 𝓐", "utf-8"),
        ("Ångström", "utf-8-sig"),
        ("Ångström", "utf-16"),
        ("Ångström", "utf-32"),
        ("Ångström", "latin-1"),
        ("“Ångström”", "cp1252"),
    ],
)
def test_long_files_have_the_structures_of_short_ones(request, tmp_path, name, note, encoding):
    path = written(tmp_path, name, note, encoding)
    wanted = read(path, workers=1)
    request.getfixturevalue("small_pieces")
    found = read(path, workers=1)
    assert len(found) == 12
    np.testing.assert_array_equal(found.frac_coords, wanted.frac_coords)
    np.testing.assert_array_equal(found.lattices, wanted.lattices)
    assert found.atomic_numbers.tolist() == wanted.atomic_numbers.tolist()
    assert found.ids == wanted.ids
    assert found.properties.keys() == wanted.properties.keys()
    if "note" in found.properties:
        assert set(found.properties["note"]) == {note}


@pytest.mark.usefixtures("small_pieces")
def test_a_long_file_that_is_no_text_says_where(tmp_path):
    (tmp_path / "x.cif").write_bytes(GOOD.encode() + b"\n#" + b" " * 2000 + b"\xff\x00\xfe" * 9)
    with pytest.raises(UserError, match=f"byte 0xff at {len(GOOD) + 2002} is not UTF-8"):
        read(tmp_path / "x.cif")


@pytest.mark.usefixtures("small_pieces")
def test_damaged_frames_of_long_files_are_named(tmp_path):
    frame = '1\nLattice="4 0 0 0 4 0 0 0 4"\nPo 0 0 0\n'
    path = tmp_path / "x.xyz"
    path.write_text(frame * 50 + "words\n" + frame * 50)
    found = read(path)
    assert len(found) == 50
    assert found.failures == (
        ("x.xyz frame 51", "has 'words' where a number of atoms should stand"),
    )
    path.write_text(frame * 50 + frame.replace("1\n", "7\n", 1))
    assert read(path).failures == (("x.xyz frame 51", "is truncated: 1 of 7 atoms"),)


def test_frames_that_are_too_long_are_refused(tmp_path, small_pieces, monkeypatch):
    from crysmetrics.io.formats import extxyz_frames

    monkeypatch.setattr(extxyz_frames, "_MAX_FRAME", 500)
    frame = '1\nLattice="4 0 0 0 4 0 0 0 4"\nPo 0 0 0\n'
    (tmp_path / "x.xyz").write_text(frame + f"{10**9}\n" + "H 0 0 0\n" * 1000)
    found = read(tmp_path / "x.xyz")
    assert len(found) == 1
    assert "what follows is not read either" in found.failures[0].reason


@pytest.mark.parametrize("content", ["blanks", "field", "lines"])
def test_memory_does_not_grow_with_a_file_that_is_refused(tmp_path, monkeypatch, content):
    """Of a block that is too long, none is held."""
    monkeypatch.setattr(pieces, "LONG", 1000)
    monkeypatch.setattr(pieces, "PIECE", 50_000)
    monkeypatch.setattr(pieces, "_LONG_LINE", 50_000)
    monkeypatch.setattr(cif, "MAX_BLOCK", 50_000)
    more = {
        "blanks": " " * 5_000_000,
        "field": "_a\n;\n" + "1 2 3\n" * 800_000,
        "lines": "x\n" * 2_500_000,
    }[content]
    path = tmp_path / "x.cif"
    path.write_text(f"data_a\n_cell_length_a 4\n{more}")
    with pytest.raises(UserError):
        read(path, workers=1)
    tracemalloc.start()
    with pytest.raises(UserError, match="data block of"):
        read(path, workers=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.parametrize("name", ["x.vasp", "x.json"])
def test_long_files_of_other_formats_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(limits, "MAX_WHOLE_BYTES", 1000)
    (tmp_path / name).write_text("x" * 2000)
    with pytest.raises(UserError, match="is too large"):
        read(tmp_path / name)


def test_wide_characters_count(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_WHOLE_MEMORY", 4 * len(GOOD))
    path = tmp_path / "x.cif"
    path.write_text(GOOD)
    assert len(read(path)) == 1
    path.write_text(GOOD + "# 𝓐\n")
    with pytest.raises(UserError, match="its text takes"):
        read(path)


BOUNDED = """
import resource, sys, tempfile
from crysmetrics.errors import UserError
from crysmetrics.io import read
import ase, gemmi, numpy, pandas
import crysmetrics.io.formats
try:
    read(sys.argv[1])
except UserError:
    pass
used = int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 10**9, used + 10**9))
for path in sys.argv[2:]:
    try:
        print(repr(read(path, workers=1)))
    except UserError as error:
        print(error)
"""

HEADS = {
    "nul.cif": "data_a\n_cell_length_a 4\n_note x",
    "field.cif": "data_a\n_cell_length_a 4\n_note\n;\n",
    "frame.xyz": "1000000000\nLattice\n",
    "comment.xyz": "1\n",
    "x.vasp": "x\n1\n4 0 0\n0 4 0\n0 0 4\nPo\n1\nDirect\n0 0 0\n",
    "x.json": '[{"a": "',
    "x.csv": "id,cif\na,",
}


@pytest.mark.slow
def test_no_file_up_to_the_limit_takes_a_gigabyte_to_be_refused(tmp_path):
    paths = []
    for name, head in HEADS.items():
        paths.append(tmp_path / name)
        with paths[-1].open("w") as file:
            file.write(head + "x" * 5000)
            # What follows takes no room on the disk.
            file.truncate(limits.MAX_TOTAL_BYTES - 1 if name == "nul.cif" else 1_300_000_000)
    for name, line in {"lines": "0.25 0.25 0.25\n", "wide": "𝓐 " * 7 + "\n"}.items():
        paths.append(tmp_path / f"{name}.cif")
        with paths[-1].open("wb") as file:
            file.write(b"data_a\n_cell_length_a 4\n")
            for _ in range(600):
                file.write(line.encode() * (1_000_000 // len(line.encode())))
    (tmp_path / "small.cif").write_text(GOOD)
    command = [sys.executable, "-c", BOUNDED, *map(str, (tmp_path / "small.cif", *paths))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == len(paths)
    for path, text in zip(paths, said, strict=True):
        assert path.name in text
        assert "memory" not in text, text
        assert "Error" not in text, text
