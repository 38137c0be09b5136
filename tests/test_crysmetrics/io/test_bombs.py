"""Small files that ask for much: refused within bounds of memory and time, with a sentence."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bad_input import GOOD, sentence
from sets import random_crystals

from crysmetrics.io import limits, parsing, read, write

READ = """
import resource, sys, threading, time
from crysmetrics.errors import UserError
from crysmetrics.io import read
import ase, gemmi, numpy, pandas
for path in sys.argv[1:]:
    begun, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        found = repr(read(path, workers=1))
    except UserError as error:
        found = str(error)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{used / 1e3:.0f}\\t{time.process_time() - begun:.2f}\\t{found}")
"""


def measured(*paths: Path) -> list[tuple[float, float, str]]:
    """Megabytes beyond those of Python itself, seconds of work, and what `read` says, of each."""
    command = [sys.executable, "-c", READ, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t", 2) for line in done.stdout.splitlines()]
    return [(float(memory), float(seconds), text) for memory, seconds, text in rows]


def blanks(head: bytes, megabytes: int) -> bytes:
    return head + b" " * (megabytes * 1_000_000)


def zeros_npz(**members: tuple[tuple[int, ...], str]) -> bytes:
    """A packed set whose arrays are all zeros, of any size."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (shape, kind) in members.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": kind, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                left = int(np.prod(shape)) * np.dtype(kind).itemsize
                while left > 0:
                    left -= file.write(bytes(min(left, 1 << 20)))
    return buffer.getvalue()


def arrays(atoms: int, text: int) -> dict[str, tuple[tuple[int, ...], str]]:
    return {
        "atomic_numbers": ((atoms,), "|u1"),
        "frac_coords": ((atoms, 3), "<f8"),
        "lattices": ((1, 3, 3), "<f8"),
        "num_atoms": ((1,), "<i8"),
        "text": ((text,), "|u1"),
    }


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.cif", data)
    return buffer.getvalue()


def header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def long_names(count: int, length: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for k in range(count):
            archive.addfile(tarfile.TarInfo("x" * length + f"{k}.cif"))
    return buffer.getvalue()


CELL = 'Lattice="9 0 0 0 9 0 0 0 9"'
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a.cif.gz": (lambda: gzip.compress(blanks(b"data_x\n", 40)), "unpacks to more than"),
    "b.cif.xz": (lambda: lzma.compress(blanks(b"data_x\n", 40)), "unpacks to more than"),
    "c.xyz.bz2": (lambda: bz2.compress(blanks(b"1\n", 40)), "unpacks to more than"),
    "d.json.gz": (lambda: gzip.compress(blanks(b"[", 40)), "unpacks to more than"),
    "e.csv.gz": (lambda: gzip.compress(blanks(b'cif\n"', 40)), "more than"),
    "f.npz": (lambda: zeros_npz(**arrays(30_000_000, 9)), "unpacks to more than 268 MB"),
    "g.npz": (lambda: zeros_npz(**arrays(1, 60_000_000)), "its text unpacks to 60 MB"),
    "h.zip": (lambda: zipped(x=blanks(b"data_x\n", 40)), "unpacks to"),
    "i.tar.gz": (lambda: gzip.compress(long_names(400, 60_000)), "refused"),
    "j.tar": (
        lambda: header("x", tarfile.GNUTYPE_LONGNAME, 1 << 33),
        "a file name of 8,589,934,592",
    ),
    "k.tar.gz": (
        lambda: gzip.compress(b"".join(header(f"{k}.cif") for k in range(12_000))),
        "holds more than 10,",
    ),
    "l.json": (lambda: b"[" + b"[]," * 1_000_000 + b"1]", "holds more than 20,000"),
    "m.json": (lambda: b"[[" + b"{}," * 2_000_000 + b"1]]", "in one record; refused"),
    "n.jsonl": (lambda: b"1\n" * 1_000_000, "holds more than 20,000"),
    "o.json": (lambda: b"[" * 3_000_000, "nested too deeply"),
    "p.json": (lambda: b'{"a":' * 500_000, "is no JSON"),
    "q.json": (lambda: b'{"x": ' + b"9" * 4_000_000 + b"}", "is no JSON"),
    "r.csv": (lambda: b"cif\n" + b"x\n" * 1_000_000, "holds more than 20,000"),
    "s.csv": (lambda: b",".join(b"c%d" % k for k in range(200_000)), "has a header of more than"),
    "t.csv": (lambda: b"cif,\n" + b'"[[1,' * 2_100_000, "2,000,000 fields together; refused"),
    "u.xyz": (lambda: b"0\n\n" * 1_000_000, "holds more than 20,000"),
    "v.xyz": (
        lambda: b"900000\n%s\n" % CELL.encode() + b"H 0 0 0\n" * 900_000,
        "more than the 5000",
    ),
    "w.xyz": (lambda: b"1\n" + b' a="' * 1_000_000 + b"\nH 0 0 0\n", "a comment line of 4000000"),
    "x.xyz": (lambda: b"1\n" + b"9" * 4_000_000 + b"\nH 0 0 0\n", "a comment line of 4000000"),
    "y.xyz": (lambda: b"9" * 4_000_000 + b"\n\nH 0 0 0\n", "where a number of atoms should stand"),
    "z.vasp": (lambda: b"x\n1\n" + b"1 0 0\n" * 3 + b"H\n" + b"1 " * 2_000_000, "has a line of"),
    "zz.vasp": (lambda: b"x\n" + b"1" * 4_000_000 + b"\n" * 9, "has a line of"),
}


@pytest.fixture(scope="module")
def bombs(tmp_path_factory) -> dict[str, tuple[float, float, str, int]]:
    """Name -> megabytes, seconds, what `read` says, and the file's size; all in one process."""
    folder = tmp_path_factory.mktemp("bombs")
    for name, (make, _) in BOMBS.items():
        (folder / name).write_bytes(make())
    paths = [folder / name for name in BOMBS]
    return {
        path.name: (*found, path.stat().st_size)
        for path, found in zip(paths, measured(*paths), strict=True)
    }


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_within_bounds(bombs, name):
    memory, seconds, text, size = bombs[name]
    assert BOMBS[name][1] in text
    assert memory < 700
    assert seconds < 3 + size / 1e6


def test_a_set_that_compresses_well_is_read(tmp_path):
    from crysmetrics.io import Crystals

    count = 30_000
    same = Crystals(
        np.full(count, 84),
        np.zeros((count, 3)),
        np.tile(np.eye(3) * 3.3, (count, 1, 1)),
        np.ones(count, dtype=int),
        tuple(f"a rather long id of a structure {k}" for k in range(count)),
    )
    write(same, tmp_path / "x.npz")
    write(same[:200], tmp_path / "x.zip")
    assert len(read(tmp_path / "x.npz")) == count
    assert len(read(tmp_path / "x.zip")) == 200


def test_many_small_files_in_an_archive_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MEMBERS_FLOOR", 0)
    write(random_crystals(30), tmp_path / "x.zip")
    assert len(read(tmp_path / "x.zip")) == 30


def test_failures_are_named_up_to_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_FAILURES_AT_FIRST", 20)
    monkeypatch.setattr(limits, "MAX_FAILURES", 50)
    rows = "".join(f'a{k},"data_x"\n' for k in range(19))
    (tmp_path / "x.csv").write_text(f'id,cif\n{rows}good,"{GOOD}"\n{rows}')
    crystals = read(tmp_path / "x.csv")
    assert crystals.ids == ("good",)
    assert len(crystals.failures) == 38
    (tmp_path / "y.csv").write_text(f"id,cif\n{rows}{rows}")
    monkeypatch.setattr(parsing, "_CHUNK", 4)
    assert "more than 20 structures that can't be read; y.csv row" in sentence(tmp_path / "y.csv")


def test_properties_of_a_set_are_kept_up_to_a_number(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(parsing, "_MAX_PROPERTIES", 3)
    monkeypatch.setattr(parsing, "_CHUNK", 1)
    frames = [f"1\n{CELL} a{k}=1 b=2\nPo 0 0 0\n" for k in range(6)]
    (tmp_path / "x.xyz").write_text("".join(frames))
    (tmp_path / "x.jsonl").write_text(
        "\n".join(json.dumps({"cif": GOOD, f"a{k}": 1, "b": 2}) for k in range(6))
    )
    crystals = read(tmp_path / "x.jsonl")
    assert sorted(crystals.properties) == ["a0", "a1", "b"]
    assert len(crystals) == 6
    assert "More than 3 properties" in caplog.text
    assert sorted(read(tmp_path / "x.xyz").ids) == [f"x-{k}" for k in range(6)]


WHATEVER = [
    MemoryError(),
    RecursionError("maximum recursion depth exceeded"),
    OverflowError("int too large"),
    ZeroDivisionError("division by zero"),
    AssertionError(),
    KeyError("x"),
    SystemError("in C"),
    ValueError("has a\nline end"),
]


@pytest.mark.parametrize("error", WHATEVER, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("name", ["bad.cif", "bad.vasp", "bad.xyz"])
def test_whatever_a_parser_raises_is_that_file_s_failure(tmp_path, monkeypatch, error, name):
    from dataclasses import replace

    from crysmetrics.io.formats import FORMATS, searched_format

    def parse(*_: object) -> None:
        raise error

    found = searched_format(name)
    (tmp_path / "good.npz").unlink(missing_ok=True)
    (tmp_path / name).write_text("anything")
    other = "good.cif" if name != "bad.cif" else "good.vasp"
    text = GOOD if other == "good.cif" else "x\n1\n4 0 0\n0 4 0\n0 0 4\nPo\n1\nDirect\n0 0 0\n"
    (tmp_path / other).write_text(text)
    monkeypatch.setitem(FORMATS, found.name, replace(found, parse=parse))
    crystals = read(tmp_path)
    assert crystals.ids == ("good",)
    ((file, reason),) = crystals.failures
    assert file == name
    assert "\n" not in reason


def test_whatever_a_check_raises_is_that_structure_s_failure(tmp_path, monkeypatch):
    from crysmetrics.io import builder

    check = builder._why_no_crystals

    def failing(rows: list[object]) -> dict[int, str]:
        if any(row.id == "bad" for row in rows):
            raise FloatingPointError("overflow")
        return check(rows)

    monkeypatch.setattr(builder, "_why_no_crystals", failing)
    for name in ("a", "bad", "c"):
        (tmp_path / f"{name}.cif").write_text(GOOD)
    crystals = read(tmp_path)
    assert crystals.ids == ("a", "c")
    assert crystals.failures == (("bad.cif", "can't be read (FloatingPointError: overflow)"),)


@pytest.mark.parametrize(
    "number", ["9" * 400, "-" + "9" * 4000, "1e999", "NaN", "-Infinity", "9" * 5000]
)
def test_numbers_beyond_all_bounds_in_json(tmp_path, number):
    good = {"cif": GOOD, "id": "good"}
    cell = '{"lattice": {"a": %s, "b": 4, "c": 4, "alpha": 90, "beta": 90, "gamma": 90}, %s}'
    sites = '"sites": [{"species": [{"element": "Po", "occu": 1}], "abc": [0, 0, %s]}]'
    for text in (cell % (number, sites % 0), cell % (4, sites % number)):
        (tmp_path / "x.jsonl").write_text(f"{json.dumps(good)}\n{text}\n")
        crystals = read(tmp_path / "x.jsonl")
        assert crystals.ids == ("good",)
        assert crystals.failures[0].file == "x.jsonl entry 2"


def test_packed_sets_whose_names_are_no_texts(tmp_path):
    write(random_crystals(2), tmp_path / "good.npz")
    with np.load(tmp_path / "good.npz") as data:
        members = dict(data)
    text = json.loads(members["text"].tobytes())
    for key, value, reason in (
        ("properties", [5], "its properties are not all texts"),
        ("ids", ["a", 5], "its ids are not all texts"),
        ("failures", [["a"]], "its failures are not all pairs of texts"),
        ("ids", ["a"], "2 structures"),
    ):
        content = np.frombuffer(json.dumps({**text, key: value}).encode(), dtype=np.uint8)
        np.savez(tmp_path / "x.npz", **{**members, "text": content})
        assert reason in sentence(tmp_path / "x.npz")
    for name, array, reason in (
        ("frac_coords", members["frac_coords"][:1], "frac_coords is of shape (1, 3), not"),
        ("lattices", members["lattices"].ravel(), "lattices is of shape"),
        ("num_atoms", np.array([1, 1]), "num_atoms sums to 2"),
        ("atomic_numbers", members["atomic_numbers"].astype("S1"), "atomic_numbers is of type |S1"),
    ):
        np.savez(tmp_path / "x.npz", **{**members, name: array})
        assert reason in sentence(tmp_path / "x.npz")
