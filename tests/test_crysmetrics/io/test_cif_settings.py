"""Space groups that a CIF names without operations: settings, origins and axes."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest
from cif_blocks import (
    CUBIC,
    HEXAGONAL,
    RHOMBOHEDRAL,
    block,
    refused,
    result,
)

from crysmetrics.io import Failure
from crysmetrics.io.cif import parse_cif
from crysmetrics.io.cif_settings import _operations


def named(symbol: str) -> str:
    return f"_symmetry_space_group_name_H-M '{symbol}'"


@pytest.mark.parametrize("symbol", ["F d -3 m :1", "Fd-3m:1", "F d -3 m S", "Fd-3mO1", "F d 3 m:1"])
def test_first_origin(symbol):
    assert result(block("Si1 Si 0 0 0", lines=named(symbol))) == {"Si": 8}


@pytest.mark.parametrize("symbol", ["F d -3 m :2", "Fd-3m:2", "F d -3 m Z", "F_d_-3_m:2"])
def test_second_origin(symbol):
    assert result(block("Si1 Si .125 .125 .125", lines=named(symbol))) == {"Si": 8}


@pytest.mark.parametrize(
    "lines",
    [
        "_space_group_name_Hall '-F 4vw 2vw 3'",
        "_symmetry_space_group_name_Hall '-F 4vw 2vw 3'\n_space_group_IT_number 227",
        "_space_group_name_Hall '-F 4vw 2vw 3'\n" + named("F d -3 m"),
        "_space_group_IT_number 227\n_space_group_IT_coordinate_system_code 2",
        "_space_group_IT_number 227\n_chemical_formula_sum Si8",
        "_space_group_IT_number 227\n_chemical_formula_sum Si\n_cell_formula_units_Z 8",
        named("F d -3 m") + "\n_chemical_formula_sum Si\n_cell_formula_units_Z 8",
    ],
)
def test_second_origin_by_other_statements(lines):
    assert result(block("Si1 Si .125 .125 .125", lines=lines)) == {"Si": 8}


def cell_of(group) -> tuple[float, ...]:
    """A cell that a setting of gemmi's table allows."""
    system, axis = group.crystal_system_str(), group.monoclinic_unique_axis()
    if group.ext == "R":
        return RHOMBOHEDRAL
    lengths = {"cubic": (6, 6, 6), "orthorhombic": (5, 6, 7), "monoclinic": (5, 6, 7)}
    angles = {
        "triclinic": (80, 95, 105),
        "monoclinic": tuple(100 if name == axis else 90 for name in "abc"),
        "trigonal": (90, 90, 120),
        "hexagonal": (90, 90, 120),
    }
    return (*lengths.get(system, (5, 5, 7)), *angles.get(system, (90, 90, 90)))


def test_every_setting_that_gemmi_knows_is_expanded():
    import gemmi

    for group in gemmi.spacegroup_table():
        hall = f"_space_group_name_Hall '{group.hall}'"
        for lines in (named(group.xhm()), named(group.xhm().replace(" ", "")), hall):
            text = block("Si1 Si 0.1234 0.2345 0.4456", cell=cell_of(group), lines=lines)
            assert result(text) == {"Si": len(list(group.operations()))}, group.xhm()


@pytest.mark.parametrize("number", range(2, 231, 12))
def test_standard_settings_are_pymatgen_s(number):
    import gemmi
    from pymatgen.symmetry.groups import SpaceGroup

    group = SpaceGroup.from_int_number(number)
    setting = gemmi.find_spacegroup_by_number(number)
    for lines in (named(group.symbol), f"_space_group_IT_number {number}"):
        text = block("Si1 Si 0.1234 0.2345 0.4456", cell=cell_of(setting), lines=lines)
        if setting.ext in ("1", "2"):
            refused(text, "which of its settings or origins")
            continue
        (found,) = parse_cif(text, "x.cif")
        assert not isinstance(found, Failure)
        orbit = np.array(group.get_orbit([0.1234, 0.2345, 0.4456]))
        delta = np.asarray(found.frac_coords)[:, None] - orbit
        assert len(orbit) == delta.shape[0]
        assert np.abs(delta - np.round(delta)).max(axis=2).min(axis=1).max() < 1e-6


@pytest.mark.parametrize("symbol", ["F d -3 m", "P 4/n m m", "P n -3 m", "I 41/a m d", "P n n n"])
def test_an_origin_that_is_left_open_is_refused(symbol):
    cell = CUBIC if "3" in symbol else (4.0, 4.0, 7.0, 90, 90, 90)
    text = block("Si1 Si 0.1 0.2 0.3", cell=cell, lines=named(symbol))
    refused(text, "which of its settings or origins")
    assert isinstance(result(text.replace(symbol, f"{symbol}:1")), dict)


def test_multiplicities_tell_the_origin():
    text = block("Si1 Si .125 .125 .125 8", lines=named("F d -3 m"))
    text = text.replace("fract_z\n", "fract_z\n_atom_site_symmetry_multiplicity\n")
    assert result(text) == {"Si": 8}


@pytest.mark.parametrize("lines", [named("R -3 m"), named("R-3mR"), "_space_group_IT_number 166"])
def test_rhombohedral_axes_by_the_cell(lines):
    site = "Bi1 Bi 0.234 0.234 0.234"
    assert result(block(site, cell=RHOMBOHEDRAL, lines=lines)) == {"Bi": 2}


@pytest.mark.parametrize(
    "lines", [named("R -3 m"), named("R -3 m :H"), named("R -3 m H"), "_space_group_IT_number 166"]
)
def test_hexagonal_axes_by_the_cell(lines):
    assert result(block("Bi1 Bi 0 0 0.234", cell=HEXAGONAL, lines=lines)) == {"Bi": 6}


@pytest.mark.parametrize(
    ("symbol", "cell"),
    [
        ("R -3 m :H", RHOMBOHEDRAL),
        ("R -3 m :R", HEXAGONAL),
        ("R -3 m", (4.0, 5.0, 6.0, 90, 90, 90)),
        ("F m -3 m", HEXAGONAL),
        ("P 4/m m m", (4.0, 4.5, 6.0, 90, 90, 90)),
        ("P 21/c", (4.0, 4.5, 6.0, 80, 100, 90)),
    ],
)
def test_cells_without_the_symmetry_of_the_group_are_refused(symbol, cell):
    refused(block("Bi1 Bi 0.1 0.2 0.3", cell=cell, lines=named(symbol)), "without the symmetry")


def test_unique_axis_by_the_cell():
    for angles in ((90, 100, 90), (90, 90, 100), (100, 90, 90)):
        cell = (4.0, 5.0, 6.0, *angles)
        for lines in (named("P 2"), "_space_group_IT_number 3", named("P 21/n")):
            found = result(block("Bi1 Bi 0.1 0.2 0.3", cell=cell, lines=lines))
            assert found == {"Bi": 4 if "21/n" in lines else 2}


def test_statements_that_contradict_each_other_are_settled_by_the_formula():
    lines = f"{named('P 1')}\n_symmetry_Int_Tables_number 225"
    refused(block("Na1 Na 0 0 0", lines=lines), "which of its settings")
    assert result(block("Na1 Na 0 0 0", lines=f"{lines}\n_chemical_formula_sum Na4")) == {"Na": 4}
    assert result(block("Na1 Na 0 0 0", lines=f"{lines}\n_chemical_formula_sum Na1")) == {"Na": 1}


@pytest.mark.parametrize(
    "change", ["(1 5 -7)", "(13 0 2)", "(0 2)", "(y,-x+1/24,z-1/8)", "(x,y,z)"]
)
def test_operations_about_another_origin_are_gemmi_s(change):
    symbols = ("P 1", "-F 4 2 3", "F 4d 2 3 -1d", "P 65 2 (0 0 1)", '-R 3 2"c', "-C 2yc")
    for symbol in symbols:
        hall = f"{symbol.partition(' (')[0]} {change}"
        operations = _operations(hall)
        wanted = [(op.rot, op.tran) for op in gemmi.symops_from_hall(hall)]
        scale = gemmi.Op.DEN
        rotations = np.array([rotation for rotation, _ in wanted]) / scale
        translations = np.array([translation for _, translation in wanted]) % scale / scale
        np.testing.assert_array_equal(operations.rotations.matrices, rotations)
        np.testing.assert_array_equal(operations.translations, translations)
