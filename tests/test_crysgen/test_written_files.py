"""Files that people go on with: formats, cells, pictures, the page of candidates, notebooks."""

from __future__ import annotations

import csv
import re
import shutil

import numpy as np
import pytest
from fake_model import FakeModel, use
from pages import Outline, fits, viewed
from sets import one

import crysgen
from crysgen.candidates_page import MOST_SHOWN
from crysgen.columns import COLUMNS
from crysgen.compositions.formulas import parse_formula
from crysgen.generation import run
from crysgen.output import open_run
from crysgen.proposers.base import build_methods
from crysgen.requests import ask_formulas, request_record
from crysgen.result_notes import is_high_entropy
from crysgen.settings import Resources, SamplingSettings
from crysmetrics.errors import UserError
from crysmetrics.io import Crystals, read
from crysmetrics.reporting.pictures import crystal_svg
from crysmetrics.symmetry import space_groups

RESOURCES = Resources(device="cpu", workers=1, cache="off")


def retrieved(texts, count, folder=None, overwrite=False, **settings):
    """Proposals of the library for some formulas, in memory or in a folder."""
    chosen = SamplingSettings(method="retrieval", energies=False, library="benchmark", **settings)
    if folder is None:
        return crysgen.generate(texts, count, settings=chosen, resources=RESOURCES)
    requests = ask_formulas([parse_formula(text) for text in texts], count)
    methods = build_methods(requests, chosen, RESOURCES)
    record = {"request": request_record(requests, methods, chosen)}
    with open_run(folder, record, overwrite) as (store, _):
        return run(requests, methods, chosen, RESOURCES, store)


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_every_format_holds_the_same_crystals_and_folders_are_read_once(tmp_path):
    folder = tmp_path / "out"
    result = retrieved(["NaCl"], 3, folder, formats=("extxyz", "cif", "poscar"), pictures=True)
    stems = [f"NaCl_000{k}" for k in (1, 2, 3)]
    suffixes = (".cif", ".vasp", ".extxyz", ".svg")
    assert names_in(folder) == {
        *("samples.csv", "request.json", "candidates.html"),
        *(stem + suffix for stem in stems for suffix in suffixes),
    }
    with (folder / "samples.csv").open() as file:
        assert [row["file"] for row in csv.DictReader(file)] == [f"{s}.cif" for s in stems]
    whole = read(folder)
    assert whole.ids == tuple(stems)
    for archive in ("zip", "gztar"):
        packed = shutil.make_archive(str(tmp_path / "packed"), archive, folder)
        assert read(packed).ids == tuple(stems)
    for suffix in suffixes[:3]:
        for k, stem in enumerate(stems):
            crystal = read(folder / (stem + suffix))
            assert sorted(crystal.atomic_numbers) == sorted(result.crystals[k].atomic_numbers)
            np.testing.assert_allclose(crystal.volumes, result.crystals.volumes[k], rtol=1e-6)
    # What is replaced goes with all its formats.
    retrieved(["NaCl"], 2, folder, overwrite=True)
    assert names_in(folder) == {
        *("samples.csv", "request.json", "candidates.html"),
        *(f"{stem}.cif" for stem in stems[:2]),
    }


def test_files_of_equal_stems_elsewhere_are_different_structures(tmp_path):
    folder = tmp_path / "out"
    retrieved(["NaCl"], 2, folder, formats=("cif", "poscar"))
    (folder / "samples.csv").unlink()
    assert len(read(folder)) == 4


@pytest.mark.parametrize(("cell", "atoms"), [("primitive", 2), ("conventional", 8), (None, 2)])
def test_cells_are_those_asked_for(tmp_path, cell, atoms):
    folder = tmp_path / "out"
    result = retrieved(["NaCl"], 1, folder, cell=cell)
    assert result.table.num_atoms.tolist() == [atoms]
    assert result.table.space_group.tolist() == [225]
    made = read(folder)
    assert made.num_atoms.tolist() == [atoms]
    assert space_groups(made, 1e-4).tolist() == [225]
    assert made.volumes[0] / atoms == pytest.approx(result.table.volume_per_atom[0], abs=1e-4)


def test_a_primitive_cell_of_a_space_group_is_primitive_and_of_that_group():
    result = retrieved(["TiO2"], 4, cell="primitive", space_group=136)
    assert set(result.table.space_group) == {136}
    assert result.table.num_atoms[0] == 6


@pytest.mark.parametrize(
    "settings",
    [{"cell": "niggli"}, {"formats": ("pdf",)}, {"formats": ()},
     {"cell": "primitive", "symmetrize": False}],
)  # fmt: skip
def test_what_can_not_be_written_is_refused(settings):
    with pytest.raises(UserError):
        SamplingSettings(**settings)


def test_results_are_sequences_with_structures_of_pymatgen_and_ase():
    result = retrieved("NaCl", 3)
    assert len(result) == 3
    assert [s.composition.reduced_formula for s in result] == ["NaCl"] * 3
    assert result[0].get_space_group_info()[1] == result.table.space_group[0]
    assert result[-1] is result.structures[2]
    assert len(result[:2]) == 2
    assert result[0].properties["file"] == "NaCl_0001.cif"
    for atoms, structure in zip(result.atoms, result.structures, strict=True):
        np.testing.assert_allclose(atoms.cell.array, structure.lattice.matrix)
        np.testing.assert_allclose(atoms.get_scaled_positions(), structure.frac_coords % 1)
        assert atoms.info["rank"] == structure.properties["rank"]
    assert list(result.table.columns) == list(COLUMNS)
    html = result._repr_html_()
    assert html.count("<svg") == 3
    assert "Fm-3m (225)" in html


def test_the_page_shows_every_candidate_with_its_reasons(tmp_path):
    result = retrieved(["NaCl", "Li2O"], 2, tmp_path / "out", formats=("cif", "poscar"))
    page = (tmp_path / "out" / "candidates.html").read_text()
    assert page.count("<article>") == 4
    assert "The structure of" in page
    assert 'href="Li2O_0002.vasp"' in page
    assert "predicted" in page
    assert re.search(r'(src|href)="https?:', page) is None
    assert result.to_html().count("<article>") == 4


def test_the_page_is_well_formed(tmp_path):
    retrieved(["NaCl", "Li2O"], 2, tmp_path / "out")
    outline = Outline((tmp_path / "out" / "candidates.html").read_text())
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert all((tmp_path / "out" / link).exists() for link in outline.links)


@pytest.mark.parametrize(("width", "scheme"), [(1200, "dark"), (390, "light")])
def test_the_page_in_a_browser(browser, tmp_path, width, scheme):
    retrieved(["NaCl"], 2, tmp_path / "out")
    fits(browser, tmp_path / "out" / "candidates.html", width, scheme)
    for button in browser.find_elements("css selector", "[data-cell]"):
        browser.execute_script("arguments[0].click()", button)
        assert viewed(browser, "viewer")[0] > 50, "an empty viewer has one colour"
        browser.execute_script("document.getElementById('turning').close()")
    assert browser.get_log("browser") == []


def test_hostile_names_do_not_leave_their_place_in_the_page(monkeypatch, tmp_path):
    name = "<script>alert(1)</script>"
    crystals = one([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], 4 * np.eye(3), name)
    given = use(monkeypatch, tmp_path, FakeModel())
    settings = SamplingSettings(model=given, method="diffusion", energies=False)
    result = crysgen.generate("NaCl", 1, settings=settings, resources=RESOURCES)
    table = result.table.assign(ref_id=name, file=name + ".cif", prototype_id=name)
    hostile = crysgen.Result(crystals, table, [], 0, (name,))
    for text in (hostile.to_html(), hostile._repr_html_()):
        assert name not in text


def test_the_page_of_a_large_run_shows_the_best_of_each_composition(monkeypatch, tmp_path):
    given = use(monkeypatch, tmp_path, FakeModel())
    settings = SamplingSettings(model=given, method="diffusion", energies=False)
    result = crysgen.generate("Li2O", MOST_SHOWN + 5, settings=settings, resources=RESOURCES)
    page = result.to_html()
    assert page.count("<article>") == MOST_SHOWN
    assert "samples.csv" in page


def test_fewer_structures_than_asked_for_are_explained():
    result = retrieved(["NaCl"], 16, space_group=225)
    assert len(result) < 16
    (note,) = result.notes
    said = re.fullmatch(
        r"(\d+) (?:different structures|structure) of space group Fm-3m \(225\) where 16 were "
        r"asked for: (?:there were (?:\d+|no other) candidates|of \d+ candidates \d+ are of that "
        r"group)(?:, and equal ones are listed once)?\.",
        note,
    )
    assert said
    assert int(said[1]) == len(result)
    assert retrieved(["NaCl"], 2).notes == ()


@pytest.mark.parametrize(
    ("formula", "expected"),
    [("CoCrFeMnNi", True), ("MgCoNiCuZnO5", True), ("TiZrNbHfTaC5", True), ("CoCrFeNi", False),
     ("LiNi8Mn1Co1O20", False), ("YBa2Cu3O7", False), ("Li2O", False)],
)  # fmt: skip
def test_solid_solutions_are_told_by_their_metals(formula, expected):
    assert is_high_entropy(parse_formula(formula)) is expected


def test_solid_solutions_are_said_to_be_ordered_cells(monkeypatch, tmp_path):
    given = use(monkeypatch, tmp_path, FakeModel())
    settings = SamplingSettings(model=given, method="diffusion", energies=False)
    result = crysgen.generate("CoCrFeMnNi", 1, settings=settings, resources=RESOURCES)
    assert "ordered cell" in result.notes[0]
    assert "ordered cell" in result.to_html()
    assert isinstance(result.crystals, Crystals)


def test_every_element_can_be_drawn():
    for z in range(1, 119):
        pair = Crystals(
            np.array([z, 1]),
            np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]),
            4 * np.eye(3)[None],
            np.array([2]),
            ("pair",),
        )
        assert "<svg" in (crystal_svg(pair) or "")
