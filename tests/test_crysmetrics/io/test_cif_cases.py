"""CIFs that were read wrongly once: what each is, or why it can't be told.

The small files of `data/cases` are made for this purpose after public bug reports.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from cif_blocks import (
    CASES,
    CUBIC,
    HEAD,
    SALT,
    SITES,
    block,
    labelled,
    refused,
    result,
)

from crysmetrics.io import Failure
from crysmetrics.io.cif import parse_cif


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
        ("formula_inf", "states a formula with more than 1e+09 atoms"),
        ("m009_009_sym-huge-trunc", "holds no atom sites"),
        ("m021_039_num-num-any", "has cell angles that close no cell"),
        ("m048_010_any-any", "states a formula with more than 1e+09 atoms"),
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
    from crysmetrics.io.cif_orbits import first_of_its_place

    rng = np.random.default_rng(0)
    places = np.concatenate([np.full((20_000, 3), 0.25), 0.5 + 4e-5 * rng.random((20_000, 3))])
    first = first_of_its_place(places)
    assert first.sum() == 2
    assert first[0]
    assert first[20_000]
    few = np.concatenate([rng.random((300, 3)), [[0, 0, 0], [0.99999, 0, 1], [1e-5, 1, 0]]])
    assert first_of_its_place(few).tolist() == [True] * 301 + [False] * 2
