"""CIFs that were read wrongly once: what each is, or why it can't be told.

The small files of `data/cases` are made for this purpose after public bug reports.
"""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from places import DATA

from crysmetrics.io import Failure
from crysmetrics.io.cif import parse_cif
from crysmetrics.io.elements import SYMBOLS

CASES = DATA / "cases"

HEAD = """\
data_x
_cell_length_a {0}
_cell_length_b {1}
_cell_length_c {2}
_cell_angle_alpha {3}
_cell_angle_beta {4}
_cell_angle_gamma {5}
"""
SITES = """\
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
"""
CUBIC = (5.4, 5.4, 5.4, 90, 90, 90)
HEXAGONAL = (4.5, 4.5, 11.0, 90, 90, 120)
RHOMBOHEDRAL = (4.7, 4.7, 4.7, 57, 57, 57)


def block(*sites: str, cell: tuple[float, ...] = CUBIC, lines: str = "") -> str:
    """A CIF of sites like "Na1 Na 0 0 0", with other lines before them."""
    return HEAD.format(*cell) + lines + "\n" + SITES + "\n".join(sites) + "\n"


def labelled(*labels: str, lines: str = "") -> str:
    """A CIF of sites without type symbols."""
    head = SITES.replace("_atom_site_type_symbol\n", "")
    rows = [f"{label} {0.1 * k:.1f} 0 0" for k, label in enumerate(labels)]
    return HEAD.format(*CUBIC) + lines + "\n" + head + "\n".join(rows) + "\n"


def result(text: str) -> dict[str, int] | str:
    """Atoms by symbol of the only structure, or the reason of its failure."""
    (found,) = parse_cif(text, "x.cif", max_atoms=5000)
    if isinstance(found, Failure):
        return found.reason
    counts = Counter(np.asarray(found.numbers).tolist())
    return {SYMBOLS[z]: count for z, count in counts.items()}


def refused(text: str, why: str) -> None:
    reason = result(text)
    assert isinstance(reason, str), reason
    assert why in reason


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("c01_round3dec_hcp", {"Mg": 2}),
        ("c01b_round3dec_hcp_formula", {"Mg": 2}),
        ("c06c_fd3m_colon1", {"Si": 8}),
        ("c06d_fd3m_colon2", {"Si": 8}),
        ("c06f_hall_only", {"Si": 8}),
        ("c06i_r3m_rhomb_R", {"Bi": 2}),
        ("c10b_cell_in_global", {"Cs": 1, "Cl": 1}),
        ("c10g_dotted", {"Cs": 1, "Cl": 1}),
        ("c10j_markdown", {"Cs": 1, "Cl": 1}),
        ("c11a_missing_H", "none of H"),
        ("c_OH1_with_ops", "implicit hydrogens"),
        ("d04_mixed_comma_plus", "is disordered"),
        ("d16_noops_label_only_OH", "implicit hydrogens"),
        ("d21_syntaxerr_2H", "holds an unknown element '2H'"),
        ("d22_syntaxerr_trunc", "has 1 atoms where its formula states 2"),
        ("d28_fd3m_origin2_bare", {"Si": 8}),
        ("d31_r3m_rhomb_formula", {"Bi": 2}),
        ("d32_r3c_rhomb_it", {"La": 2, "Al": 2, "O": 6}),
        ("formula_inf", "has 2 atoms where its formula states inf"),
        ("m009_009_sym-huge-trunc", "holds no atom sites"),
        ("m021_039_num-num-any", "has cell angles that close no cell"),
        ("m048_010_any-any", "has 8 atoms where its formula states inf"),
        ("m164_011_sg", "has a cell without the symmetry of its space group 'F m -3 m'"),
    ],
)
def test_cases(name, wanted):
    text = (CASES / f"{name}.cif").read_text()
    if isinstance(wanted, str):
        refused(text, wanted)
    else:
        assert result(text) == wanted


def test_only_the_mixed_block_of_several_fails():
    first, second = parse_cif((CASES / "d34_multi_block_mixed.cif").read_text(), "x.cif")
    assert not isinstance(first, Failure)
    assert isinstance(second, Failure)
    assert "is disordered" in second.reason


def test_long_formula_of_every_block_is_a_failure():
    found = parse_cif((CASES / "m229_021_huge-long-mult.cif").read_text(), "x.cif")
    assert [isinstance(f, Failure) for f in found] == [True] * 3


# --- formulas --------------------------------------------------------------------------------

SALT = ("Na1 Na 0 0 0", "Cl1 Cl 0.5 0.5 0.5")


@pytest.mark.parametrize(
    "lines",
    [
        "_chemical_formula_sum 'Na Cl'",
        "_chemical_formula_sum 'Cl1 Na1'",
        "_chemical_formula_sum NaCl\n_cell_formula_units_Z 1",
        "_chemical_formula_sum 'Na1 Cl1'\n_cell_formula_units_Z 4",  # Z of another cell
        "_chemical_formula_sum 'NA1 CL1'",
        "_chemical_formula_sum ?",
        "_chemical_formula_sum\n;\nNa\nCl\n;",
        "_chemical_formula_structural NaCl",
        "_chemical_formula_structural 'rock salt'",
        "_chemical_formula_moiety 'Na 1+, Cl 1-'",
        "_chemical_formula_sum ?\n_chemical_formula_moiety 'Cl -, Na +'",
        "_chemical_formula_sum 'Na0.5 Cl0.5'",
        "_chemical_formula_sum 'Na0.5 Cl0.5'\n_cell_formula_units_Z 2",
    ],
)
def test_formulas_that_agree(lines):
    assert result(block(*SALT, lines=lines)) == {"Na": 1, "Cl": 1}


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("_chemical_formula_sum 'Na2 Cl2'", "has 2 atoms where its formula states 4"),
        ("_chemical_formula_sum 'Na Cl O'", "none of O"),
        ("_chemical_formula_sum 'Na'", "has atoms of Cl"),
        ("_chemical_formula_sum 'Na Cl2'", "formula"),
        ("_chemical_formula_sum 'Na Cl H0.5'", "formula"),
        ("_chemical_formula_sum 'Na0.5 Cl0.5'\n_cell_formula_units_Z 4", "formula"),
        ("_chemical_formula_sum 'Na Cl Xx'", "unknown element"),
        ("_chemical_formula_structural 'NaCl(H2O)2'", "formula"),
        ("_chemical_formula_moiety 'Na 1+, Cl 1-, 2(H2 O)'", "formula"),
        (f"_chemical_formula_sum 'Na1 Cl{'9' * 300}'", "formula states inf"),
        (f"_chemical_formula_sum 'Na1 Cl{'9' * 100_000}'", "characters"),
    ],
)
def test_formulas_that_disagree(lines, why):
    refused(block(*SALT, lines=lines), why)


def test_more_atoms_than_stated_are_refused():
    four = [f"Na{k} Na 0 0 {k / 4}" for k in range(4)]
    assert result(block(*four, lines="_chemical_formula_sum Na\n_cell_formula_units_Z 4"))
    assert result(block(*four, lines="_chemical_formula_sum Na2"))  # any whole number of them
    refused(block(*four, lines="_chemical_formula_sum Na\n_cell_formula_units_Z 2"), "states 2")
    refused(block(*four, lines="_chemical_formula_sum Na3"), "formula")


def test_deuterium_counts_as_hydrogen():
    sites = ("O1 O 0 0 0", "D1 D 0.1 0 0", "T1 T 0 0.1 0")
    assert result(block(*sites, lines="_chemical_formula_sum 'D2 O'")) == {"O": 1, "H": 2}
    assert result(block(*sites, lines="_chemical_formula_sum 'D H O'")) == {"O": 1, "H": 2}


# --- elements --------------------------------------------------------------------------------


@pytest.mark.parametrize("symbol", ["Fe", "FE", "Fe3+", "Fe2.5+", "Fe+3", "'Fe3+'", '"Fe"', "fe"])
def test_type_symbols(symbol):
    assert result(block(f"A1 {symbol} 0 0 0")) == {"Fe": 1}


@pytest.mark.parametrize(
    "symbol",
    ["Cs+Rb", "Cs,Rb", "Cs/Rb", "0.5Cs+0.5Rb", "Fe2+Fe3+", "Fe2+,Fe3+", "'Cs + Rb'", "Na+K+"],
)
def test_type_symbols_of_several_elements_are_disordered(symbol):
    refused(block(*SALT, f"M1 {symbol} 0.1 0 0"), "is disordered")
    refused(labelled("Na1", symbol), "is disordered")


@pytest.mark.parametrize(
    "symbol", ["2H", "13C", "X", "Xx", "Vac", "M", "CsRb", "Du", "CN", "1", "#"]
)
def test_type_symbols_that_are_no_element(symbol):
    found = result(block(*SALT, f"M1 '{symbol}' 0.1 0 0"))
    assert isinstance(found, str)


@pytest.mark.parametrize(
    "symbol", ["OH", "OH1", "O-H", "NH4", "H2O", "Wat", "CH3", "OH2", "NH1", "OD1"]
)
def test_groups_with_hydrogens_are_no_atoms(symbol):
    refused(labelled("Na1", symbol), "implicit hydrogens")
    assert isinstance(result(block(*SALT, f"M1 {symbol} 0.1 0 0")), str)


@pytest.mark.parametrize(
    "label", ["X1", "Xx", "M1", "Me2", "Ln1", "Q1", "Va1", "Vac1", "Du1", "1Na", "_"]
)
def test_labels_without_an_element(label):
    assert isinstance(result(labelled("Na1", f"'{label}'")), str)


def test_labels_of_two_elements_are_disordered():
    for label in ("NaCl1", "Cs-Rb", "Fe1+Ni1"):
        refused(labelled("Na1", label), "is disordered")


def test_labels_in_capitals_follow_the_formula():
    assert result(labelled("CA1")) == {"Ca": 1}
    assert result(labelled("CA1", lines="_chemical_formula_sum C")) == {"C": 1}
    assert result(labelled("Ca1", lines="_chemical_formula_sum Ca")) == {"Ca": 1}
    refused(labelled("Ca1", lines="_chemical_formula_sum C"), "formula")
    assert result(labelled("OG1", "CF1", "NO1")) == {"O": 1, "C": 1, "N": 1}


def test_labels_stand_in_for_the_type_symbols_that_are_missing():
    assert result(block("Na1 ? 0 0 0", "M1 Cl 0.5 0.5 0.5")) == {"Na": 1, "Cl": 1}


def test_dummy_sites_are_refused():
    text = block("Na1 Na 0 0 0 d", "Cl1 Cl 0.5 0.5 0.5 dum")
    refused(text.replace("fract_z\n", "fract_z\n_atom_site_calc_flag\n"), "dummy site")


# --- settings --------------------------------------------------------------------------------


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


# --- operations and special positions ----------------------------------------------------------

HCP = (CASES / "c01_round3dec_hcp.cif").read_text()


@pytest.mark.parametrize(
    "position",
    [
        "0.333 0.667 0.25",
        "0.33 0.67 0.25",
        ".333 .667 .25",
        "0.333(1) 0.667(1) 0.25",
        "-.667 -.333 1.25",
    ],
)
def test_rounded_thirds_give_each_atom_once(position):
    (found,) = parse_cif(HCP.replace("0.333 0.667 0.25", position), "x.cif")
    assert not isinstance(found, Failure)
    frac = np.asarray(found.frac_coords) % 1
    np.testing.assert_allclose(sorted(frac[:, 0]), [1 / 3, 2 / 3], atol=1e-9)


@pytest.mark.parametrize(("x", "y"), [("0.157", "0.313"), ("0.167", "0.333"), ("0.1565", "0.3131")])
def test_rounded_positions_on_mirrors_give_each_atom_once(x, y):
    assert result(HCP.replace("0.333 0.667 0.25", f"{x} {y} 0.25")) == {"Mg": 6}


def test_sites_of_different_rounding():
    rows = "Mg2 Mg 0 0 0.12345 1\nMg1 Mg 0.333 0.667 0.25 1"
    assert result(HCP.replace("Mg1 Mg 0.333 0.667 0.25 1.0", rows)) == {"Mg": 6}
    rows = "Mg2 Mg 0 0 0.12345 1\nMg1 Mg 0.33 0.67 0.25 1"
    assert result(HCP.replace("Mg1 Mg 0.333 0.667 0.25 1.0", rows)) == {"Mg": 10}


def test_positions_that_rounding_does_not_explain_stay_apart():
    assert result(HCP.replace("0.333 0.667 0.25", "0.336 0.667 0.25")) == {"Mg": 12}
    assert result(HCP.replace("0.333 0.667 0.25", "0.333000 0.667000 0.250000")) == {"Mg": 6}


def with_operations(*operations: str, sites: tuple[str, ...] = ("Na1 Na 0.1 0.2 0.3",)) -> str:
    lines = "loop_\n_symmetry_equiv_pos_as_xyz\n" + "\n".join(f"'{o}'" for o in operations)
    return block(*sites, lines=lines)


def test_operations_in_all_spellings():
    for second in (
        "-x,-y,-z",
        "-X, -Y, -Z",
        "1/2-x,1/2-y,-z+.5",
        "-x+1/5,-y,-z",
        "\u2212x,\u2212y,\u2212z",
        "0.25-x,-y,-z",
    ):
        assert result(with_operations("x,y,z", second)) == {"Na": 2}


def test_operations_without_quotes():
    text = with_operations("x, y, z", "-x, -y, -z")
    assert result(text.replace("'", "")) == {"Na": 2}
    refused(text.replace("'x, y, z'", "x, y,"), "operation")


def test_operations_on_several_lines():
    text = with_operations("x,y,z").replace("'x,y,z'", ";\nx,y,\nz\n;\n'-x,-y,-z'")
    assert result(text) == {"Na": 2}


@pytest.mark.parametrize(
    ("operations", "why"),
    [
        (("x,y",), "where a symmetry operation should stand"),
        (("x,y,z", "x,y,q"), "where a symmetry operation should stand"),
        (("x,y,z", "x,x,z"), "no operation"),
        (("x,y,z", "2x,y,z"), "where a symmetry operation should stand"),
        (("-x,-y,-z",), "without x,y,z"),
        (("x,y,z", "-y,x,z"), "no group"),
        (("x,y,z", "x,y,z+" + "9" * 100_000), "characters"),
        (("x,y,z+1/0",), "where a symmetry operation should stand"),
        (tuple(f"x,y,z+{k}/20000" for k in range(20_000)), "20000 symmetry operations"),
    ],
)
def test_operations_that_are_none(operations, why):
    refused(with_operations(*operations), why)


def test_the_same_operation_again_makes_no_other_atom():
    assert result(with_operations("x,y,z", *["-x,-y,-z"] * 20_000, "x+1,y,z-1")) == {"Na": 2}


# --- texts -------------------------------------------------------------------------------------

PLAIN = block(*SALT)


@pytest.mark.parametrize(
    "text",
    [
        f"```\n{PLAIN}```\n",
        f"```cif\n{PLAIN}```",
        f"Sure! Here it is:\n\n```cif\n{PLAIN}```\nI hope this helps, and 1 2 3.",
        f"~~~\n{PLAIN}~~~\n",
        f"{PLAIN}```\nThe end.",
        f"```python\nprint(1)\n```\n```cif\n{PLAIN}```\n",
        f"Here you go:\n{PLAIN}",
        f"```cif\n{PLAIN}",  # cut off before the fence is closed
        PLAIN.replace("data_x", "data_x\n_chemical_name_common rock salt"),
        PLAIN.replace("data_x", "data_x\n_symmetry_space_group_name_H-M P 1"),
        PLAIN.replace("data_x", "data_x\n_journal_title 'never closed"),
        PLAIN.replace("data_x", "data_x\n_journal_title\n_journal_year 2020"),
        PLAIN.replace("data_x", "data_x\nloop_\n_publ_author_name\nloop_\n_a\n_b\n1 2 3"),
    ],
)
def test_texts_with_something_around_or_wrong_elsewhere(text):
    assert result(text) == {"Na": 1, "Cl": 1}


@pytest.mark.parametrize(
    "text",
    [
        f"words\n{PLAIN}K1 K",
        f"words\n{PLAIN.replace('0.5 0.5 0.5', '0.5 0.5')}",
        f"words\n{PLAIN}That is all there is to say",
        PLAIN + SITES + "K1 K 0 0.5 0",  # a second list of sites
        f"words\n{PLAIN}{SITES}K1 K 0 0.5 0",
        f"words\n{PLAIN.replace('Cl1 Cl', 'Cl1 Cl+Br')}",
        "words",
        "```\nwords\n```",
    ],
)
def test_errors_in_the_list_of_sites_are_failures(text):
    assert isinstance(result(text), str)


def test_several_fenced_blocks_are_several_structures():
    text = f"First:\n```cif\n{PLAIN}```\nSecond:\n```cif\n{PLAIN}```\n"
    assert [isinstance(f, Failure) for f in parse_cif(text, "x.cif")] == [False, False]


def test_a_cell_in_a_global_block_is_no_structure():
    head = HEAD.format(*CUBIC).replace("data_x", "data_global")
    assert result(head + PLAIN) == {"Na": 1, "Cl": 1}
    refused(head, "holds no atom sites")


def test_a_cell_that_only_the_global_block_has():
    head, sites = PLAIN.replace("data_x", "data_global").split("loop_")
    text = f"{head}_space_group_IT_number 225\ndata_a\nloop_{sites}"
    assert result(text) == {"Na": 4, "Cl": 4}


def test_dotted_names_of_newer_dictionaries():
    text = PLAIN.replace("_cell_", "_cell.").replace("_atom_site_", "_atom_site.")
    assert result(text) == {"Na": 1, "Cl": 1}
    lines = "_space_group.IT_number 225\n_chemical_formula.sum 'Na Cl'\n_cell.formula_units_Z 4\n"
    assert result(text.replace("data_x\n", f"data_x\n{lines}")) == {"Na": 4, "Cl": 4}
    refused(text.replace("data_x\n", "data_x\n_chemical_formula.sum 'Na3 Cl'\n"), "formula")


def test_crystal_systems_fill_in_the_cell():
    text = PLAIN.replace("_cell_length_b 5.4\n_cell_length_c 5.4\n", "")
    refused(text, "_cell_length_b is missing")
    assert result(text.replace("data_x\n", "data_x\n_symmetry_cell_setting cubic\n"))
    refused(text.replace("data_x\n", "data_x\n_symmetry_cell_setting monoclinic\n"), "missing")


def test_magnetic_operations_and_centerings():
    lines = (
        "loop_\n_space_group_symop_magn_operation.xyz\nx,y,z,+1\n-x,-y,-z,-1\n"
        "loop_\n_space_group_symop_magn_centering.xyz\nx,y,z,+1\nx+1/2,y+1/2,z+1/2,-1"
    )
    assert result(block("Fe1 Fe 0.1 0.2 0.3", lines=lines)) == {"Fe": 4}
    refused(block("Fe1 Fe 0 0 0", lines="_space_group_magn.number_BNS 1.1"), "magnetic group")


# --- limits ------------------------------------------------------------------------------------


def test_cells_are_refused_before_they_are_expanded():
    rng = np.random.default_rng(0)
    sites = ["C1 C {:.6f} {:.6f} {:.6f}".format(*x) for x in rng.random((4000, 3))]
    refused(block(*sites, lines="_space_group_IT_number 225"), "more than the 5000 allowed")
    refused(block(*sites[:40], lines="_space_group_IT_number 225"), "has 7680 atoms, more than")
    special = [f"C{k} C 0 0 {k / 100}" for k in range(1, 50)]  # 24 of 192 images are distinct
    assert result(block(*special, lines="_space_group_IT_number 225")) == {"C": 49 * 24}


LONG = 200_000


@pytest.mark.parametrize(
    "text",
    {
        "digits": block("Na1 Na 0 0 0." + "1" * LONG + "x"),
        "symbol": block("Na1 Na" + "1." * (LONG // 2) + "x 0 0 0"),
        "label": labelled("N" + "a" * LONG),
        "operation": PLAIN + f"loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z{'+1' * LONG}'\n",
        "same sites": block(*["Na1 Na 0 0 0"] * (LONG // 13), lines="_space_group_IT_number 225"),
        "near sites": block(*["Na1 Na 0.0001 0 0"] * 1200, lines="_space_group_IT_number 225"),
        "open quotes": PLAIN + "_a " + "'a " * (LONG // 3),
        "quotes": PLAIN + "_a " + "'" * LONG,
        "brackets": block("Na1 Na 0 0 0", lines=f"_chemical_formula_sum '{'(' * LONG}'"),
        "line ends": "x\n" + "\n" * LONG + PLAIN,
        "blanks": "x\n" + " " * LONG + PLAIN,
        "open text": PLAIN + "_a\n;" + "a\n" * (LONG // 2),
        "blocks": "data_a\n_cell_length_a 1 2\n" * (LONG // 26),
        "empty blocks": "x\n" + "data_\n" * (LONG // 6),
        "fences": "```\n" * (LONG // 4),
        "columns": PLAIN + "loop_\n" + "".join(f"_a{k}\n" for k in range(LONG // 8)) + "1",
        "lone surrogates": PLAIN + "# " + "\udcff" * LONG,
    }.items(),
    ids=lambda item: item[0],
)
def test_time_is_linear_in_the_length(text):
    begun = time.process_time()
    found = parse_cif(text[1], "x.cif", max_atoms=5000)
    assert found
    assert all(len(f.reason) < 300 for f in found if isinstance(f, Failure))
    assert time.process_time() - begun < 3  # a tenth of that on a machine that does nothing else


def test_coincident_sites_are_found_without_comparing_all_pairs():
    from crysmetrics.io.cif_symmetry import first_of_its_place

    rng = np.random.default_rng(0)
    places = np.concatenate([np.full((20_000, 3), 0.25), 0.5 + 4e-5 * rng.random((20_000, 3))])
    first = first_of_its_place(places)
    assert first.sum() == 2
    assert first[0]
    assert first[20_000]
    few = np.concatenate([rng.random((300, 3)), [[0, 0, 0], [0.99999, 0, 1], [1e-5, 1, 0]]])
    assert first_of_its_place(few).tolist() == [True] * 301 + [False] * 2
