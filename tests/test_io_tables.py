"""Tables of CIFs, and JSON of pymatgen structures."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zipfile

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from structure_files import assert_rocksalt, cif

from crysmetrics.io import read

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
        "number": (3, "is a number, not a structure"),
        "null": (None, "is null, not a structure"),
        "nothing": ({}, "holds no structure"),
        "molecule": ({"sites": s["sites"]}, "looks like a molecule"),
        "no sites": ({**s, "sites": []}, "has no atoms"),
        "list as lattice": ({**s, "lattice": [1, 2, 3]}, "is no structure that can be read"),
        "empty lattice": ({**s, "lattice": {}}, "lacks 'a'"),
        "flat": ({**s, "lattice": {"matrix": [[0, 0, 0]] * 3}}, "volume"),
        "nan": (nan, "not a finite number"),
        "disordered": ({**s, "sites": [half]}, "is disordered"),
        "dummy": ({**s, "sites": [dummy]}, "unknown element 'Xx'"),
        "bad site": ({**s, "sites": [3]}, "is no structure that can be read"),
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
