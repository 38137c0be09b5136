"""Bad contents of a file, and ids used twice: named failures, or one clear sentence."""

from __future__ import annotations

import gzip
import json
import zipfile

import numpy as np
import pytest
from bad_input import GOOD, reason_beside_good, sentence
from sets import random_crystals

from crysmetrics.io import MAX_ATOMS, parsing, read
from crysmetrics.io.formats.cif import p1_cif

# --- contents of a file ----------------------------------------------------------------------

SYMMETRIC = """\
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
'-x, -y, -z'
"""


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def with_length(value: str) -> str:
    (line,) = (line for line in GOOD.split("\n") if line.startswith("_cell_length_a"))
    return GOOD.replace(line, f"_cell_length_a {value}")


CONTENTS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "is empty"),
    "blank": (" \n\n\t", "is empty"),
    "blank with mark": (b"\xef\xbb\xbf\n", "is empty"),
    "truncated in a row": (GOOD[:-20], "can't be read as CIF (line "),
    "truncated between rows": (
        GOOD[: GOOD.index("  Cl")],
        "has 1 atoms where its formula states 2",
    ),
    "truncated before the sites": (GOOD[: GOOD.index("loop_")], "holds no atom sites"),
    "truncated head": (GOOD[:10], "holds no atom sites"),
    "no sites": (GOOD[: GOOD.index("  Na")], "holds no atom sites"),
    "HTML": ("<!DOCTYPE html>\n<html><body>404</body></html>", "is an HTML or XML page"),
    "HTML after blanks": ("\n\n  <html>", "is an HTML or XML page"),
    "XML": ('<?xml version="1.0"?>', "is an HTML or XML page"),
    "NaN position": (changed("0.5000000000  0.5", "nan  0.5"), "position that is not a finite"),
    "infinite position": (
        changed("0.5000000000  0.5", "inf  0.5"),
        "position that is not a finite",
    ),
    "huge position": (changed("0.5000000000  0.5", "1e999  0.5"), "position that is not a finite"),
    "NaN cell": (with_length("nan"), "has a cell that is not finite"),
    "infinite cell": (with_length("1e400"), "has a cell that is not finite"),
    "zero length": (with_length("0.0"), "has a cell length that is not positive (0 Å)"),
    "negative length": (with_length("-4"), "has a cell length that is not positive (-4 Å)"),
    "tiny volume": (with_length("1e-9"), "has a cell of (almost) no volume"),
    "huge volume": (with_length("1e308"), "has a cell too large for floating-point"),
    "unknown element": (changed("  Na  Na0", "  Zz  Zz0"), "holds an unknown element 'Zz'"),
    "disordered": (changed("0.5000000000  1", "0.5000000000  0.5"), "is disordered: a site Cl"),
    "two structures in place of one": (
        GOOD.replace("loop_", SYMMETRIC + "loop_", 1).replace("0.5000000000", "0.0000000000"),
        "",
    ),
    "UTF-16 without a mark": (GOOD.encode("utf-16-le"), "is a binary file, not text"),
    "half a character of UTF-16": (GOOD.encode("utf-16")[:-1], "is not text: byte 0x0a at"),
    "binary": (bytes(range(32)) * 20, "is a binary file, not text"),
    "noise": (np.random.default_rng(0).bytes(1000), "is not text"),
    "prose": ("The structure of rock salt is well known.", "can't be read as CIF (line 1"),
    "damaged gzip": (gzip.compress(GOOD.encode())[:-30], "is a damaged gzip file"),
    "gzip with a wrong sum": (
        gzip.compress(GOOD.encode())[:-8] + bytes(8),
        "is a damaged gzip file",
    ),
    "gzip of noise": (b"\x1f\x8b" + bytes(100), "is a damaged gzip file"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_bad_contents(tmp_path, kind):
    content, wanted = CONTENTS[kind]
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "bad.cif").write_bytes(data)
    assert wanted in sentence(tmp_path / "bad.cif")
    assert wanted in sentence(tmp_path)
    reason = reason_beside_good(tmp_path, "bad.cif")
    assert wanted in reason
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("bad.cif", data)
        archive.writestr("good.cif", GOOD)
    assert read(tmp_path / "x.zip").failures == (("bad.cif", reason),)


@pytest.mark.parametrize("name", ["x.vasp", "x.xyz", "x.json"])
@pytest.mark.parametrize(
    "kind", ["empty", "blank", "HTML", "binary", "noise", "prose", "UTF-16 without a mark"]
)
def test_bad_contents_of_other_formats(tmp_path, name, kind):
    content, _ = CONTENTS[kind]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert sentence(tmp_path / name).startswith(f"{tmp_path / name} ")


@pytest.fixture(scope="module")
def large_cif() -> str:
    return p1_cif(random_crystals(1, atoms=(10_000, 10_000)))


def test_ten_thousand_atoms(tmp_path, large_cif):
    (tmp_path / "bad.cif").write_text(large_cif)
    reason = reason_beside_good(tmp_path, "bad.cif")
    assert reason == f"has 10000 atoms, more than the {MAX_ATOMS} allowed"
    assert read(tmp_path, max_atoms=None).num_atoms.tolist() == [10_000, 2]
    assert read(tmp_path, max_atoms=10_000).num_atoms.tolist() == [10_000, 2]
    assert "more than the 1 allowed" in sentence(tmp_path, max_atoms=1)


def test_large_cells_with_an_error_in_the_syntax_are_still_bounded(tmp_path, large_cif):
    broken = f"words before it\n{large_cif}"
    (tmp_path / "bad.cif").write_text(broken)
    reason = reason_beside_good(tmp_path, "bad.cif")
    assert reason == f"has 10000 atoms, more than the {MAX_ATOMS} allowed"


# --- ids -------------------------------------------------------------------------------------


def test_duplicate_ids_in_a_table(tmp_path, monkeypatch):
    rows = [f'{name},"{GOOD}"' for name in ("a", "b", "a", "c", "a")]
    (tmp_path / "x.csv").write_text("\n".join(["material_id,cif", *rows]))
    for chunk in (1, 2, 200):  # within a chunk and across them
        monkeypatch.setattr(parsing, "_CHUNK", chunk)
        crystals = read(tmp_path / "x.csv")
        assert crystals.ids == ("a", "b", "c")
        reason = "has the id 'a', already used by x.csv row 1 (a)"
        assert crystals.failures == (("x.csv row 3 (a)", reason), ("x.csv row 5 (a)", reason))


def test_a_failure_does_not_use_up_its_id(tmp_path, monkeypatch):
    bad = GOOD.replace("0.5000000000  0.5", "nan  0.5")
    (tmp_path / "x.csv").write_text(f'id,cif\na,"{bad}"\na,"{GOOD}"\n')
    for chunk in (1, 200):
        monkeypatch.setattr(parsing, "_CHUNK", chunk)
        crystals = read(tmp_path / "x.csv")
        assert crystals.ids == ("a",)
        assert [f.file for f in crystals.failures] == ["x.csv row 1 (a)"]


def test_duplicate_ids_in_json(tmp_path):
    record = json.dumps(GOOD)
    (tmp_path / "x.json").write_text(f'{{"a": {record}, "b": {record}, "a": {record}}}')
    crystals = read(tmp_path / "x.json")
    assert crystals.ids == ("a", "b")
    (failure,) = crystals.failures
    assert failure.file == "x.json entry 3"
    assert failure.reason == "has the id 'a', already used by x.json entry 1"


def test_duplicate_ids_in_frames(tmp_path):
    frame = '1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 id=a\nPo 0 0 0\n'
    (tmp_path / "x.xyz").write_text(frame * 2)
    assert read(tmp_path / "x.xyz").failures[0].file == "x.xyz frame 2"


def test_duplicate_names_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.cif", GOOD)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.cif", GOOD)
    crystals = read(tmp_path / "x.zip")
    assert len(crystals) == 1
    assert "already used by a.cif" in crystals.failures[0].reason
