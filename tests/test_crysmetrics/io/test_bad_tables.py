"""Bad tables, JSON and `.npz`: named failures, or one clear sentence."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest
from bad_input import GOOD, no_thread_dies, sentence
from sets import random_crystals, rocksalt

from crysmetrics.io import Crystals, limits, parsing, read, write

# --- tables, JSON and our own files ----------------------------------------------------------


def csv_of(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


TABLES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "is empty"),
    "header alone": ("material_id,cif\n", "holds no structures"),
    "no cif column": (
        "material_id,formula\na,b\n",
        "has no column named cif (its columns: material_id, formula); --cif-column names another.",
    ),
    "no header": (f'a,"{GOOD}"\n', "has no column named cif (its columns: a, data_NaCl _symm"),
    "bars": ("material_id|cif\na|b\n", "has no column named cif"),
    "unclosed quote": (f'id,cif\na,"{GOOD}"\nb,"data_', "is no CSV table"),
    "ragged": (f'id,cif\na,"{GOOD}"\nb,c,d,e\n', "is no CSV table"),
    "one field too many": (f'id,cif\na,"{GOOD}",x\n', "has rows with more fields than its header"),
    "binary": (np.random.default_rng(0).bytes(3000), ""),
    "NULs": (b"id,cif\n\0\0\0,\0\n", ""),
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_bad_tables(tmp_path, kind, suffix):
    content, wanted = TABLES[kind]
    data = content if isinstance(content, bytes) else content.encode()
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(gzip.compress(data) if suffix == "csv.gz" else data)
    assert wanted in sentence(path)


def test_bad_rows(tmp_path):
    rows = [b'"%s"' % GOOD.encode(), b'"\xff\x01\xff"', b"", b'"<html>"', b'"data_x"']
    lines = [b"id,e,cif", *(b"%d,1.5,%s" % (k, row) for k, row in enumerate(rows)), b"5"]
    crystals = read(csv_of(tmp_path / "x.csv", b"\n".join(lines)))
    assert crystals.ids == ("0",)
    assert crystals.failures == (
        ("x.csv row 2 (1)", "is not text: byte 0xff at 0 is not UTF-8"),
        ("x.csv row 3 (2)", "is empty"),
        ("x.csv row 4 (3)", "is an HTML or XML page, not a structure"),
        ("x.csv row 5 (4)", "holds no atom sites"),
        ("x.csv row 6 (5)", "is empty"),
    )


def test_undecodable_ids_can_be_printed(tmp_path):
    text = b'id,note,cif\na\xff,\xfe,"%s"\nb\x01\xff,x,\n' % GOOD.encode()
    crystals = read(csv_of(tmp_path / "x.csv", text))
    assert crystals.ids == ("aÿ",)  # Latin-1
    assert crystals.properties["note"].tolist() == ["þ"]
    assert crystals.failures == (("x.csv row 2 (b\x01\\udcff)", "is empty"),)
    (tmp_path / "x.json").write_text('{"\\ud800": ' + json.dumps(GOOD) + "}")
    assert read(tmp_path / "x.json").ids == (r"\ud800",)


@no_thread_dies
def test_damage_late_in_a_long_table(tmp_path, monkeypatch):
    monkeypatch.setattr(parsing, "_CHUNK", 4)
    monkeypatch.setattr(parsing, "_PATIENCE", 0)
    text = "cif\n" + f'"{GOOD}"\n' * 1500 + "a,b,c\n"
    path = csv_of(tmp_path / "x.csv", text)
    before = _children()
    assert "is no CSV table" in sentence(path, workers=2)
    assert _settled(before)


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _settled(before: set[psutil.Process]) -> bool:
    """Whether the processes that parsed are gone; joblib's watchman of temporary files stays."""
    left = [
        process
        for process in _children() - before
        if "resource_tracker" not in " ".join(process.cmdline())
    ]
    return not psutil.wait_procs(left, timeout=10)[1]


@no_thread_dies
def test_interrupt_while_reading(tmp_path, monkeypatch):
    def interrupt(*_: object) -> Crystals:
        raise KeyboardInterrupt

    write(random_crystals(40), tmp_path / "x.zip")
    monkeypatch.setattr(parsing, "_CHUNK", 4)
    monkeypatch.setattr(parsing, "_PATIENCE", 0)
    monkeypatch.setattr(parsing, "_without_duplicates", interrupt)
    before = _children()
    with pytest.raises(KeyboardInterrupt):
        read(tmp_path / "x.zip", workers=2)
    assert _settled(before)


def test_id_column_that_is_not_there(tmp_path):
    path = csv_of(tmp_path / "x.csv", f'id,cif\na,"{GOOD}"\n')
    assert sentence(path, id_column="name") == f"{path} has no column named name."


@pytest.mark.parametrize("suffix", ["csv.gz", "csv.bz2", "csv.xz", "csv.zip"])
def test_damaged_compressed_tables(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    packers = {"csv.gz": gzip.compress, "csv.bz2": bz2.compress, "csv.xz": lzma.compress}
    if suffix == "csv.zip":
        path.write_bytes(b"no such thing" * 20)
    else:
        path.write_bytes(packers[suffix](f'cif\n"{GOOD}"\n'.encode())[:-20])
    assert sentence(path).startswith(f"{path} can't be read (")


def test_tables_that_are_named_as_if_they_were_compressed(tmp_path):
    path = csv_of(tmp_path / "x.csv.gz", f'cif\n"{GOOD}"\n')
    assert len(read(path)) == 1


def test_zipped_tables_of_several_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.csv.zip", "w") as archive:
        archive.writestr("a.csv", "cif\n")
        archive.writestr("b.csv", "cif\n")
    assert "holds 2 CSV files instead of one" in sentence(tmp_path / "x.csv.zip")


def test_tables_that_unpack_to_huge_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_TOTAL_BYTES", 10_000)
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"cif\n" + b"x" * 10**6))
    assert "unpacks to more than 0.01 MB; refused" in sentence(path)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON (it is nested too deeply)"),
        ('{"a": ' + "[" * 100_000, "is no JSON"),
        ("[]", "holds no structures"),
        ("{}", "holds no structures"),
        ("3", "is a number, not a structure"),
        ("1" * 5000, "is no JSON"),
        ('[1, 2, "x"', "is no JSON"),
        ("null\nnull", "is null"),
    ],
)
def test_bad_json(tmp_path, text, wanted):
    (tmp_path / "x.json").write_text(text)
    assert wanted in sentence(tmp_path / "x.json")


def test_bad_line_of_json_lines(tmp_path):
    good = json.dumps({"id": "a", "cif": GOOD})
    (tmp_path / "x.jsonl").write_text(f"{good}\n{{\n{good[:50]}\n")
    crystals = read(tmp_path / "x.jsonl")
    assert crystals.ids == ("a",)
    assert [f.file for f in crystals.failures] == ["x.jsonl entry 2", "x.jsonl entry 3"]
    assert all("is no JSON" in f.reason for f in crystals.failures)


def npz_bytes(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_bad_npz(tmp_path):
    write(rocksalt(), tmp_path / "good.npz")
    good = (tmp_path / "good.npz").read_bytes()
    text = np.frombuffer(b'{"format": "other"}', dtype=np.uint8)
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    contents = {
        "empty": b"",
        "text": b"hello",
        "truncated": good[:-100],
        "cut in half": good[: len(good) // 2],
        "flipped": good[:200] + bytes(b ^ 0xFF for b in good[200:260]) + good[260:],
        "somebody else's": npz_bytes(x=np.zeros(3)),
        "other format": npz_bytes(text=text),
        "objects": npz_bytes(text=np.array([{}], dtype=object)),
        "pickle": pickled.getvalue(),
        "npy": np.lib.format.magic(1, 0),
    }
    for name, data in contents.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(data)
        assert "is no packed set of crystals (" in sentence(path)


def test_npz_of_failures_alone(tmp_path):
    Crystals.empty([("a.cif", "is empty")]).save(tmp_path / "x.npz")
    assert sentence(tmp_path / "x.npz") == f"{tmp_path}/x.npz: a.cif is empty."
