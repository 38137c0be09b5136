"""Tables of CIFs, and JSON of pymatgen structures."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zipfile

import numpy as np
import pytest
from bad_input import sentence
from pymatgen.core import Lattice, Structure
from sets import rocksalt
from structure_files import assert_rocksalt, cif

from crysmetrics.io import json_text, read

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


# --- how tables are written ------------------------------------------------------------------

HEADERS = {
    "as published": ("material_id", "cif"),
    "blanks": (" material_id ", "  cif"),
    "capitals": ("Material_ID", "CIF"),
    "short names": ("ID", "cif_str"),
    "CIFs in a column named structure": ("id", "structure"),
}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_separators_names_and_encodings(tmp_path, separator, header, encoding):
    head = separator.join(HEADERS[header])
    rows = [f'"{name}"{separator}"# né\n{cif()}"' for name in ("0012", "é")]
    path = tmp_path / ("x.tsv" if separator == "\t" else "x.csv")
    path.write_bytes("\n".join([head, *rows, ""]).encode(encoding))
    crystals = read(path)
    assert not crystals.failures
    assert crystals.ids == ("0012", "é")
    assert_rocksalt(crystals)


def test_blanks_before_quotes_and_excel_s_first_line(tmp_path):
    (tmp_path / "x.csv").write_text(f'id, e, cif\na, 1.5, "{cif()}"\n')
    (tmp_path / "y.csv").write_text(f'sep=;\r\nid;e;cif\r\na;1.5;"{cif()}"\r\n')
    for name in ("x.csv", "y.csv"):
        crystals = read(tmp_path / name)
        assert crystals.ids == ("a",)
        assert crystals.properties["e"].tolist() == [1.5]


def test_commas_inside_a_table_of_semicolons(tmp_path):
    (tmp_path / "x.csv").write_text(f'id;a, b, c, d;cif\nx;1,5;"{cif()}"\n')
    crystals = read(tmp_path / "x.csv")
    assert crystals.ids == ("x",)
    assert crystals.properties["a, b, c, d"].tolist() == ["1,5"]


def test_structures_in_cells(tmp_path, structure):
    from pymatgen.io.vasp import Poscar

    cells = {
        "JSON": structure.to_json(),
        "dictionary": str({**structure.as_dict(), "charge": None}),
        "CIF": cif(),
        "POSCAR": Poscar(structure).get_str(),
        "extended XYZ": '1\nLattice="4 0 0 0 4 0 0 0 4"\nPo 1 2 3\n',
        "printed": str(structure),
        "code": "__import__('os').system('false')",
        "a call": "{'a': __import__('os').system('false')}",
        "nothing": "",
    }
    rows = [{"id": name, "structure": text, "n": 1} for name, text in cells.items()]
    (tmp_path / "x.csv").write_text(table(rows))
    crystals = read(tmp_path / "x.csv")
    assert crystals.ids == ("JSON", "dictionary", "CIF", "POSCAR", "extended XYZ")
    assert crystals.properties["n"].tolist() == [1] * 5
    reasons = [reason for _, reason in crystals.failures]
    assert "the text that pymatgen prints" in reasons[0]
    assert "is the text of Python objects, not of plain values" in reasons[2]
    assert reasons[3] == "is empty"


def test_named_columns(tmp_path):
    rows = [{"id": "a", "name ": "b", "cif": "data_x", " Relaxed ": cif()}]
    path = tmp_path / "x.csv"
    path.write_text(table(rows))
    assert read(path, cif_column="relaxed", id_column="name").ids == ("b",)
    assert "no column named initial (its columns: id, name, cif, Relaxed)." in sentence(
        path, cif_column="initial"
    )
    (tmp_path / "x.json").write_text(json.dumps(rows))
    assert read(tmp_path / "x.json", cif_column=" Relaxed ", id_column="name ").ids == ("b",)


# --- layouts of JSON -------------------------------------------------------------------------


def layouts(one: dict[str, object]) -> dict[str, tuple[object, tuple[str, ...]]]:
    """Two structures in the layouts that programs write, and their ids."""
    import pandas as pd

    rows = [{"material_id": name, "structure": one, "gap": 1.5} for name in ("m1", "m2")]
    frame = pd.DataFrame(rows)
    lattice, sites = one["lattice"]["matrix"], one["sites"]
    symbols = [site["species"][0]["element"] for site in sites]
    xyz, abc = [site["xyz"] for site in sites], [site["abc"] for site in sites]
    numbers = [{"Na": 11, "Cl": 17}[symbol] for symbol in symbols]
    cell = {"lengths": [3.988] * 3, "angles": [60] * 3}
    flat = {"frac_coords": abc, "atom_types": numbers, "num_atoms": 2, **cell}
    optimade = {
        "id": "m1",
        "type": "structures",
        "attributes": {
            "lattice_vectors": lattice,
            "cartesian_site_positions": xyz,
            "species_at_sites": ["sodium", "Cl"],
            "species": [
                {"name": "sodium", "chemical_symbols": ["Na"], "concentration": [1.0]},
                {"name": "Cl", "chemical_symbols": ["Cl"], "concentration": [1.0]},
            ],
            "dimension_types": [1, 1, 1],
            "nsites": 2,
        },
    }
    jarvis = {"lattice_mat": lattice, "coords": abc, "elements": symbols, "cartesian": False}
    moved = {**jarvis, "coords": xyz, "cartesian": True}
    ase = {"cell": lattice, "positions": xyz, "numbers": numbers, "pbc": [True] * 3}
    ase_arrays = {
        **ase,
        "numbers": {"__ndarray__": [[2], "int64", numbers]},
        "cell": {"array": {"__ndarray__": [[3, 3], "float64", np.ravel(lattice).tolist()]}},
    }
    named = ("m1", "m2")
    return {
        **{
            f"pandas, {orient}": (json.loads(frame.to_json(orient=orient)), named)
            for orient in ("columns", "records", "split", "table")
        },
        "pandas, index": (
            json.loads(frame.set_index("material_id").to_json(orient="index")),
            named,
        ),
        "lists of columns": ({name: list(frame[name]) for name in frame}, named),
        "monty": ({"@class": "DataFrame", "data": frame.to_json()}, named),
        **{key: ({key: rows}, named) for key in ("structures", "data", "results", "entries")},
        "structures alone": ({"structures": [one, one]}, ("x-0", "x-1")),
        "one OPTIMADE": ({"data": optimade, "meta": {}}, ("m1",)),
        "OPTIMADE": ({"data": [optimade, {**optimade, "id": "m2"}], "links": {}}, named),
        "JARVIS": ([{"jid": n, "atoms": a} for n, a in (("m1", jarvis), ("m2", moved))], named),
        "one of JARVIS": (jarvis, ("x",)),
        "ase": ({"m1": ase, "m2": ase_arrays}, named),
        "computed entries": ({"entries": [{"entry_id": "m1", "structure": one}]}, ("m1",)),
        "arrays of one": ([{**flat, "id": "m1"}, flat], ("m1", "x-1")),
        "arrays": (
            {
                "frac_coords": [*abc, *abc],
                "atom_types": [*numbers, *numbers],
                "num_atoms": [2, 2],
                **{key: [value] * 2 for key, value in cell.items()},
            },
            ("0", "1"),
        ),
        "arrays of arrays": (
            {key: [value, value] for key, value in {**flat, "num_atoms": [2]}.items()}
            | {key: [[value]] * 2 for key, value in cell.items()},
            ("0/0", "1/0"),
        ),
        "a mapping from odd ids": ({"data": one, "structures": one}, ("data", "structures")),
        "text": ({"m1": json.dumps(one), "m2": cif()}, named),
    }


@pytest.mark.parametrize(
    "layout", layouts(ROCKSALT := json.loads(rocksalt().to_pymatgen()[0].to_json()))
)
@pytest.mark.parametrize("suffix", ["json", "json.gz"])
def test_layouts_of_json(tmp_path, layout, suffix):
    data, ids = layouts(ROCKSALT)[layout]
    text = json.dumps(data).encode()
    (tmp_path / f"x.{suffix}").write_bytes(gzip.compress(text) if suffix == "json.gz" else text)
    crystals = read(tmp_path / f"x.{suffix}")
    assert not crystals.failures
    assert crystals.ids == ids
    for crystal in crystals:
        assert sorted(crystal.atomic_numbers) == [11, 17]
        assert crystal.volumes == pytest.approx(3.988**3 / 2**0.5, rel=1e-3)
        assert abs(crystal.frac_coords[1] - crystal.frac_coords[0]) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("layout", ["OPTIMADE", "JARVIS", "pandas, records", "ase", "text"])
def test_json_that_is_too_large_at_once_is_read_in_parts(tmp_path, layout, monkeypatch):
    data, ids = layouts(ROCKSALT)[layout]
    data = data["data"] if layout == "OPTIMADE" else data
    texts = {"x.json": json.dumps(data)}
    if isinstance(data, list):
        texts["x.jsonl"] = "\n".join(map(json.dumps, data))
    limit = int(0.9 * json_text.memory_of(json.dumps(data)))
    monkeypatch.setattr(json_text.too_large, "__defaults__", (limit,))
    for name, text in texts.items():
        assert json_text.too_large(text)
        (tmp_path / name).write_text(text)
        assert read(tmp_path / name).ids == ids
    table_of_columns = json.dumps(layouts(ROCKSALT)["pandas, columns"][0])
    limit = int(0.9 * json_text.memory_of(table_of_columns))
    monkeypatch.setattr(json_text.too_large, "__defaults__", (limit,))
    (tmp_path / "y.json").write_text(table_of_columns)
    assert "give it as one record a line (.jsonl)" in sentence(tmp_path / "y.json")


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ({"schema": "crysmetrics/1", "metrics": {}, "settings": {}}, "a report of crysmetrics"),
        ({"format": "crysgen-model/1", "kind": "x", "config": {}}, "the card of a model"),
        ({"@module": "pymatgen.core.structure", "sites": []}, "a molecule of pymatgen"),
        ({"@class": "Composition", "Na": 1}, "looks like pymatgen's Composition"),
        ({"errors": [{"detail": "gone"}]}, "the error message of a database"),
        ({"frac_coords": [[0, 0, 0]], "atom_types": [1]}, "but lacks num_atoms, lengths, angles"),
        ({"formula": "NaCl", "gap": 5}, "holds no structure (its fields: formula, gap)"),
        ([{"formula": "NaCl"}], "holds no structure (its fields: formula)"),
        ([[1, 2], [3, 4]], "is a list, not a structure"),
    ],
)
def test_what_json_looks_like_that_holds_no_structures(tmp_path, data, wanted):
    (tmp_path / "x.json").write_text(json.dumps(data))
    assert wanted in sentence(tmp_path / "x.json")
